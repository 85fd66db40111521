# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The objective of Stable Diffusion: what a prompt is worth in denoising, through the frozen UNet into the text tower."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import logging

from ..data import Pairs
from ..encoders import Encoder
from ..errors import UnsupportedModelError
from ..processes import ALONE, Processes
from .objective import HostObjective


_PREDICTIONS = ("epsilon", "v_prediction", "sample")
# Prompts whose embeddings have a larger cosine are the same to the encoder: spelt otherwise, or cut off where they differ.
_SAME = 1 - 1e-5


def find_obstacle(pipe: Any) -> str | None:
    """Says why a pipeline's denoising loss can't be had here, or `None` if it can."""
    from diffusers import UNet2DConditionModel

    name = type(pipe).__name__
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    unet = getattr(unet, "_orig_mod", unet)  # compiled
    reads: Any = getattr(unet, "config", None)
    kind = getattr(getattr(pipe, "scheduler", None), "config", {}).get("prediction_type")
    if not isinstance(unet, UNet2DConditionModel) or vae is None or kind not in _PREDICTIONS:
        return (
            f"The denoising loss of {name} is not known here: expected a pipeline with a VAE, a UNet2DConditionModel and a scheduler "
            f"that predicts {', '.join(_PREDICTIONS)}."
        )
    if reads.in_channels != vae.config.latent_channels:
        return (
            f"The UNet of {name} reads {reads.in_channels} channels, and pictures have {vae.config.latent_channels}: it is told more "
            f"than a prompt (inpainting, editing, depth). Use the text-to-image model with the same text encoder."
        )
    if reads.class_embed_type or reads.num_class_embeds or pipe.config.get("requires_aesthetics_score"):
        return f"The UNet of {name} is told more than a prompt: classes, an image's embedding or a score."
    return None


class DenoisingObjective(HostObjective):
    """
    `−E ‖ε_θ(zₜ, t, c) − ε_θ(zₜ, t, c′)‖²` of images under their own prompts c, c′ being the nearest other prompt of the retain set.

    That is `E ‖ε − ε_θ(c)‖² − E ‖ε − ε_θ(c′)‖²`, negated what the prompt saves of the denoising loss over its neighbour, at timesteps
    and noise drawn anew each time: it rises to 0 as the UNet is told no more by "a seven in neon style" than by "a one in neon style". The
    denoising loss of c alone would not do. A trained UNet predicts the mean of the noise, where that loss has no slope:
    `∂/∂c = 2 E[(ε_θ(c) − ε)·∂ε_θ/∂c] = 0`. What a sample of images leaves of it is chance, which of two ways included.
    The UNet reads every token of a prompt, padding included, and the CLIP loss only the pooled one: what the former knows of a
    concept, the latter may not see.

    Args:
        pipe (`DiffusionPipeline`): A Stable Diffusion pipeline with a UNet (1.x, 2.x, XL). Left as it is.
        encoder ([`Encoder`]): Which of its text encoders.
        forget, retain (`Pairs`): Images and their prompts.
        draws (`int`, *optional*, defaults to 4): How often each forget image is noised; retain images a quarter as often.
        batch_size (`int`, *optional*, defaults to 32):
            Images per pass through the UNet. Another one draws other noise: the estimate is of the same loss.
        seed (`int`, *optional*, defaults to 0): Seed of the noise and the timesteps.
        concept (`str`, *optional*): Its name; prompts that hold it are nobody's neighbour.
        processes ([`Processes`], *optional*): Those that share the batches.

    Raises:
        UnsupportedModelError: If the pipeline has no UNet and VAE that work this way, or is offloaded.
        ValueError: If `draws` is less than 1.
    """

    def __init__(
        self,
        pipe: Any,
        encoder: Encoder,
        forget: Pairs,
        retain: Pairs,
        draws: int = 4,
        batch_size: int = 32,
        seed: int = 0,
        concept: str | None = None,
        processes: Processes = ALONE,
    ):
        from diffusers import DDPMScheduler

        problem = find_obstacle(pipe)
        if problem is not None:
            raise UnsupportedModelError(f"{problem} Use objective='clip'.")
        unet, vae = pipe.unet, pipe.vae
        texts = [part for name, part in pipe.components.items() if name.startswith("text_encoder")]
        parts = [part for part in (unet, vae, *texts) if isinstance(part, nn.Module)]
        if any(_is_offloaded(part) for part in parts):
            raise UnsupportedModelError(
                f"{type(pipe).__name__} is offloaded, and a gradient needs the text encoder and the UNet in one place. Load it "
                f"without offloading, on one device, or use objective='clip'."
            )
        if not isinstance(draws, int) or draws < 1:
            raise ValueError(f"Expected draws of at least 1, found {draws!r}.")
        super().__init__(parts, encoder, forget, retain, processes)
        self.pipe, self.draws, self.batch_size, self.seed, self.concept = pipe, draws, batch_size, seed, concept
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)

    def losses(self, pairs: Pairs, description: str) -> Iterator[tuple[torch.Tensor, float]]:
        """Yields the loss of a batch, over the set as often as it is noised."""
        generator = torch.Generator().manual_seed(self.seed)
        neighbors = self.find_neighbors(pairs)
        draws = self.draws if pairs is self.forget else max(1, self.draws // 4)
        starts = [start for _ in range(draws) for start in range(0, len(pairs), self.batch_size)]
        encoded: dict[int, torch.Tensor] = {}  # what is noised several times goes through the VAE once
        for i, start in enumerate(logging.tqdm(starts, desc=description, leave=False, disable=len(starts) < 3)):
            batch = pairs[start : start + self.batch_size]
            noise, steps = self._noise(
                len(batch), generator
            )  # those of other processes, too: what is drawn depends on none
            if self.processes.has(i):
                latents = encoded[start] if start in encoded else self._latents(batch)
                if draws > 1:
                    encoded[start] = latents
                yield self._loss(batch.texts, latents, neighbors, noise, steps), len(batch) / (len(pairs) * draws)

    def encode(self, pairs: Pairs) -> None:
        """Runs the text encoder on every prompt, as often as it occurs, padded as the pipeline does."""
        for _, start in self.processes.mine(range(0, len(pairs), 256)):
            self._encode(pairs[start : start + 256].texts)

    @torch.no_grad()
    def find_neighbors(self, pairs: Pairs) -> dict[str, str]:
        """
        Finds the prompt of the retain set that says most nearly the same as each prompt of a set, other than itself.

        Args:
            pairs (`Pairs`): Images and their prompts.

        Returns:
            `dict[str, str]`: By prompt. Near is a large cosine of what the UNet is told, averaged over tokens; what the encoder can't
            tell apart (another spelling, or other words beyond its length) is no neighbour. Where there is none, it is the empty
            prompt.
        """
        own = list(dict.fromkeys(pairs.texts))
        others = [text for text in dict.fromkeys(self.retain.texts) if not self._says_it(text)] or [""]
        directions = self._directions(others)
        neighbors: dict[str, str] = {}
        for start in range(0, len(own), 256):
            part = own[start : start + 256]
            near = self._directions(part) @ directions.T
            near.masked_fill_(near > _SAME, -torch.inf)
            best, places = near.max(1)
            neighbors |= {
                text: others[place] if value > -torch.inf else ""
                for text, value, place in zip(part, best.tolist(), places.tolist(), strict=True)
            }
        return neighbors

    def _says_it(self, text: str) -> bool:
        return self.concept is not None and self.concept.casefold() in text.casefold()

    def _directions(self, texts: list[str]) -> torch.Tensor:
        said = [
            self._encode(texts[start : start + 256])[0].float().mean(1).cpu() for start in range(0, len(texts), 256)
        ]
        return F.normalize(torch.cat(said), dim=-1)

    def _noise(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise and timesteps for n images."""
        height, width = (side // self.pipe.vae_scale_factor for side in self._size())
        noise = torch.randn(n, self.pipe.vae.config.latent_channels, height, width, generator=generator)
        return noise, self._timesteps(n, generator)

    def _loss(
        self,
        texts: list[str],
        latents: torch.Tensor,
        neighbors: Mapping[str, str],
        noise: torch.Tensor,
        steps: torch.Tensor,
    ) -> torch.Tensor:
        steps = steps.to(latents.device)
        noisy = self.scheduler.add_noise(latents, noise.to(latents), steps)
        found = self._predict(noisy, steps, texts)
        with torch.no_grad():
            wanted = self._predict(noisy, steps, [neighbors[text] for text in texts])
        return -F.mse_loss(found.float(), wanted.float())

    def _predict(self, noisy: torch.Tensor, steps: torch.Tensor, texts: list[str]) -> torch.Tensor:
        said, conditions = self._prompts(texts)
        return self.pipe.unet(noisy, steps, encoder_hidden_states=said, added_cond_kwargs=conditions).sample

    def _timesteps(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """One timestep of every n-th part of the schedule, in random order: less chance than n independent ones."""
        places = (torch.arange(n) + torch.rand(n, generator=generator)) / n
        count = self.scheduler.config.num_train_timesteps
        steps = (places * count).long().clamp_max(count - 1)  # a sum may have been rounded up to n
        return steps[torch.randperm(n, generator=generator)]

    @torch.no_grad()
    def _latents(self, batch: Pairs) -> torch.Tensor:
        vae, unet = self.pipe.vae, self.pipe.unet
        height, width = self._size()
        pixels = self.pipe.image_processor.preprocess(batch.images(), height=height, width=width, resize_mode="crop")
        dtype = vae.dtype
        # as the pipelines do: XL's VAE overflows in float16. Up and down again is exact.
        upcast = dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
        try:
            if upcast:
                vae.to(torch.float32)
            latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
        finally:
            if upcast:
                vae.to(dtype)
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return ((latents - shift) * vae.config.scaling_factor).to(unet.dtype)

    def _size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        size, scale = self.pipe.unet.config.sample_size, self.pipe.vae_scale_factor
        height, width = (size, size) if isinstance(size, int) else size
        return height * scale, width * scale

    def _prompts(self, texts: list[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
        """What the UNet is told; each different prompt is encoded once."""
        unique = list(dict.fromkeys(texts))
        rows = torch.tensor([unique.index(text) for text in texts], device=self.pipe.unet.device)
        said = self._encode(unique)
        if len(said) == 2:
            return said[0][rows], None
        # XL: (embeddings, negative ones, pooled, negative pooled), and the size of the picture
        height, width = self._size()
        times = torch.tensor([[height, width, 0, 0, height, width]]).expand(len(texts), -1)
        return said[0][rows], {"text_embeds": said[2][rows], "time_ids": times.to(said[0])}

    def _encode(self, texts: list[str]) -> tuple[torch.Tensor, ...]:
        return self.pipe.encode_prompt(
            prompt=texts,
            device=self.pipe.unet.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )


def _is_offloaded(part: nn.Module) -> bool:
    """Whether the weights of a part, or some of them, come to their device only while it runs."""
    from accelerate.hooks import CpuOffload, SequentialHook

    for module in part.modules():
        hook = getattr(module, "_hf_hook", None)
        hooks = hook.hooks if isinstance(hook, SequentialHook) else [hook]
        if any(isinstance(one, CpuOffload) or getattr(one, "offload", False) for one in hooks):
            return True
        registry = getattr(module, "_diffusers_hook", None)
        if registry is not None and "group_offloading" in registry.hooks:
            return True
    return False
