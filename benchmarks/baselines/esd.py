# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""ESD: Erasing Concepts from Diffusion Models (Gandikota, Materzyńska, Fiotto-Kaufman and Bau, ICCV 2023)."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from .conditioning import embed_prompts


def erasing_target(unconditional: torch.Tensor, conditional: torch.Tensor, eta: float = 1.0) -> torch.Tensor:
    """
    `ε_θ*(x_t, t) − η [ε_θ*(x_t, c, t) − ε_θ*(x_t, t)]`: guidance away from the concept.

    Its weights sum to 1, so it is the same for a UNet that predicts velocities or pictures.

    Args:
        unconditional, conditional (`torch.Tensor`): What the original model predicts without and with the concept's prompt.
        eta (`float`, *optional*, defaults to 1): η, how far away.

    Returns:
        `torch.Tensor`: What the model should predict with the prompt.
    """
    return unconditional - eta * (conditional - unconditional)


@torch.no_grad()
def partly_denoised(
    unet: Any,
    scheduler: Any,
    said: torch.Tensor,
    unsaid: torch.Tensor,
    count: int,
    generator: torch.Generator,
    guidance_scale: float = 3.0,
) -> torch.Tensor:
    """
    Draws x_t: the first steps of making a picture of the concept, with guidance, by the model as it is now.

    Args:
        unet (`UNet2DConditionModel`): The model under training.
        scheduler (`SchedulerMixin`): With its timesteps set.
        said, unsaid (`torch.Tensor`): The embedded prompt, and the empty one, of shape (1, tokens, channels).
        count (`int`): How many steps; 0 is noise.
        generator (`torch.Generator`): Of the noise, on the CPU.
        guidance_scale (`float`, *optional*, defaults to 3): Classifier-free guidance.

    Returns:
        `torch.Tensor`: x_t at timestep `scheduler.timesteps[count]`.
    """
    size = unet.config.sample_size
    noise = torch.randn((1, unet.config.in_channels, size, size), generator=generator)
    latents = noise.to(said) * scheduler.init_noise_sigma
    both = torch.cat([unsaid, said])
    for step in scheduler.timesteps[:count]:
        scaled = scheduler.scale_model_input(latents, step).expand(2, -1, -1, -1)
        free, guided = unet(scaled, step, encoder_hidden_states=both).sample.chunk(2)
        latents = scheduler.step(free + guidance_scale * (guided - free), step, latents).prev_sample
    return latents


def esd(
    pipe: Any,
    prompts: Sequence[str],
    variant: Literal["x", "u"] = "x",
    lr: float = 1e-5,
    steps: int = 1000,
    eta: float = 1.0,
    guidance_scale: float = 3.0,
    num_inference_steps: int = 50,
    seed: int = 0,
) -> list[str]:
    """
    Trains the UNet to answer the prompts of a concept as the original would guide away from them.

    Args:
        pipe (`StableDiffusionPipeline`): The pipeline; its UNet is changed in place.
        prompts (`Sequence[str]`): Prompts of the concept; one is drawn at each step.
        variant (`str`, *optional*, defaults to `"x"`):
            ESD-x trains the cross-attention alone, for what prompts call by name; ESD-u trains everything else, as its paper has it
            (the authors' code leaves the time embedding and the last layer, too).
        lr (`float`, *optional*, defaults to 1e-5): Adam's.
        steps (`int`, *optional*, defaults to 1000): Training steps, of one picture each.
        eta (`float`, *optional*, defaults to 1): η of [`erasing_target`].
        guidance_scale (`float`, *optional*, defaults to 3): Guidance of the pictures trained on.
        num_inference_steps (`int`, *optional*, defaults to 50): Denoising steps of a whole picture, of which some are made.
        seed (`int`, *optional*, defaults to 0): Seed of prompts, noise and timesteps.

    Returns:
        `list[str]`: Names of the trained parameters.
    """
    unet = pipe.unet
    frozen = copy.deepcopy(unet).requires_grad_(False)
    trained = {name: p for name, p in unet.named_parameters() if (".attn2." in name) == (variant == "x")}
    unet.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(num_inference_steps, device=unet.device)
    said, unsaid = embed_prompts(pipe, prompts), embed_prompts(pipe, [""])
    optimizer = torch.optim.Adam(trained.values(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(steps), desc="ESD", leave=False):
        prompt = int(torch.randint(len(said), (), generator=generator))
        count = int(torch.randint(len(scheduler.timesteps), (), generator=generator))
        own = said[prompt : prompt + 1]
        latents = partly_denoised(unet, scheduler, own, unsaid, count, generator, guidance_scale)
        step = scheduler.timesteps[count]
        latents = scheduler.scale_model_input(latents, step)
        with torch.no_grad():
            both = torch.cat([unsaid, own])
            original = frozen(latents.expand(2, -1, -1, -1), step, encoder_hidden_states=both).sample
        target = erasing_target(*original.chunk(2), eta)
        loss = F.mse_loss(unet(latents, step, encoder_hidden_states=own).sample, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unet.requires_grad_(True)
    return list(trained)
