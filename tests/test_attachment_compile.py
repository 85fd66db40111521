# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A compiled encoder sees every change of its weights, and is never compiled again for it."""

import pytest
import torch
from attachment_helpers import CASES


def compile_component(host, component, backend):
    """As users do: the encoder is wrapped, and put in its place."""
    if isinstance(host, torch.nn.Module):
        return torch.compile(host, backend=backend)
    setattr(host, component, torch.compile(getattr(host, component), backend=backend))
    return host


def compile_in_place(host, component, backend):
    (host if isinstance(host, torch.nn.Module) else getattr(host, component)).compile(backend=backend)
    return host


STEPS = {
    "load": lambda host, one, two: host.load_unlearning(one, "one"),
    "load another": lambda host, one, two: host.load_unlearning(two, "two", 0.5),
    "set": lambda host, one, two: host.set_unlearning(["one", "two"], [-1.0, 0.25]),
    "disable": lambda host, one, two: host.disable_unlearning(),
    "enable": lambda host, one, two: host.enable_unlearning(),
    "delete": lambda host, one, two: host.delete_unlearning("one"),
    "unload": lambda host, one, two: host.unload_unlearning(),
    "load again": lambda host, one, two: host.load_unlearning(one, "one"),
}


WRAPPED = [compile_component, compile_in_place]
RUNS = [(name, how, "eager", False) for name in ("sd1", "CLIPModel, text") for how in WRAPPED]
RUNS += [
    ("sdxl, second", compile_in_place, "eager", False),
    ("llava", compile_component, "eager", False),
    ("zoo's Stable Diffusion", compile_component, "aot_eager", False),
    ("zoo's LLaVA", compile_in_place, "eager", True),
    ("zoo's CLIP, vision", compile_component, "aot_eager", True),
    ("sd1", compile_component, "eager", True),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, compile, backend, loaded", RUNS)
def test_a_compiled_encoder_follows_without_a_recompilation(name, compile, backend, loaded, graphs):
    case = CASES[name]
    host, plain = case.build(), case.build()
    base = case.generate(plain)
    one, two = case.patch(plain, 1), case.patch(plain, 2)
    steps = list(STEPS.values())
    if loaded:  # compiled while a patch is on it
        for each in (host, plain):
            steps[0](each, one, two)
    host = compile(host, case.component, backend)
    for _ in range(2):  # transformers' own code is compiled again after its first run
        case.generate(host)
    compiled = graphs()
    assert compiled > 0
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in steps[loaded:]:
            step(host, one, two)
            step(plain, one, two)
            output, wanted = case.generate(host), case.generate(plain)
            assert torch.equal(output, wanted) or (backend != "eager" and torch.allclose(output, wanted, atol=1e-4))
            assert host.get_list_unlearning() == plain.get_list_unlearning()
    assert graphs() == compiled
    assert (case.generate(host) - base).abs().max() > 1e-3


def test_a_recompilation_would_be_noticed(graphs):
    # what the test above relies on: a new weight tensor of another shape is compiled for, and counted
    linear = torch.nn.Linear(2, 2)
    compiled = torch.compile(linear, backend="eager")
    compiled(torch.ones(1, 2))
    before = graphs()
    with torch._dynamo.config.patch(error_on_recompile=True), pytest.raises(torch._dynamo.exc.RecompileError):
        linear.weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
        compiled(torch.ones(1, 2, dtype=torch.float64))
    assert before > 0
