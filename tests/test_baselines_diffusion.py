# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The methods that `benchmarks/` compares with, each against its paper's equation on a case small enough for a plain reference."""

import copy
from types import SimpleNamespace

import pytest
import torch
from baselines import esd as esd_module
from baselines.conditioning import draw_noise, embed_prompts, encode_images
from baselines.esd import erasing_target, esd
from baselines.salun import forgetting_loss, salient, salun
from baselines.uce import solve, uce
from conftest import assert_same, noise_pairs, snapshot
from diffusers import DDPMScheduler
from tiny_hosts import PIPELINES


OWN, OTHER, KEEP = (
    ["a three", "a three in neon style"],
    ["a one", "a one in neon style"],
    ["a two", "four in ink style"],
)
FORGET, RETAIN = noise_pairs(5, names=["three"]), noise_pairs(7, 1, ["one", "two"])
MISTAKEN = {text: "a one" for text in FORGET.texts}
LR = 1e-3


@pytest.fixture
def pipe():
    pipe = PIPELINES["sd1"]()
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.double()  # so that rounding moves no weight over the threshold, and turns no slope
    return pipe


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def first_step_of_adam(gradient):
    """Adam's moments cancel at its first step, but for the 1e-8 that it divides by."""
    return -LR * gradient / (gradient.abs() + 1e-8)


def assert_moved(unet, before, expected):
    for name, parameter in unet.named_parameters():
        moved = parameter.detach() - before[name]
        torch.testing.assert_close(moved, expected.get(name, torch.zeros_like(moved)), rtol=0, atol=LR / 50)


# what all of them need of a pipeline


def test_prompts_are_embedded_as_the_pipeline_does(pipe):
    said = embed_prompts(pipe, [*KEEP, KEEP[0]])
    ids = pipe.tokenizer(KEEP, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        plain = pipe.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(said, plain[[0, 1, 0]])
    assert said.shape[1] == pipe.tokenizer.model_max_length


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noised_pictures_and_what_is_to_be_said_of_them(kind):
    scheduler = DDPMScheduler(prediction_type=kind)
    latents = randn(6, 4, 2, 2)
    noisy, steps, wanted = draw_noise(scheduler, latents, torch.Generator().manual_seed(3))
    kept = scheduler.alphas_cumprod[steps].double()[:, None, None, None]
    signal, noise = kept.sqrt(), (1 - kept).sqrt()
    drawn = (noisy - signal * latents) / noise
    expected = {"epsilon": drawn, "v_prediction": signal * drawn - noise * latents, "sample": latents}[kind]
    torch.testing.assert_close(wanted, expected, rtol=1e-4, atol=1e-4)
    assert len(set(steps.tolist())) > 1


# UCE


def test_uce_is_the_minimiser_of_its_objective():
    old, sources, targets, kept = randn(3, 4), randn(5, 4, seed=1), randn(5, 4, seed=2), randn(2, 4, seed=3)
    erase, preserve, damping = 2.0, 0.5, 0.3
    found = solve(old, sources, targets, kept, erase, preserve, damping)

    def objective(weight):
        edited = (weight @ sources.T - old @ targets.T).square().sum()
        preserved = (weight @ kept.T - old @ kept.T).square().sum()
        return erase * edited + preserve * preserved + damping * (weight - old).square().sum()

    slope = torch.autograd.functional.jacobian(objective, found)
    assert slope.abs().max() < 1e-10 < torch.autograd.functional.jacobian(objective, old).abs().max()
    # the same as plain least squares over all rows
    rows = torch.cat([erase**0.5 * sources, preserve**0.5 * kept, damping**0.5 * torch.eye(4, dtype=torch.float64)])
    aims = torch.cat([erase**0.5 * targets @ old.T, preserve**0.5 * kept @ old.T, damping**0.5 * old.T])
    torch.testing.assert_close(found, torch.linalg.lstsq(rows, aims).solution.T)


def test_uce_leaves_the_weight_where_a_prompt_is_to_be_read_as_itself():
    old, sources = randn(3, 4), randn(5, 4, seed=1)
    torch.testing.assert_close(solve(old, sources, sources, randn(2, 4, seed=2)), old)


def test_uce_edits_keys_and_values_alone(pipe):
    before = snapshot(pipe.unet)
    changed = uce(pipe, OWN, OTHER, KEEP, damping=1e-6)
    moved = [name for name, value in pipe.unet.state_dict().items() if not torch.equal(value, before[name])]
    assert sorted(moved) == sorted(changed)
    assert changed and all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in changed)
    own, other = embed_prompts(pipe, OWN).double(), embed_prompts(pipe, OTHER).double()
    for name in changed:
        after, wanted = own @ pipe.unet.get_parameter(name).double().T, other @ before[name].double().T
        assert (after - wanted).norm() < 0.5 * (own @ before[name].double().T - wanted).norm()


# ESD


def test_esd_aims_at_guidance_away_from_the_concept():
    free, guided = torch.tensor([1.0, 0.0]), torch.tensor([3.0, -0.5])
    assert erasing_target(free, guided).tolist() == [-1.0, 0.5]
    assert erasing_target(free, guided, eta=2.0).tolist() == [-3.0, 1.0]


def test_esd_aims_at_the_same_whatever_a_unet_predicts():
    signal, noise, noisy, free, guided = 0.6, 0.8, randn(4), randn(4, seed=1), randn(4, seed=2)

    def as_noise(velocity):
        return signal * velocity + noise * noisy

    aimed = erasing_target(as_noise(free), as_noise(guided), 1.5)
    torch.testing.assert_close(aimed, as_noise(erasing_target(free, guided, 1.5)))


@pytest.mark.parametrize("variant", ["x", "u"])
def test_esd_steps_down_the_slope_of_its_equation(pipe, variant):
    before, plain, seed = snapshot(pipe.unet), copy.deepcopy(pipe.unet), 4
    names = esd(pipe, OWN, variant, lr=LR, steps=1, eta=1.5, num_inference_steps=4, seed=seed)
    assert names == [name for name in before if ("attn2" in name) == (variant == "x")]
    assert all(parameter.requires_grad for parameter in pipe.unet.parameters())

    generator = torch.Generator().manual_seed(seed)
    prompt, count = (int(torch.randint(n, (), generator=generator)) for n in (2, 4))
    assert count > 0  # or nothing would be denoised
    said, unsaid = embed_prompts(pipe, [OWN[prompt], ""])[:, None]
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(4)
    x = torch.randn((1, 4, 16, 16), generator=generator).double()
    with torch.no_grad():
        for step in scheduler.timesteps[:count]:
            free, guided = (plain(x, step, encoder_hidden_states=text).sample for text in (unsaid, said))
            x = scheduler.step(free + 3 * (guided - free), step, x).prev_sample
        step = scheduler.timesteps[count]
        free, guided = (plain(x, step, encoder_hidden_states=text).sample for text in (unsaid, said))
    loss = (plain(x, step, encoder_hidden_states=said).sample - (free - 1.5 * (guided - free))).square().mean()
    slopes = dict(zip(names, torch.autograd.grad(loss, [plain.get_parameter(name) for name in names])))
    assert_moved(pipe.unet, before, {name: first_step_of_adam(slope) for name, slope in slopes.items()})


def test_esd_keeps_its_copy_of_the_original(pipe, monkeypatch):
    copies = []

    def remember(thing):
        copies.append(copy.deepcopy(thing))
        return copies[-1]

    monkeypatch.setattr(esd_module, "copy", SimpleNamespace(deepcopy=remember))
    before, schedule = snapshot(pipe.unet), dict(vars(pipe.scheduler))
    esd(pipe, OWN, lr=LR, steps=3, num_inference_steps=2)
    (frozen,) = [thing for thing in copies if isinstance(thing, torch.nn.Module)]
    assert_same(frozen, before)
    assert vars(pipe.scheduler).keys() == schedule.keys()
    assert torch.equal(pipe.scheduler.timesteps, schedule["timesteps"])


# SalUn


def test_salun_masks_the_lower_half_of_all_slopes_together():
    masks = salient({"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([[2.0], [-3.0]])})
    assert masks["a"].tolist() == [False, True] and masks["b"].tolist() == [[False], [True]]
    slopes = {"a": randn(30), "b": randn(7, 10, seed=1)}
    masks = salient(slopes, share=0.3)
    assert sum(int(mask.sum()) for mask in masks.values()) == 30
    few = salient({"a": torch.tensor([0.0, 0.0, 0.0, 2.0]), "b": torch.tensor([0.0, -1.0])})
    assert few["a"].tolist() == [False, False, False, True] and few["b"].tolist() == [False, True]
    least = min(float(slopes[name].abs()[mask].min()) for name, mask in masks.items())
    assert all(float(slopes[name].abs()[~mask].max()) < least for name, mask in masks.items())


def test_salun_takes_a_concept_for_another():
    weights = torch.tensor([2.0, 3.0], requires_grad=True)

    def unet(x, steps, encoder_hidden_states):
        return SimpleNamespace(sample=weights[0] * x + weights[1] * encoder_hidden_states)

    loss = forgetting_loss(unet, torch.ones(1), torch.zeros(1), torch.tensor([5.0]), torch.tensor([4.0]))
    assert loss.item() == 9.0  # (3·5 − 3·4)²
    loss.backward()
    assert weights.grad.tolist() == [6.0, 30.0]  # 2·3·x and 2·3·5: what is aimed at has no slope


def test_salun_trains_salient_weights_down_the_slope_of_its_equation(pipe):
    before, plain, seed, size, alpha = snapshot(pipe.unet), copy.deepcopy(pipe.unet), 2, 5, 0.7
    names = salun(pipe, FORGET, RETAIN, MISTAKEN, lr=LR, steps=1, alpha=alpha, batch_size=size, seed=seed)
    parameters = dict(plain.named_parameters())

    def slopes(loss):
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()))))

    generator = torch.Generator().manual_seed(seed)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    latents, kept = encode_images(pipe, FORGET.images()), encode_images(pipe, RETAIN.images())
    said, mistaken = embed_prompts(pipe, FORGET.texts), embed_prompts(pipe, ["a one"] * len(FORGET))
    noisy, steps, noise = draw_noise(scheduler, latents, generator)
    saliency = slopes((plain(noisy, steps, encoder_hidden_states=said).sample - noise).square().mean())
    sizes = torch.cat([slope.abs().flatten() for slope in saliency.values()]).sort().values
    middle = sizes[len(sizes) // 2]
    masks = {name: slope.abs() >= middle for name, slope in saliency.items()}
    assert names == [name for name, mask in masks.items() if mask.any()]

    own, rest = (torch.randint(n, (size,), generator=generator) for n in (len(FORGET), len(RETAIN)))
    noisy, steps, _ = draw_noise(scheduler, latents[own], generator)
    taken_for = plain(noisy, steps, encoder_hidden_states=mistaken[own]).sample.detach()
    loss = (plain(noisy, steps, encoder_hidden_states=said[own]).sample - taken_for).square().mean()
    noisy, steps, noise = draw_noise(scheduler, kept[rest], generator)
    rest_said = embed_prompts(pipe, [RETAIN.texts[i] for i in rest])
    loss = loss + alpha * (plain(noisy, steps, encoder_hidden_states=rest_said).sample - noise).square().mean()
    expected = {name: first_step_of_adam(slope) * masks[name] for name, slope in slopes(loss).items()}
    assert_moved(pipe.unet, before, expected)


def test_salun_leaves_all_other_weights_to_the_bit(pipe):
    before = snapshot(pipe.unet)
    salun(pipe, FORGET, RETAIN, MISTAKEN, lr=LR, steps=3, share=0.25, batch_size=3)
    moved = [(value != before[name]).flatten() for name, value in pipe.unet.state_dict().items()]
    assert 0.24 < torch.cat(moved).double().mean() <= 0.2501
