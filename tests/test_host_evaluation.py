# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Judging pictures: metrics against numbers worked out by hand, and pictures that depend on nothing but their seeds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_same, snapshot
from hypothesis import given
from hypothesis import strategies as st
from tiny_hosts import PIPELINES

from hf_slug import zoo
from hf_slug.encoders import find_encoders
from hf_slug.evaluation import GenerationEvaluator, PreparedBehaviour, generate
from hf_slug.towers import candidate_layers


PROMPTS = {
    "seven neon": ("seven", "neon"), "seven ink": ("seven", "ink"), "two neon": ("two", "neon"), "two ink": ("two", "ink"),
    "one neon": ("one", "neon"), "one ink": ("one", "ink"),
}  # fmt: skip


class FakePipe:
    """Instead of pictures it makes notes: which prompt, and how its noise begins."""

    def __init__(self):
        self.calls, self._progress_bar_config = [], {"desc": "mine"}

    def set_progress_bar_config(self, **config):
        self._progress_bar_config = config

    def __call__(self, prompts, generator, output_type, **settings):
        assert self._progress_bar_config["disable"] and output_type == "pil"
        self.calls.append((len(prompts), settings))
        starts = [int(torch.randint(10**6, (1,), generator=own)) for own in generator]  # as in `start_of`
        return SimpleNamespace(images=list(zip(prompts, starts)))


def start_of(seed):
    """How the noise of a seed begins."""
    return int(torch.randint(10**6, (1,), generator=torch.Generator().manual_seed(seed)))


STARTS = {start_of(seed): seed for seed in range(50)}


def judge_by(table):
    """A judge that sees, in the i-th picture of a prompt, what a table says."""
    return lambda pictures: [tuple(table[prompt][STARTS[start]].split()) for prompt, start in pictures]


def test_metrics_are_those_worked_out_by_hand():
    table = {
        "seven neon": ["seven neon", "two neon", "one ink", "two neon"],  # the concept 1 of 4, its style 3 of 4
        "seven ink": ["two ink", "two ink", "two ink", "seven neon"],  # 1 of 4, 3 of 4
        "two neon": ["two neon", "two ink"],  # digit 2 of 2, style 1 of 2
        "two ink": ["seven ink", "two ink"],  # 1 of 2, 2 of 2
        "one neon": ["two neon", "one neon"],  # 1 of 2, 2 of 2
        "one ink": ["two ink", "two neon"],  # 0 of 2, 1 of 2
    }
    evaluator = GenerationEvaluator(judge_by(table), PROMPTS, "seven", 4, 2)
    assert (evaluator.n_forget, evaluator.n_retain) == (8, 8)
    assert evaluator.names == ["seven", "neon", "ink", "two", "one"]
    # of two 3 of 4 are right, of one 1 of 4; of the styles 3 of 4 in the other prompts each, and 2 of 2 in the concept's own
    assert evaluator(FakePipe()) == pytest.approx(
        {"fa1": 2 / 8, "n": 8, "cra_forget": 6 / 8, "ira": (3 / 4 + 1 / 4) / 2, "cra": 5 / 6, "ta": (1 + 5 / 3) / 4}
    )


def test_a_name_with_few_prompts_counts_as_much_as_one_with_many():
    prompts = {"a seven": ("seven",), "a two": ("two",), "a one": ("one",), "one more": ("one",), "the one": ("one",)}
    table = {prompt: ["two"] for prompt in prompts}
    got = GenerationEvaluator(judge_by(table), prompts, "seven", 1)(FakePipe())
    assert got == {"fa1": 0, "n": 1, "ira": 0.5, "ta": 0.5}  # and no other kind to speak of


@given(
    shown=st.lists(st.booleans(), min_size=12, max_size=12),
    enough=st.one_of(st.sampled_from([k / 12 for k in range(13)]), st.floats(0, 1)),
)
def test_stopping_early_never_changes_the_decision(shown, enough):
    prompts = {"seven 1": ("seven",), "seven 2": ("seven",), "seven 3": ("seven",), "a two": ("two",)}
    order = [(prompt, i) for i in range(4) for prompt in list(prompts)[:3]]
    flags = dict(zip(order, shown))
    table = {prompt: ["seven" if flags.get((prompt, i)) else "two" for i in range(4)] for prompt in prompts}
    whole, early = (
        GenerationEvaluator(judge_by(table), prompts, "seven", 4).forgotten(FakePipe(), limit)
        for limit in (None, enough)
    )
    assert whole == {"fa1": pytest.approx(sum(shown) / 12), "n": 12}
    assert (whole["fa1"] <= enough) == (early["fa1"] <= enough)
    assert early["n"] == (3 if sum(shown[:3]) > enough * 12 else 12)  # a quarter, where that is certain
    assert early["fa1"] == pytest.approx(sum(shown[: early["n"]]) / early["n"])


def test_every_picture_starts_from_a_seed_of_its_own():
    pipe = FakePipe()
    evaluator = GenerationEvaluator(None, PROMPTS, "seven", 3, seed=40, batch_size=4, guidance_scale=2.0, height=64)
    assert evaluator.forget[:3] == [
        ("seven neon", 0),
        ("seven ink", 0),
        ("seven neon", 1),
    ]  # all prompts, then all again
    made = evaluator.generate(pipe, evaluator.forget)
    assert made == [(prompt, start_of(40 + i)) for prompt, i in evaluator.forget]
    assert [n for n, _ in pipe.calls] == [4, 2]
    assert pipe.calls[0][1] == {"num_inference_steps": 25, "guidance_scale": 2.0, "height": 64}


@pytest.mark.parametrize("fails", [False, True])
def test_the_pipelines_own_progress_bar_is_as_it_was(fails):
    pipe = PIPELINES["sd1"]()
    pipe.set_progress_bar_config(desc="mine", leave=False)
    if fails:
        with pytest.raises(ZeroDivisionError):
            generate(pipe, [("a", 0)], num_inference_steps=1, callback_on_step_end=lambda *_: 1 / 0)
    else:
        assert len(generate(pipe, [("a", 0)], num_inference_steps=1)) == 1
    assert pipe._progress_bar_config == {"desc": "mine", "leave": False}


@pytest.mark.parametrize("load", [zoo.load_stable_diffusion, PIPELINES["sdxl"]])
def test_what_is_drawn_depends_neither_on_the_batch_nor_on_earlier_pictures(load):
    pipe = load()
    wanted = [("a seven in neon style", 0), ("a two in ink style", 0), ("a seven in neon style", 1)]
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0}
    together = generate(pipe, wanted, 5, 20, **settings)
    one_by_one = generate(pipe, wanted[::-1], 5, 1, **settings)[::-1]
    for a, b in zip(together, one_by_one):
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1  # rounded to whole numbers of 255
    assert len({np.asarray(picture).tobytes() for picture in together}) == 3
    assert np.array_equal(together[2], generate(pipe, [("a seven in neon style", 1)], 5, **settings)[0])
    assert not np.array_equal(together[0], generate(pipe, wanted[:1], 6, **settings)[0])


@pytest.mark.parametrize("arguments, message", [
    (({"a two": ("two",)}, "seven"), "0 of 1 prompts show 'seven'"),
    (({"a seven": ("seven",)}, "seven"), "1 of 1 prompts show 'seven'"),
    ((PROMPTS, "seven", 0), "at least one picture.*images_per_prompt=0"),
    ((PROMPTS, "seven", 1, 0), "retain_per_prompt=0"),
])  # fmt: skip
def test_what_could_not_be_measured_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GenerationEvaluator(None, *arguments)


def test_a_prepared_evaluator_changes_weights_only_while_it_measures():
    pipe = PIPELINES["sd1"]()
    (encoder,) = find_encoders(pipe)
    layers = candidate_layers(encoder.module, "text", "attention")[:2]
    changes = [
        (layer, {name: torch.full_like(encoder.resolve([name])[name].weight, i + 1) for name in layer.modules})
        for i, layer in enumerate(layers)
    ]
    weights = [encoder.resolve([name])[name] for layer, _ in changes for name in layer.modules]
    before, places = snapshot(pipe.text_encoder), [module.weight.data_ptr() for module in weights]

    def mean(i):
        return float(weights[i].weight.detach().mean())

    class Look(GenerationEvaluator):
        """Says what it finds in the first weight of each layer; `fa1` is that of the first."""

        def __init__(self):
            self.enough = []

        def forgotten(self, host, enough=None):
            assert host is pipe
            self.enough.append(enough)
            return {"fa1": mean(0), "second": mean(3)}

        def retained(self, host):
            return {"ta": mean(0), "other": mean(3)}

    evaluator = Look()
    prepared = PreparedBehaviour(evaluator, pipe, encoder.module, target=0.25)
    first, second = mean(0), mean(3)
    assert prepared.probe(layers[0])(changes[0][1]) == {"fa1": 1.0, "second": second}
    assert prepared.probe(layers[1])(changes[1][1]) == {"fa1": first, "second": 2.0}
    assert prepared.retained(changes) == [{"ta": 1.0, "other": second}, {"ta": first, "other": 2.0}]
    assert evaluator.enough == [0.25, 0.25]
    base, changed, _ = prepared.compare(*changes[0])
    assert base == {"fa1": first, "second": second, "ta": first, "other": second}
    assert changed == {"fa1": 1.0, "second": second, "ta": 1.0, "other": second} and evaluator.enough[2:] == [None] * 2
    assert_same(pipe.text_encoder, before)
    assert [module.weight.data_ptr() for module in weights] == places

    evaluator.forgotten = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        prepared.probe(layers[0])(changes[0][1])
    assert_same(pipe.text_encoder, before)
