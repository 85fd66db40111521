# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Trains the zoo's Stable Diffusion: a real `StableDiffusionPipeline` whose text encoder is the zoo CLIP's text tower.

    python examples/train_zoo_stable_diffusion.py --output hf_slug/zoo/stable_diffusion

About half an hour on one core, in two stages: the VAE, then the UNet on latents that are encoded once. It can be
stopped at any time and started again with the same command: it goes on from its last checkpoint. Only the training
split's handwriting is seen. The text tower is frozen and shipped bit for bit as it is in the zoo's CLIP, so that a
patch of the one fits the other.

Where `hf_slug/zoo/judge` is there (see `train_zoo_judge.py`), it says how many generated digits and styles are right.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tqdm.auto import tqdm
from train_zoo_clip import DIGIT_WORDINGS, STYLE_WORDINGS, WORDINGS, build_tokenizer
from transformers import CLIPTextModel

from hf_slug.zoo import JUDGE_FOLDER, load_clip, load_judge
from hf_slug.zoo.data import CAPTION, DIGITS, STYLES, TEMPLATES, handwriting
from hf_slug.zoo.drawing import draw, place


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=4,
        sample_size=32,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        cross_attention_dim=64,
        block_out_channels=(48, 80),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        attention_head_dim=2,  # what diffusers calls so is the number of heads
        norm_num_groups=8,
    )


def build_scheduler() -> DDIMScheduler:
    # The cosine schedule ends in pure noise, where epsilon says nothing of the image and v does; "trailing" starts
    # there, as sampling does, however few the steps.
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def build_pipeline(vae: AutoencoderKL, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    clip, _ = load_clip()
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict())
    return StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder.eval().requires_grad_(False),
        tokenizer=build_tokenizer(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def draw_pool(per_cell: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Pictures (n, 3, 32, 32) in `uint8` and their cells (n,), `10 * digit + style`.

    Every cell is there equally often, half of its pictures are augmented. Always the same for a seed, so that a run
    that goes on sees the pictures it began with.
    """
    generator = np.random.default_rng(seed)
    scans, digits = handwriting("train")
    pictures = []
    for digit in range(10):
        chosen = np.flatnonzero(digits == digit)
        for style in STYLES:
            for i in range(per_cell):
                glyph = place(scans[generator.choice(chosen)], generator, augment=i % 2 == 0)
                pictures.append(draw(glyph, style, generator))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), torch.arange(100).repeat_interleave(per_cell)


def as_input(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.float() / 127.5 - 1


class Run:
    """One stage of the training: the optimizer, its schedule, and the checkpoint that both stages share."""

    def __init__(
        self, args: argparse.Namespace, stage: str, models: dict[str, torch.nn.Module], steps: int, lr: float
    ):
        self.path, self.stage, self.models, self.steps, self.lr = args.checkpoint, stage, models, steps, lr
        parameters = models[stage].parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.start, self.began = 0, time.time()
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            for name, model in models.items():
                if name in state:
                    model.load_state_dict(state[name])
            if state["stage"] == stage:
                self.optimizer.load_state_dict(state["optimizer"])
                self.start = state["step"]
            elif state["stage"] == "unet":
                self.start = steps  # a checkpoint of the second stage has the first one behind it

    def descend(self, step: int, loss: torch.Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.models[self.stage].parameters(), 1.0)
        self.optimizer.step()

    def save(self, step: int, **numbers: float) -> None:
        line = {"stage": self.stage, "step": step, "s": round(time.time() - self.began), **numbers}
        print(json.dumps(line), flush=True)
        state = {name: model.state_dict() for name, model in self.models.items()}
        temporary = self.path.with_suffix(".tmp")
        torch.save({**state, "stage": self.stage, "step": step, "optimizer": self.optimizer.state_dict()}, temporary)
        temporary.replace(self.path)


def train_vae(args: argparse.Namespace, vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    run = Run(args, "vae", {"vae": vae}, args.vae_steps, args.vae_learning_rate)
    vae.set_attn_processor(AttnProcessor())  # twice as fast as SDPA to train at this size on a CPU
    for step in tqdm(range(run.start, run.steps), initial=run.start, total=run.steps):
        generator = torch.Generator().manual_seed(step)
        pixels = as_input(pictures[torch.randint(len(pictures), (32,), generator=generator)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - pixels
        kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        # the absolute error keeps strokes sharp; the little KL keeps the latents smooth enough for the UNet
        run.descend(step, error.square().mean() + 0.2 * error.abs().mean() + 2e-4 * kl)
        if (step + 1) % 250 == 0 or step + 1 == run.steps:
            run.save(step + 1, mse=round(error.square().mean().item(), 5), kl=round(kl.item(), 3))


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The posterior's mean and deviation of every picture; sets `scaling_factor` to give latents unit variance."""
    means, deviations = [], []
    with torch.autocast("cpu", torch.bfloat16):
        for part in tqdm(pictures.split(100), desc="encoding"):
            posterior = vae.encode(as_input(part)).latent_dist
            means.append(posterior.mean.float()), deviations.append(posterior.std.float())
    mean, deviation = torch.cat(means), torch.cat(deviations)
    factor = 1 / (mean.var() + deviation.square().mean()).sqrt().item()
    vae.register_to_config(scaling_factor=round(factor, 4))
    return mean, deviation


class Captions:
    """Every caption the UNet is trained on, embedded as the pipeline embeds it, padding and all."""

    def __init__(self, pipeline: StableDiffusionPipeline):
        fill = [{"digit": digit, "style": style} for digit in DIGITS for style in STYLES]
        full = [CAPTION, *dict.fromkeys(w for w in WORDINGS if w != CAPTION)]
        digit = [TEMPLATES["digit"], *dict.fromkeys(w for w in DIGIT_WORDINGS if w != TEMPLATES["digit"])]
        style = [TEMPLATES["style"], *dict.fromkeys(w for w in STYLE_WORDINGS if w != TEMPLATES["style"])]
        self.counts = len(full), len(digit), len(style)
        # a column for each of the 100 cells, a row for each wording
        texts = [wording.format(**names) for wording in full for names in fill]
        texts += [wording.format(names["digit"]) for wording in digit for names in fill]
        texts += [wording.format(names["style"]) for wording in style for names in fill]
        unique = list(dict.fromkeys(["", *texts]))
        with torch.no_grad():
            embedded = [
                pipeline.encode_prompt(part.tolist(), "cpu", 1, False)[0] for part in np.array_split(unique, 10)
            ]
        self.embeddings = torch.cat(embedded)
        self.rows = torch.tensor([unique.index(text) for text in texts]).view(-1, 100)

    def sample(self, cells: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One in ten is empty (for guidance), one in twenty names the digit alone, one in twenty the style alone."""
        full, digit, style = self.counts
        n = len(cells)

        def some(low: int, high: int) -> torch.Tensor:
            return torch.randint(low, high, (n,), generator=generator)

        kind = torch.rand(n, generator=generator)
        wording = torch.where(kind < 0.75, 0, some(1, full))
        wording = torch.where((kind >= 0.80) & (kind < 0.85), some(full, full + digit), wording)
        wording = torch.where((kind >= 0.85) & (kind < 0.90), some(full + digit, full + digit + style), wording)
        return self.embeddings[torch.where(kind < 0.90, self.rows[wording, cells], 0)]


@torch.no_grad()
def judge_pictures(pipeline: StableDiffusionPipeline, per_cell: int, seed: int, **settings) -> dict[str, float]:
    """Generates `per_cell` pictures of every (digit, style): how many show the digit, and the style, asked for?"""
    judge, processor = load_judge()
    prompts = [CAPTION.format(digit=digit, style=style) for digit in DIGITS for style in STYLES]
    right = {"digit": 0, "style": 0}
    for i in range(per_cell):
        images = pipeline(prompts, generator=torch.Generator().manual_seed(seed + i), **settings).images
        logits = judge(**processor(images, return_tensors="pt")).logits
        right["digit"] += int((logits[:, :10].argmax(1) == torch.arange(100) // 10).sum())
        right["style"] += int((logits[:, 10:].argmax(1) == torch.arange(100) % 10).sum())
    return {"n": 100 * per_cell, **{kind: count / (100 * per_cell) for kind, count in right.items()}}


def save_pipeline(folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel) -> None:
    """Saves VAE and UNet in half precision, the text tower as it is."""
    # a fresh pipeline: using a tokenizer leaves its padding in its file
    build_pipeline(copy.deepcopy(vae).half(), copy.deepcopy(unet).half()).save_pretrained(folder)


def train_unet(
    args: argparse.Namespace,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    pictures: torch.Tensor,
    cells: torch.Tensor,
) -> StableDiffusionPipeline:
    average = copy.deepcopy(unet)  # what is shipped: an exponential moving average over the last tenth or so
    run = Run(args, "unet", {"unet": unet, "vae": vae, "average": average}, args.unet_steps, args.unet_learning_rate)
    mean, deviation = encode(vae, pictures)
    pipeline = build_pipeline(vae.eval(), average.eval())
    pipeline.set_progress_bar_config(disable=True)
    captions = Captions(pipeline)
    scheduler, factor = pipeline.scheduler, vae.config.scaling_factor
    alphas = scheduler.alphas_cumprod
    snr = alphas / (1 - alphas)
    # As in min-SNR (arXiv:2303.09556) less where hardly any noise is left, but not less where all is noise: what becomes
    # of the picture is decided there.
    weights = (6 / (snr + 1)).clamp(max=1)
    unet.set_attn_processor(AttnProcessor())  # twice as fast as SDPA to train at this size on a CPU
    for step in tqdm(range(run.start, run.steps), initial=run.start, total=run.steps):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(cells), (args.batch,), generator=generator)
        noise = torch.randn((2, args.batch, *mean.shape[1:]), generator=generator)
        latents = (mean[chosen] + deviation[chosen] * noise[0]) * factor
        # one timestep from each of as many equal spans: less variance than independent ones
        spread = (torch.arange(args.batch) + torch.rand(args.batch, generator=generator)) / args.batch
        timesteps = (spread * len(alphas)).long()
        noised = scheduler.add_noise(latents, noise[1], timesteps)
        target = scheduler.get_velocity(latents, noise[1], timesteps)
        embeddings = captions.sample(cells[chosen], generator)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(noised, timesteps, embeddings).sample
        loss = ((predicted.float() - target).square().mean((1, 2, 3)) * weights[timesteps]).mean()
        run.descend(step, loss)
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), unet.parameters()):
                slow.lerp_(fast, max(0.002, 10 / (10 + step)))
        if (step + 1) % 500 == 0 or step + 1 == run.steps:
            score = {"loss": round(loss.item(), 4)}
            if (step + 1) % 1000 == 0 and JUDGE_FOLDER.exists():
                score.update(judge_pictures(pipeline, 2, seed=step, num_inference_steps=15, guidance_scale=3.0))
            run.save(step + 1, **score)
            save_pipeline(args.output, vae, average)
    save_pipeline(args.output, vae, average)
    shipped = StableDiffusionPipeline.from_pretrained(args.output)  # in float32 again
    shipped.set_progress_bar_config(disable=True)
    return shipped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("hf_slug/zoo/stable_diffusion"))
    parser.add_argument("--checkpoint", type=Path, default=Path("zoo-stable-diffusion-checkpoint.pt"))
    parser.add_argument("--vae-steps", type=int, default=3_000)
    parser.add_argument("--unet-steps", type=int, default=5_000)
    parser.add_argument("--vae-learning-rate", type=float, default=2e-3)
    parser.add_argument("--unet-learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    vae, unet = build_vae(), build_unet()
    pictures, cells = draw_pool(per_cell=300)
    train_vae(args, vae, pictures)
    pipeline = train_unet(args, vae, unet, pictures, cells)
    if JUDGE_FOLDER.exists():
        score = judge_pictures(pipeline, 20, seed=1_000_000, num_inference_steps=15, guidance_scale=3.0)
        print("judged (15 steps, guidance 3):", json.dumps(score))


if __name__ == "__main__":
    main()
