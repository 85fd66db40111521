# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the methods that change a UNet need of its pipeline: embedded prompts, noised pictures, and a prediction."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image


@torch.no_grad()
def embed_prompts(pipe: Any, prompts: Sequence[str]) -> torch.Tensor:
    """
    Embeds prompts as the pipeline does: padded to the tokenizer's length, every token of the last hidden state.

    Args:
        pipe (`StableDiffusionPipeline`): The pipeline.
        prompts (`Sequence[str]`): The prompts; each different one is encoded once.

    Returns:
        `torch.Tensor`: Of shape (prompts, tokens, channels).
    """
    unique = list(dict.fromkeys(prompts))
    said, _ = pipe.encode_prompt(unique, pipe.unet.device, 1, False)
    return said[[unique.index(prompt) for prompt in prompts]]


@torch.no_grad()
def encode_images(pipe: Any, images: Sequence[Image.Image]) -> torch.Tensor:
    """
    Encodes pictures as the latents that the UNet denoises.

    Args:
        pipe (`StableDiffusionPipeline`): The pipeline.
        images (`Sequence[PIL.Image]`): The pictures; they are resized to what the UNet draws.

    Returns:
        `torch.Tensor`: Of shape (images, channels, height, width).
    """
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    pixels = pipe.image_processor.preprocess(list(images), height=side, width=side)
    latents = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent_dist.mode()
    return (latents * pipe.vae.config.scaling_factor).to(pipe.unet.dtype)


def draw_noise(
    scheduler: Any, latents: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Noises latents at timesteps drawn evenly.

    Args:
        scheduler (`DDPMScheduler`): Of the pipeline's configuration.
        latents (`torch.Tensor`): Clean latents.
        generator (`torch.Generator`): Of the noise and the timesteps, on the CPU.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: x_t, t, and what a UNet of this prediction type should say.
    """
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    steps = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
    steps = steps.to(latents.device)
    wanted = {
        "epsilon": lambda: noise,
        "v_prediction": lambda: scheduler.get_velocity(latents, noise, steps),
        "sample": lambda: latents,
    }[scheduler.config.prediction_type]()
    return scheduler.add_noise(latents, noise, steps), steps, wanted


def denoising_loss(
    unet: Any, scheduler: Any, latents: torch.Tensor, said: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """`ℓ_MSE = E ‖ε − ε_θ(x_t | c)‖²`, the loss that diffusion models are trained with, of one batch."""
    noisy, steps, wanted = draw_noise(scheduler, latents, generator)
    return F.mse_loss(unet(noisy, steps, encoder_hidden_states=said).sample, wanted)
