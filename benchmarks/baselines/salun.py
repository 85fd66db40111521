# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency (Fan et al., ICLR 2024), for diffusion models."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from tqdm.auto import tqdm

from hf_slug.data import Pairs

from .conditioning import denoising_loss, draw_noise, embed_prompts, encode_images
from .saliency import salient


def forgetting_loss(
    unet: Any, noisy: torch.Tensor, steps: torch.Tensor, said: torch.Tensor, mistaken: torch.Tensor
) -> torch.Tensor:
    """
    `E ‖ε_θ(x_t | c′) − ε_θ(x_t | c)‖²`, c′ ≠ c (first term of eq. 6): a picture of the concept is denoised as one of another.

    Args:
        unet (`UNet2DConditionModel`): The model under training. What it says to c′ is what is aimed at, and has no gradient.
        noisy, steps (`torch.Tensor`): x_t and t.
        said, mistaken (`torch.Tensor`): The embedded prompts c and c′.

    Returns:
        `torch.Tensor`: The loss.
    """
    with torch.no_grad():
        wanted = unet(noisy, steps, encoder_hidden_states=mistaken).sample
    return F.mse_loss(unet(noisy, steps, encoder_hidden_states=said).sample, wanted)


def salun(
    pipe: Any,
    forget: Pairs,
    retain: Pairs,
    mistaken: Mapping[str, str],
    lr: float = 1e-5,
    steps: int = 100,
    alpha: float = 1.0,
    share: float = 0.5,
    batch_size: int = 8,
    seed: int = 0,
) -> list[str]:
    """
    Finetunes the UNet's salient weights to take pictures of a concept for those of another, and to denoise the rest as before.

    Args:
        pipe (`StableDiffusionPipeline`): The pipeline; its UNet is changed in place.
        forget, retain (`Pairs`): Pictures and their prompts.
        mistaken (`Mapping[str, str]`): For each prompt of the forget set, one of another concept.
        lr (`float`, *optional*, defaults to 1e-5): Adam's.
        steps (`int`, *optional*, defaults to 100): Training steps, of one batch of each set.
        alpha (`float`, *optional*, defaults to 1): Weight of the retain set's denoising loss (second term of eq. 6).
        share (`float`, *optional*, defaults to 0.5): Of the weights, how many are salient.
        batch_size (`int`, *optional*, defaults to 8): Pictures per batch.
        seed (`int`, *optional*, defaults to 0): Seed of pictures, noise and timesteps.

    Returns:
        `list[str]`: Names of the parameters of which some weights were trained.
    """
    unet, generator = pipe.unet, torch.Generator().manual_seed(seed)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    unet.requires_grad_(True)
    parameters = dict(unet.named_parameters())
    latents, kept = encode_images(pipe, forget.images()), encode_images(pipe, retain.images())
    said, kept_said = embed_prompts(pipe, forget.texts), embed_prompts(pipe, retain.texts)
    wrong = embed_prompts(pipe, [mistaken[text] for text in forget.texts])

    unet.zero_grad()
    for start in tqdm(range(0, len(forget), batch_size), desc="SalUn: saliency", leave=False):
        part = slice(start, start + batch_size)
        loss = denoising_loss(unet, scheduler, latents[part], said[part], generator)
        (loss * len(latents[part]) / len(forget)).backward()
    masks = salient({name: p.grad for name, p in parameters.items() if p.grad is not None}, share)

    optimizer = torch.optim.Adam([parameters[name] for name in masks], lr=lr)
    for _ in tqdm(range(steps), desc="SalUn", leave=False):
        own = torch.randint(len(forget), (batch_size,), generator=generator)
        rest = torch.randint(len(retain), (batch_size,), generator=generator)
        noisy, times, _ = draw_noise(scheduler, latents[own], generator)
        loss = forgetting_loss(unet, noisy, times, said[own], wrong[own])
        loss = loss + alpha * denoising_loss(unet, scheduler, kept[rest], kept_said[rest], generator)
        optimizer.zero_grad()
        loss.backward()
        for name, mask in masks.items():
            parameters[name].grad.mul_(mask)  # Adam does not move what never had a gradient: eq. 4
        optimizer.step()
    unet.zero_grad()
    return [name for name, mask in masks.items() if mask.any()]
