# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What a run for a host refuses, before it costs anything, and with everything left as it was."""

import pytest
import torch
from conftest import assert_same, snapshot
from peft import LoraConfig, inject_adapter_in_model
from tiny_hosts import HOSTS, PIPELINES, SECOND, encoder, make_clip, make_llava
from unlearning_helpers import FORGET, RETAIN, Fading, clip_of, host_state, quick

from hf_slug import UnlearningPatch, unlearn, zoo
from hf_slug.errors import UnsupportedModelError, WrongBaseError
from hf_slug.evaluation import GenerationEvaluator, VqaEvaluator, ZeroShotEvaluator
from hf_slug.settings import check_combination


def same_patch(left: UnlearningPatch, right: UnlearningPatch) -> bool:
    return all(torch.equal(left.tensors[key], right.tensors[key]) for key in left.tensors | right.tensors)


@pytest.mark.parametrize("objective", ["clip", "host"])
@pytest.mark.parametrize("where", ["host", "clip"])
def test_what_is_under_a_patch_now_is_refused_until_that_is_off(where, objective):
    """A patch computed from patched weights would fit no other model, and its fingerprint would say so of every base."""
    host, clip = HOSTS["sd1"].build(), clip_of()
    settings = {"objective": objective, "granularity": "block"}
    expected = quick(host, clip, **settings).patch
    patched = host if where == "host" else clip
    patched.load_unlearning(expected, "mira", weight=0.5)
    state, before = host_state(host), snapshot(clip)
    with pytest.raises(UnsupportedModelError, match=r"is under the unlearning patches mira.*disable_unlearning\(\)"):
        quick(host, clip, **settings)
    assert_same(clip, before)
    assert all(torch.equal(a, b) for (name, a), (_, b) in zip(host_state(host), state) if name != "training")
    patched.disable_unlearning()
    assert same_patch(quick(host, clip, **settings).patch, expected)
    assert patched.get_list_unlearning() and not patched.get_active_unlearning()
    patched.enable_unlearning()
    assert patched.get_active_unlearning() == ["mira"]
    patched.unload_unlearning()
    assert same_patch(quick(host, clip, **settings).patch, expected)


def test_a_patch_on_another_encoder_of_the_pipeline_counts_too():
    pipe = PIPELINES["sdxl"]()
    pipe.load_unlearning(quick(pipe, clip_of("text_encoder_2"), component="text_encoder_2").patch)
    with pytest.raises(UnsupportedModelError, match="under the unlearning patches default_0"):
        quick(pipe, clip_of(), component="text_encoder")


def test_a_clip_alone_is_refused_too():
    clip = make_clip()
    clip.load_unlearning(quick(None, clip).patch)
    with pytest.raises(UnsupportedModelError, match="CLIPModel is under the unlearning patches default_0"):
        quick(None, clip)


def lora(pipe):
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), pipe.text_encoder)
    return pipe


def on_meta(pipe):
    pipe.text_encoder.to("meta")
    return pipe


SD, LLAVA, XL = HOSTS["sd1"].build, HOSTS["llava"].build, HOSTS["sdxl"].build
REFUSED_HOSTS = {
    "several encoders": (XL, {}, ValueError, r"one encoder.*XLPipeline has 2.*text_encoder \(text\), text_encoder_2.*--component"),
    "no such encoder": (XL, {"component": "text_encoder_3"}, ValueError, "no CLIP encoder 'text_encoder_3'"),
    "no such tower": (SD, {"tower": "vision"}, ValueError, r"has 0 that fit tower='vision', of text_encoder \(text\)"),
    "no host at all": (lambda: torch.nn.Linear(2, 2), {}, UnsupportedModelError, "Linear embeds no CLIP encoder"),
    "no loss known": (HOSTS["flux"].build, {"objective": "host"}, UnsupportedModelError, "Use objective='clip'"),
    "no processor": (LLAVA, {"objective": "host"}, ValueError, "needs its processor"),
    "an adapter": (lambda: lora(SD()), {}, UnsupportedModelError, "carries adapters.*merge_and_unload"),
    "not in memory": (lambda: on_meta(SD()), {}, UnsupportedModelError, "on the meta device"),
    "no text": (lambda: encoder("CLIPVisionModel", make_clip()), {"tower": "text"}, ValueError, r"of vision_model \(vision\)"),
}  # fmt: skip


@pytest.mark.parametrize("build, settings, error, message", REFUSED_HOSTS.values(), ids=REFUSED_HOSTS.keys())
def test_a_host_that_a_patch_can_not_be_made_for_is_refused(build, settings, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        quick(build(), clip_of(), **settings)


def test_a_clip_of_another_kind_is_refused():
    with pytest.raises(UnsupportedModelError, match="Expected a transformers CLIPModel"):
        quick(SD(), encoder("CLIPVisionModel", make_clip()))


@pytest.mark.parametrize("objective", ["clip", "host"])
@pytest.mark.parametrize("make, message", [
    (lambda: make_clip(seed=1), r"layers.0.self_attn.q_proj.weight of the CLIPModel \(shape \(16, 16\)\).*another CLIP"),
    (lambda: make_clip(width=SECOND), r"CLIPModel \(shape \(24, 24\)\) and of .*\(shape \(16, 16\)\)"),
    (lambda: make_clip().to(torch.bfloat16).float(), "embeds another CLIP.*`model=None`"),
])  # fmt: skip
def test_a_host_of_another_clip_is_refused(make, message, objective):
    with pytest.raises(WrongBaseError, match=f"(?s){message}"):
        quick(SD(), make(), objective=objective)
    clip = make_clip()
    with torch.no_grad():
        clip.text_model.encoder.layers[3].mlp.fc2.weight[0, 0] += 1e-3  # one number, in the last block
    with pytest.raises(WrongBaseError, match="layers.3.mlp.fc2.weight"):
        quick(SD(), clip, objective=objective)
    assert quick(HOSTS["sd2"].build(), clip, objective=objective)  # which has no such block


@pytest.mark.parametrize(
    "left, right", [(torch.float32, torch.float16), (torch.bfloat16, torch.float16), (torch.bfloat16,) * 2]
)
def test_the_same_clip_in_another_dtype_is_recognised(left, right):
    for host_dtype, clip_dtype in ((left, right), (right, left)):
        assert quick(SD().to(host_dtype), clip_of().to(clip_dtype), objective="clip", target=1.0)


def test_combinations_that_make_no_sense_are_refused_before_any_work():
    host, clip = SD(), clip_of()
    processor = zoo.load_clip()[1]
    judged = GenerationEvaluator(None, {"three": ("three",), "one": ("one",)}, "three", 1)
    names = ["one", "two", "four", "zero", "three"]
    zero_shot = ZeroShotEvaluator(processor, FORGET, RETAIN, "three", names, seen=FORGET)
    fading = Fading(host)

    def drawn(seed, count):
        return GenerationEvaluator(None, {"three": ("three",), "one": ("one",)}, "three", count, seed=seed)

    def asked(*questions):
        return VqaEvaluator(None, FORGET, RETAIN, "three", ["one", "two", "four", "zero", "three"], questions)

    wrong = [
        ((host, clip), {"objective": "both"}, "Unknown objective 'both'.*'clip' or 'host'"),
        ((None, clip), {"objective": "host"}, "the loss of a host, and none was given"),
        ((host, None), {"objective": "clip"}, "needs the CLIPModel.*`model=None`"),
        ((host, None), {}, "Give both `evaluate` and `test_evaluate`"),
        ((host, None), {"evaluate": fading}, "Give both `evaluate` and `test_evaluate`"),
        ((host, None), {"evaluate": zero_shot, "test_evaluate": fading}, "ZeroShotEvaluator goes by the CLIPModel"),
        (
            (host, clip),
            {"test_evaluate": zero_shot},
            "BehaviourEvaluator.*as `test_evaluate`, found ZeroShotEvaluator",
        ),
        ((None, clip), {"evaluate": judged}, "GenerationEvaluator judges what a host does, and none was given"),
        ((host, clip), {"evaluate": fading, "test_evaluate": fading}, "look at the same"),
        ((None, None), {}, "needs the CLIPModel"),
        ((host, clip), {"draws": 0}, "draws=0: expected a whole number, at least 1"),
        ((host, clip), {"evaluate": drawn(0, 4), "test_evaluate": drawn(3, 4)}, "look at the same"),
        ((host, clip), {"evaluate": asked("one", "two"), "test_evaluate": asked("two")}, "look at the same"),
    ]
    check_combination(clip, host, "clip", drawn(0, 4), drawn(4, 4))
    check_combination(clip, host, "clip", asked("one"), asked("two"))
    for (given_host, model), settings, message in wrong:
        with pytest.raises(ValueError, match=f"(?s){message}"):
            quick(given_host, model, **settings)
    assert fading.looks == 0


def test_a_zero_shot_evaluator_may_choose_for_a_host_with_its_clip():
    processor = zoo.load_clip()[1]
    names = ["one", "two", "four", "zero", "three"]
    zero_shot = ZeroShotEvaluator(processor, FORGET, RETAIN, "three", names, seen=FORGET)
    given, default = (quick(SD(), clip_of(), **settings).report for settings in ({"evaluate": zero_shot}, {}))
    assert given["search"] == default["search"] and given["metrics"] == default["metrics"]


def test_what_goes_wrong_in_the_middle_leaves_everything_as_it_was():
    host, clip = SD(), clip_of()

    class Broken(Fading):
        def forgotten(self, host, enough=None):
            return super().forgotten(host, enough) if self.looks < 3 else 1 / 0

    state, before = host_state(host), snapshot(clip)
    with pytest.raises(ZeroDivisionError):
        quick(host, clip, evaluate=Broken(host))
    assert_same(clip, before)
    for (name, value), (_, expected) in zip(host_state(host), state):
        assert value == expected if name == "training" else torch.equal(value, expected), name


def test_a_llava_without_a_tower_of_its_own_clip_is_refused():
    with pytest.raises(WrongBaseError, match="vision_model.encoder.layers.0"):
        quick(make_llava("Llava", seed=1), make_clip(), objective="clip")
    two = HOSTS["video_llava"].build()
    with pytest.raises(
        ValueError, match=r"has 2 that fit.*(video|image)_tower \(vision\), (video|image)_tower \(vision\)"
    ):
        quick(two, make_clip(), objective="clip")
    assert (
        quick(two, make_clip(), objective="clip", component="video_tower").report["host"]["component"] == "video_tower"
    )
    with pytest.raises(ValueError, match="Give both"):
        unlearn(None, None, FORGET, RETAIN, host=two, component="video_tower")
