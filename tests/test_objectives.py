# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The denoising objective against a slow, plain reference in float64 that shares no code with it, and finite differences."""

import numpy as np
import pytest
import torch
from attachment_helpers import check_group_offload
from conftest import assert_same, noise_pairs, snapshot
from diffusers import DDPMScheduler
from diffusers.hooks import apply_group_offloading
from tiny_hosts import PIPELINES

from hf_slug.data import load_pairs
from hf_slug.encoders import find_encoders, host_modules
from hf_slug.errors import UnsupportedModelError
from hf_slug.objectives import DenoisingObjective, host_objective
from hf_slug.objectives.denoising import find_obstacle
from hf_slug.towers import candidate_layers


CASES = [("sd1", "text_encoder"), ("sd2", "text_encoder"), ("sdxl", "text_encoder"), ("sdxl", "text_encoder_2")]
FORGET = noise_pairs(5, names=["three", "three in neon style"])
RETAIN = noise_pairs(7, seed=1, names=["one", "two", "a very long name of four"])


def objective_of(pipe, component="text_encoder", **settings):
    (encoder,) = find_encoders(pipe, component)
    return DenoisingObjective(pipe, encoder, FORGET, RETAIN, **{"draws": 2, "batch_size": 3, **settings})


def live_layers(objective):
    layers = candidate_layers(objective.module, "text", norms=True)
    return [layer for layer in layers if all(objective.encoder.is_live(name) for name in layer.modules)]


def weight_of(objective, name):
    return objective.encoder.resolve([name])[name].weight


def total(objective, pairs):
    with torch.no_grad():
        return sum(float(loss) * share for loss, share in objective.losses(pairs, "test"))


def plain_encode(tokenizer, encoder, texts):
    ids = tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    return encoder(ids, output_hidden_states=True)


def plain_draws(pairs, draws, batch_size, seed):
    """The noise and the timesteps of every picture, as drawn: batch by batch, over and over, the retain set less often."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws if pairs is FORGET else max(1, draws // 4)):
        for start in range(0, len(pairs), batch_size):
            batch = pairs[start : start + batch_size]
            noise = torch.randn((len(batch), 4, 16, 16), generator=generator).double()
            shifts, order = (
                torch.rand(len(batch), generator=generator),
                torch.randperm(len(batch), generator=generator),
            )
            yield from (
                (pair, own, int(1000 * (i + shifts[i]) / len(batch))) for pair, own, i in zip(batch, noise, order)
            )


def plain_said(pipe, text):
    """What the UNet is told by a prompt: the embeddings, and what XL adds."""
    first = plain_encode(pipe.tokenizer, pipe.text_encoder, [text])
    if not hasattr(pipe, "text_encoder_2"):
        return first.last_hidden_state, {}
    second = plain_encode(pipe.tokenizer_2, pipe.text_encoder_2, [text])
    said = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    sizes = torch.tensor([[32.0, 32, 0, 0, 32, 32]])
    return said, {"added_cond_kwargs": {"text_embeds": second.text_embeds, "time_ids": sizes}}


@torch.no_grad()
def plain_neighbor(pipe, text, others):
    """The other prompt whose mean embedding has the largest cosine."""
    means = {other: plain_said(pipe, other)[0][0].mean(0) for other in (text, *others)}
    cosines = {
        other: float(means[text] @ means[other] / (means[text].norm() * means[other].norm()))
        for other in others
        if other != text
    }
    return max(cosines, key=cosines.get)


def plain_loss(pipe, pairs, draws=2, batch_size=3, seed=0, frozen=None):
    """
    One picture at a time; the sums of squares are added up last.

    `frozen` is the pipeline that speaks for the neighbour, where the weights of `pipe` are moved.
    """
    losses, frozen = [], frozen or pipe
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    neighbors = {pair.text: plain_neighbor(frozen, pair.text, [other.text for other in RETAIN]) for pair in pairs}
    for pair, noise, step in plain_draws(pairs, draws, batch_size, seed):
        pixels = torch.from_numpy(np.array(pair.image)).double().permute(2, 0, 1)[None] / 127.5 - 1
        moments = pipe.vae.quant_conv(pipe.vae.encoder(pixels))
        latent = moments[:, :4] * pipe.vae.config.scaling_factor  # the mean; the other half is the variance
        signal, share = alphas[step].sqrt(), (1 - alphas[step]).sqrt()
        noisy = signal * latent + share * noise
        said, more = plain_said(pipe, pair.text)
        found = pipe.unet(noisy, step, encoder_hidden_states=said, **more).sample
        with torch.no_grad():
            said, more = plain_said(frozen, neighbors[pair.text])
            wanted = frozen.unet(noisy, step, encoder_hidden_states=said, **more).sample
        losses.append(-(found - wanted).square().mean())
    return torch.stack(losses).mean()


def make_double(kind):
    pipe = PIPELINES[kind]()
    for module in host_modules(pipe):
        module.double()
    return pipe


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_the_loss_is_that_of_a_plain_reference(kind):
    pipe = make_double(kind)
    for pairs, seed in ((FORGET, 0), (RETAIN, 5)):  # either leaves a smaller last batch
        got = total(objective_of(pipe, seed=seed), pairs)
        assert got == pytest.approx(plain_loss(pipe, pairs, seed=seed).item(), rel=1e-5)
    assert got != pytest.approx(total(objective_of(pipe, seed=6), RETAIN), rel=1e-3)


@pytest.mark.parametrize("kind, component", CASES)
def test_the_gradients_are_those_of_the_plain_loss_for_every_live_weight(kind, component):
    pipe = make_double(kind)
    objective = objective_of(pipe, component)
    layers = live_layers(objective)
    for got, pairs in ((objective.forget_gradients(layers), FORGET), (objective.retain_gradients(layers), RETAIN)):
        weights = {name: weight_of(objective, name) for layer in layers for name in layer.modules}
        expected = torch.autograd.grad(plain_loss(pipe, pairs), list(weights.values()))
        assert list(got) == list(weights)
        for name, reference in zip(weights, expected):
            assert reference.norm() > 0 and got[name].dtype == torch.float64, name
            assert (got[name] - reference).norm() <= 5e-5 * reference.norm(), name  # the loss itself is a float32


@pytest.mark.parametrize("kind, component", CASES)
def test_a_gradient_says_how_the_loss_changes_along_a_random_direction(kind, component):
    pipe = make_double(kind)
    objective = objective_of(pipe, component)
    layer = next(layer for layer in live_layers(objective) if layer.name.endswith("layers.1.mlp.fc1"))
    gradient = objective.forget_gradients([layer])[layer.name]
    weight, frozen = weight_of(objective, layer.name).data, make_double(kind)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    original, step, losses = weight.clone(), 1e-5 * weight.norm() / direction.norm(), []
    for sign in (1, -1):
        weight.copy_(original + sign * step * direction)
        with torch.no_grad():
            losses.append(plain_loss(pipe, FORGET, frozen=frozen))
    slope = (losses[0] - losses[1]) / (2 * step)
    assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_a_small_step_along_the_forget_gradient_raises_the_forget_loss_by_its_squared_norm():
    pipe = make_double("sd1")
    objective, frozen = objective_of(pipe), make_double("sd1")
    with torch.no_grad():
        before = plain_loss(pipe, FORGET)
    layers = live_layers(objective)
    gradients = objective.forget_gradients(layers)
    for layer in layers[::5]:
        weight, gradient = weight_of(objective, layer.name).data, gradients[layer.name]
        original, epsilon = weight.clone(), 1e-5 / gradient.norm()
        weight += epsilon * gradient
        with torch.no_grad():
            rise = plain_loss(pipe, FORGET, frozen=frozen) - before
        weight.copy_(original)
        assert rise.item() == pytest.approx((epsilon * gradient.square().sum()).item(), rel=2e-2) and rise > 0


def test_a_prompts_neighbor_is_the_nearest_other_one_of_the_retain_set():
    pipe = PIPELINES["sd1"]()
    objective = objective_of(pipe)
    others = [pair.text for pair in RETAIN]
    for pairs in (FORGET, RETAIN):
        found = objective.find_neighbors(pairs)
        assert found == {pair.text: plain_neighbor(pipe, pair.text, others) for pair in pairs}
        assert all(text != neighbor and neighbor in others for text, neighbor in found.items())
    (encoder,) = find_encoders(pipe)
    lonely = DenoisingObjective(pipe, encoder, FORGET, RETAIN.subset([0]))
    assert lonely.find_neighbors(RETAIN.subset([0])) == {RETAIN[0].text: ""}


def test_a_prompt_that_the_encoder_can_not_tell_apart_is_no_neighbor():
    """Another spelling, or words beyond what the encoder reads, would leave no gradient at all."""
    pipe = PIPELINES["sd1"]()
    (encoder,) = find_encoders(pipe)
    cut = "one two three four one two three four one two three four one two three four "
    images = [pair.image for pair in RETAIN]
    texts = ["a photo of THREE", f"{cut} one", f"{cut} two", "a photo of one"]
    retain = load_pairs([(image, text, text) for image, text in zip(images, texts)])
    objective = DenoisingObjective(pipe, encoder, FORGET, retain, draws=1)
    neighbors = objective.find_neighbors(load_pairs([(images[0], "a photo of three", "three")]))
    assert neighbors["a photo of three"] in texts[1:]
    found = objective.find_neighbors(retain)
    assert not {found[texts[1]], found[texts[2]]} & set(texts[1:3])
    layers = live_layers(objective)
    assert all(gradient.norm() > 0 for gradient in objective.retain_gradients(layers).values())
    # a caption that shows the concept is not what is drawn in its place
    told = DenoisingObjective(pipe, encoder, FORGET, retain, draws=1, concept="One")
    assert not any("one" in neighbor for neighbor in told.find_neighbors(FORGET).values())


def test_where_the_unet_is_told_the_same_the_loss_is_zero_and_highest():
    objective = objective_of(PIPELINES["sd1"]())
    assert total(objective, FORGET) < 0
    weight_of(objective, "text_model.encoder.layers.0.self_attn.v_proj").data.zero_()
    for module in objective.module.modules():  # all prompts alike
        if hasattr(module, "token_embedding"):
            module.token_embedding.weight.data[:] = module.token_embedding.weight.data[0]
    assert total(objective, FORGET) == pytest.approx(0, abs=1e-9)


def test_equal_prompts_are_encoded_once_and_padded_as_the_pipeline_does(monkeypatch):
    pipe = PIPELINES["sd1"]()
    objective, seen = objective_of(pipe), []
    forward = pipe.text_encoder.forward
    monkeypatch.setattr(
        pipe.text_encoder, "forward", lambda ids, *a, **k: (seen.append(ids), forward(ids, *a, **k))[1]
    )
    said, _ = objective._prompts(["a photo of one", "two", "a photo of one"])
    assert [len(ids) for ids in seen] == [2] and seen[0].shape[1] == pipe.tokenizer.model_max_length == 16
    assert torch.equal(said[0], said[2]) and not torch.equal(said[0], said[1])
    alone = [pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("a photo of one", "two")]
    torch.testing.assert_close(said[:2], torch.cat(alone))


def test_a_picture_that_is_noised_several_times_is_encoded_once(monkeypatch):
    pipe, seen = make_double("sd1"), []
    encode = pipe.vae.encode
    monkeypatch.setattr(pipe.vae, "encode", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    list(objective_of(pipe, draws=4, batch_size=3).losses(FORGET, ""))
    assert sum(seen) == len(FORGET)


def test_pictures_of_another_size_are_fitted_to_the_model():
    pipe = PIPELINES["sd1"]()
    images = [pair.image.resize((50, 41)) for pair in FORGET]
    rows = [(image, pair.text, pair.name) for image, pair in zip(images, FORGET)]
    assert objective_of(pipe)._latents(load_pairs(rows)).shape == (5, 4, 16, 16)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_says_which_noise_is_drawn_and_nothing_else(batch_size):
    objective = objective_of(make_double("sd1"), draws=4, batch_size=batch_size)
    for pairs, draws in ((FORGET, 4), (RETAIN, 1)):
        shares = [share for _, share in objective.losses(pairs, "test")]
        assert sum(shares) == pytest.approx(1) and len(shares) == draws * -(-len(pairs) // batch_size)
        reference = plain_loss(objective.pipe, pairs, draws=4, batch_size=batch_size)
        assert total(objective, pairs) == pytest.approx(reference.item(), rel=1e-5)


@pytest.mark.parametrize("n", [1, 3, 64])
def test_a_batch_has_a_timestep_from_every_part_of_the_schedule(n):
    objective, generator = objective_of(PIPELINES["sd1"]()), torch.Generator().manual_seed(0)
    drawn = torch.stack([objective._timesteps(n, generator) for _ in range(2000 // n)])
    assert drawn.min() >= 0 and drawn.max() < 1000
    place = drawn.sort().values * n / 1000  # in (i - n/1000, i + 1) for the i-th
    assert (place < torch.arange(n) + 1).all() and (place > torch.arange(n) - n / 1000).all()
    assert drawn.double().mean() == pytest.approx(499.5, abs=15) and len(drawn.unique()) > 500


@pytest.mark.parametrize("kind, component", CASES)
def test_everything_is_left_as_it_was(kind, component):
    pipe = PIPELINES[kind]()
    pipe.set_progress_bar_config(disable=True, desc="mine")
    pipe.unet.train()
    pipe.text_encoder.requires_grad_(False)
    parts = host_modules(pipe)
    flags = [parameter.requires_grad for part in parts for parameter in part.parameters()]
    modes = [module.training for part in parts for module in part.modules()]
    before, scheduler, config = [snapshot(part) for part in parts], pipe.scheduler, dict(pipe.scheduler.config)
    objective = objective_of(pipe, component)
    layers = live_layers(objective)
    first = objective.retain_gradients(layers)
    objective.forget_gradients(layers)
    objective.input_moments(layers)
    again = objective.retain_gradients(layers)
    assert all(
        torch.equal(first[name], again[name]) for name in first
    )  # same noise, and nothing leaks between the sets
    for part, state in zip(parts, before):
        assert_same(part, state)
    assert [parameter.requires_grad for part in parts for parameter in part.parameters()] == flags
    assert all(parameter.grad is None for part in parts for parameter in part.parameters())
    assert [module.training for part in parts for module in part.modules()] == modes
    assert pipe.scheduler is scheduler and dict(scheduler.config) == config
    assert pipe._progress_bar_config == {"disable": True, "desc": "mine"}
    assert not any(module._forward_pre_hooks for part in parts for module in part.modules())


def test_the_noise_follows_the_pipelines_own_schedule():
    pipe = PIPELINES["sdxl"]()  # with Euler's scheduler, which samples in another way than it was trained
    objective = objective_of(pipe)
    assert isinstance(objective.scheduler, DDPMScheduler)
    assert torch.equal(objective.scheduler.alphas_cumprod, pipe.scheduler.alphas_cumprod)


@pytest.mark.parametrize("draws", [0, -1, 1.5])
def test_draws_that_make_no_sense_are_refused(draws):
    with pytest.raises(ValueError, match="draws of at least 1"):
        objective_of(PIPELINES["sd1"](), draws=draws)


def test_an_offloaded_pipeline_is_refused():
    pipe = PIPELINES["sd1"]()
    pipe.enable_model_cpu_offload(device="cpu")
    with pytest.raises(UnsupportedModelError, match="is offloaded.*objective='clip'"):
        objective_of(pipe)
    check_group_offload()
    grouped = PIPELINES["sd1"]()
    place = torch.device("cpu")
    apply_group_offloading(grouped.unet, onload_device=place, offload_device=place, offload_type="leaf_level")
    with pytest.raises(UnsupportedModelError, match="is offloaded"):
        objective_of(grouped)


def test_a_vae_that_overflows_in_float16_is_run_in_float32_and_left_as_it_was():
    pipe = PIPELINES["sdxl"]()
    pipe.to(torch.float16)
    objective, seen = objective_of(pipe), []
    pipe.vae.encoder.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    before = snapshot(pipe.vae)
    for upcast in (True, False):
        pipe.vae.register_to_config(force_upcast=upcast)
        assert objective._latents(FORGET).dtype == torch.float16
    assert seen == [torch.float32, torch.float16]
    assert_same(pipe.vae, before)


@pytest.mark.parametrize("kind, change, message", [
    ("sd1", lambda pipe: pipe.unet.register_to_config(class_embed_type="projection"), "told more than a prompt"),
    ("sdxl_img2img", lambda pipe: pipe.register_to_config(requires_aesthetics_score=True), "told more than a prompt"),
    ("sd1", lambda pipe: setattr(pipe, "unet", torch.nn.Linear(1, 1)), "not known here"),
])  # fmt: skip
def test_a_unet_that_is_told_more_than_a_prompt_is_refused(kind, change, message):
    pipe = PIPELINES[kind]()
    change(pipe)
    with pytest.raises(UnsupportedModelError, match=message):
        objective_of(pipe)


def test_a_compiled_unet_is_one_still():
    pipe = PIPELINES["sd1"]()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    assert find_obstacle(pipe) is None
    assert objective_of(pipe).scheduler is not None


@pytest.mark.parametrize("kind, message", [
    ("flux", "FluxPipeline is not known here.*objective='clip'"),
    ("sd3", "StableDiffusion3Pipeline is not known here"),
    ("sd1_inpaint", "reads 9 channels, and pictures have 4: it is told more"),
])  # fmt: skip
def test_pipelines_whose_loss_is_another_are_refused(kind, message):
    pipe = PIPELINES[kind]()
    with pytest.raises(UnsupportedModelError, match=f"(?s){message}"):
        host_objective(pipe, find_encoders(pipe)[0], FORGET, RETAIN)
