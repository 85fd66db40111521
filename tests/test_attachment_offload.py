# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Weights that accelerate or diffusers keep elsewhere: model, sequential and group offload, before or after a patch is loaded."""

import accelerate
import pytest
import torch
from accelerate.hooks import remove_hook_from_module
from attachment_helpers import CASES, assert_tensors, cast, check_group_offload, make_patch, tensors
from diffusers.hooks import HookRegistry, apply_group_offloading
from diffusers.hooks.group_offloading import ModuleGroup
from tiny_hosts import HOSTS, make_clip
from torch import nn

from hf_slug.encoders import host_modules
from hf_slug.errors import UnsupportedModelError
from hf_slug.live_weight import LiveWeight


CPU = torch.device("cpu")
GROUP = {"onload_device": CPU, "offload_device": CPU}


def model_offload(host):
    if isinstance(host, nn.Module):
        accelerate.cpu_offload_with_hook(host, execution_device=CPU)
    else:
        host.enable_model_cpu_offload(device="cpu")


def sequential_offload(host):
    # what `enable_sequential_cpu_offload` does for every component; it would name the device cpu:0, which accelerate takes amiss
    for model in host_modules(host):
        accelerate.cpu_offload(model, execution_device=CPU)


def sequential_offload_with_buffers(host):
    for model in host_modules(host):
        accelerate.cpu_offload(model, execution_device=CPU, offload_buffers=True)


def group_offload(host):
    check_group_offload()
    for model in host_modules(host):
        apply_group_offloading(model, **GROUP, offload_type="leaf_level")


def block_offload(host):
    check_group_offload()
    for model in host_modules(host):
        apply_group_offloading(model, **GROUP, offload_type="block_level", num_blocks_per_group=1)


OFFLOADS = [model_offload, sequential_offload, sequential_offload_with_buffers, group_offload, block_offload]
# every way on a pipeline and on a model, and the others' own: two encoders, no host, real size
RUNS = [(name, offload) for name in ("sd1", "llava") for offload in OFFLOADS]
RUNS += [("sdxl, second", offload) for offload in (model_offload, sequential_offload, group_offload)]
RUNS += [("CLIPModel, vision", offload) for offload in (sequential_offload, block_offload)]
RUNS += [("zoo's Stable Diffusion", block_offload), ("zoo's LLaVA", sequential_offload)]


def stop(host):
    """Takes the hooks of accelerate off, which gives the weights back; diffusers' group offload stays."""
    for model in host_modules(host):
        remove_hook_from_module(model, recurse=True)


@pytest.mark.parametrize("name, offload", RUNS)
@pytest.mark.parametrize("first", ["load", "offload"])
def test_an_offloaded_host_is_patched_like_a_plain_one(name, offload, first):
    case = CASES[name]
    host, plain = case.build(), case.build()
    base, bits = case.generate(plain), tensors(plain)
    one, two = case.patch(plain, 1), case.patch(plain, 2)
    if first == "load":
        host.load_unlearning(one, "one")
        offload(host)
    else:
        offload(host)
        assert torch.equal(case.generate(host), base)
        host.load_unlearning(one, "one")
    plain.load_unlearning(one, "one")
    assert torch.equal(case.generate(host), case.generate(plain))
    outputs = []
    for change in (
        lambda h: h.load_unlearning(two, "two", 0.5),
        lambda h: h.set_unlearning(["one", "two"], [-0.5, 2.0]),
        lambda h: h.disable_unlearning(),
        lambda h: h.enable_unlearning(),
        lambda h: h.delete_unlearning("one"),
        lambda h: h.unload_unlearning(),
        lambda h: h.load_unlearning(one, "again"),
    ):
        change(host)
        change(plain)
        outputs.append(case.generate(host))
        assert torch.equal(outputs[-1], case.generate(plain))
        assert host.get_active_unlearning() == plain.get_active_unlearning()
    assert torch.equal(outputs[2], base) and torch.equal(outputs[5], base) and not torch.equal(outputs[6], base)
    stop(host)
    assert torch.equal(case.generate(host), outputs[6])
    host.unload_unlearning()
    assert torch.equal(case.generate(host), base)
    assert_tensors(host, bits)


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("case", [CASES["sd1"], CASES["sdxl, second"], CASES["llava"]], ids=["sd1", "sdxl", "llava"])
def test_unloading_under_offload_leaves_nothing_that_breaks_its_end(case, offload):
    host = case.build()
    base, bits = case.generate(host), tensors(host)
    host.load_unlearning(case.patch(host))
    offload(host)
    host.unload_unlearning()
    stop(host)  # the hooks had taken note of the kept original
    assert torch.equal(case.generate(host), base)
    assert_tensors(host, bits)


def test_going_from_one_offload_to_another_keeps_the_patch():
    pipe, plain = HOSTS["sd1"].build(), HOSTS["sd1"].build()
    patch = make_patch(plain)
    plain.load_unlearning(patch)
    pipe.load_unlearning(patch)
    for offload in (sequential_offload, model_offload, sequential_offload_with_buffers, model_offload, group_offload):
        pipe.remove_all_hooks()
        offload(pipe)
        assert torch.equal(HOSTS["sd1"].generate(pipe), HOSTS["sd1"].generate(plain))
    pipe.unload_unlearning()
    pipe.remove_all_hooks()
    assert_tensors(pipe, tensors(HOSTS["sd1"].build()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_does_not_reach_what_is_offloaded(dtype):
    host = make_clip()
    bits = tensors(host)
    host.load_unlearning(make_patch(make_clip()))
    accelerate.cpu_offload(host, execution_device=CPU)
    host.to(dtype)
    host.unload_unlearning()
    remove_hook_from_module(host, recurse=True)
    assert_tensors(host, cast(bits, dtype))


# on disk


def disk_offload(model, folder):
    accelerate.disk_offload(model, str(folder), execution_device=CPU)


def group_offload_to_disk(model, folder):
    check_group_offload()
    apply_group_offloading(model, **GROUP, offload_type="leaf_level", offload_to_disk_path=str(folder))


@pytest.mark.parametrize(
    "offload, message", [(disk_offload, "offloaded to disk"), (group_offload_to_disk, "to disk by group")]
)
@pytest.mark.parametrize("kind", ["sd1", "CLIPModel", "llava"])
def test_weights_on_disk_are_refused(offload, message, kind, tmp_path):
    case = CASES[{"CLIPModel": "CLIPModel, vision"}.get(kind, kind)]
    host, base = case.build(), case.generate(case.build())
    patch = case.patch(host)
    for model in host_modules(host):
        offload(model, tmp_path / type(model).__name__)
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match=f"{message}.*Load"):
            host.load_unlearning(patch)
        assert torch.equal(case.generate(host), base) and host.get_list_unlearning() == {}


def test_a_patch_that_went_to_disk_with_its_weight_stays(tmp_path):
    host = make_clip()
    host.load_unlearning(make_patch(host), "a")
    generate = HOSTS["CLIPModel"].generate
    patched = generate(host)
    group_offload_to_disk(host, tmp_path)
    assert torch.equal(generate(host), patched)
    for change in (host.unload_unlearning, host.disable_unlearning):
        with pytest.raises(UnsupportedModelError, match="to disk by group"):
            change()
    assert torch.equal(generate(host), patched) and host.get_active_unlearning() == ["a"]


# group offload with streams keeps a pinned copy of every weight, which only a machine with an accelerator has


class Streamed(ModuleGroup):
    """
    A module under group offload with streams: diffusers' own bookkeeping, with a plain copy for what is sent to the accelerator.
    """

    def __init__(self, module, holder, as_parameters):
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)] if as_parameters else []
        parameters = [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]
        buffers = [tensor for tensor in tensors if not isinstance(tensor, nn.Parameter)]
        super().__init__(
            [] if as_parameters else [module], CPU, CPU, module, module, parameters, buffers, record_stream=True
        )
        self.stream = object()
        self.cpu_param_dict = {t: t.data.clone() for t in (*module.parameters(), *module.buffers())}
        self.weight = module.weight
        registry = HookRegistry.check_if_exists_or_initialize(holder)
        registry.hooks["group_offloading"] = type("Hook", (), {"group": self})()

    def _transfer_tensor_to_device(self, tensor, source, stream):
        tensor.data = source.clone()

    def onload(self):
        self._process_tensors_from_modules(self.cpu_param_dict)

    def forward_pass(self):
        """The weight that a forward pass sees."""
        self.onload()
        seen = self.weight.data
        # were one the tensor itself, it would be on the accelerator by now
        assert all(copy is not tensor for tensor, copy in self.cpu_param_dict.items())
        self._offload_to_memory()
        return seen


@pytest.mark.parametrize("name, as_parameters", [
    ("text_model.encoder.layers.1.mlp.fc1", False),
    ("text_model.encoder.layers.1.layer_norm1", True),  # a norm is no leaf of its own: its parent's group holds its weight
    ("text_projection", False),  # lies beside the tower
])  # fmt: skip
@pytest.mark.parametrize("first", ["load", "offload", "onload"])
def test_the_pinned_copies_are_written_too(name, as_parameters, first):
    check_group_offload()
    host = make_clip()
    module, patch = host.get_submodule(name), make_patch(make_clip(), (name,))
    before, wanted = module.weight.detach().clone(), patch.new_weights(make_clip())[name]
    if first == "load":
        host.load_unlearning(patch)
    streamed = Streamed(module, host if as_parameters else module, as_parameters)
    if first == "onload":  # while the weight is on the accelerator, as after prefetching
        streamed.onload()
    if first != "load":
        host.load_unlearning(patch)
    assert torch.equal(module.weight, wanted)
    for change, expected in (
        (lambda: None, wanted),
        (host.disable_unlearning, before),
        (host.enable_unlearning, wanted),
        (host.unload_unlearning, before),
    ):
        change()
        assert torch.equal(streamed.forward_pass(), expected) and torch.equal(module.weight, expected)
    assert len(streamed.cpu_param_dict) == len([*module.parameters()]) and not streamed.buffers


def test_a_weight_is_read_from_where_the_next_forward_pass_takes_it():
    host = make_clip()
    module = host.text_projection
    plain = LiveWeight(module, "text_projection", host).read()
    assert plain.data_ptr() == module.weight.data_ptr()
    accelerate.cpu_offload(host, execution_device=CPU)
    offloaded = LiveWeight(module, "text_projection", host).read()
    assert (
        module.weight.is_meta and offloaded is module._hf_hook.weights_map["weight"] and torch.equal(offloaded, plain)
    )
