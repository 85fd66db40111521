# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Times `load_unlearning` against diffusers' `load_lora_weights`, and generation with and without a patch, and writes
benchmarks/results/loading.md.

    python benchmarks/loading.py             # a minute or two on one core
    python benchmarks/loading.py --quick     # a few rounds, to loading_quick.md

Everything is loaded from a folder on disk, in one process, by turns, and the median is taken, so that
whatever else the machine does falls on all alike.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
import transformers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file
from tables import markdown, write
from tqdm.auto import tqdm

from hf_slug import SlugConfig, UnlearningPatch, zoo
from hf_slug.encoders import find_encoders
from hf_slug.fingerprint import compute_fingerprint
from hf_slug.patch_files import WEIGHTS


ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]  # what diffusers' own scripts train in a text encoder
PROMPT = "a photo of a three in neon style"


def zoo_pipeline() -> Any:
    """The zoo's Stable Diffusion."""
    return zoo.load_stable_diffusion()


def real_size_pipeline(width: int, blocks_of_text: int) -> Any:
    """A text encoder of a real size (random weights), in front of a tiny UNet."""
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=blocks_of_text,
        num_attention_heads=width // 64,
        projection_dim=width,
    )
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        cross_attention_dim=width,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **blocks,
    )
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return diffusers.StableDiffusionPipeline(
        text_encoder=transformers.CLIPTextModel(config).eval(),
        tokenizer=zoo.load_clip()[1].tokenizer,
        unet=unet.eval(),
        vae=diffusers.AutoencoderKL(**kinds, **blocks, latent_channels=4).eval(),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


HOSTS = {
    "the zoo's Stable Diffusion": zoo_pipeline,
    "a text encoder of the size of 1.x's": partial(real_size_pipeline, 768, 12),
    "of the size of 2.x's": partial(real_size_pipeline, 1024, 23),
    "of the size of XL's second": partial(real_size_pipeline, 1280, 32),
}


def save_patch(pipe: Any, module: str, folder: Path) -> None:
    """Saves a dense patch of one layer, of random values."""
    (encoder,) = find_encoders(pipe)
    weights = {module: encoder.resolve([module])[module].weight.detach()}
    config = SlugConfig(target_modules=[module], tower="text", base_fingerprint=compute_fingerprint(weights))
    deltas = {module: 0.01 * torch.randn(weights[module].shape)}
    UnlearningPatch.from_deltas(deltas, config).save_pretrained(folder)


def save_lora(pipe: Any, targets: list[str], folder: Path) -> None:
    """Saves a LoRA of rank 4 in diffusers' format, of random values."""
    pipe.text_encoder.add_adapter(LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    layers = get_peft_model_state_dict(pipe.text_encoder)
    pipe.save_lora_weights(folder, text_encoder_lora_layers=layers)
    pipe.unload_lora_weights()


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def time_loading(pipe: Any, module: str, repeats: int) -> dict[str, list[float]]:
    """Seconds by what is loaded: a patch, its file alone, a LoRA of the attention matrices, and a LoRA of a single matrix."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_patch(pipe, module, folder / "patch")
        save_lora(pipe, ATTENTION, folder / "lora")
        save_lora(pipe, ["encoder.layers.1.self_attn.out_proj"], folder / "small lora")
        times: dict[str, list[float]] = {"patch": [], "file": [], "lora": [], "small lora": []}
        for i in tqdm(range(repeats + 1), desc=module):
            for what in sorted(times, reverse=bool(i % 2)):
                if what == "patch":
                    taken = seconds(lambda: pipe.load_unlearning(folder / "patch"))
                    pipe.unload_unlearning()
                elif what == "file":
                    taken = seconds(lambda: load_file(folder / "patch" / WEIGHTS))
                else:
                    taken = seconds(lambda what=what: pipe.load_lora_weights(folder / what))
                    pipe.unload_lora_weights()
                if i:  # the first round warms up
                    times[what].append(taken)
    return times


def time_generation(pipe: Any, module: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of a picture: plain, patched, and after unloading, one after the other in each round."""
    times: dict[str, list[float]] = {"plain": [], "patched": [], "unloaded": []}

    def generate() -> None:
        size = pipe.unet.config.sample_size * pipe.vae_scale_factor
        pipe(PROMPT, num_inference_steps=10, height=size, width=size, output_type="pt")

    with tempfile.TemporaryDirectory() as folder:
        save_patch(pipe, module, Path(folder))
        generate()
        for _ in tqdm(range(repeats), desc="pictures"):
            times["plain"].append(seconds(generate))
            pipe.load_unlearning(folder)
            times["patched"].append(seconds(generate))
            pipe.unload_unlearning()
            times["unloaded"].append(seconds(generate))
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """The median of the ratios of every round."""
    return median(a / b for a, b in zip(times[above], times[below]))


def measure(name: str, repeats: int) -> tuple[list[list[str]], list[str]]:
    """The rows of a host in both tables."""
    pipe = HOSTS[name]()
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for module in ("text_model.encoder.layers.1.self_attn.out_proj", "text_model.encoder.layers.1.mlp.fc1"):
        times = time_loading(pipe, module, repeats)
        shape = "×".join(map(str, find_encoders(pipe)[0].resolve([module])[module].weight.shape))
        ms = {what: 1000 * median(values) for what, values in times.items()}
        place = f"`{module.rpartition('layers.1.')[2]}`, {shape}"
        beyond = 1000 * median(a - b for a, b in zip(times["patch"], times["file"]))
        figures = [f"{ms['patch']:.1f}", f"{beyond:.1f}", f"{ms['lora']:.1f}", f"{ratio(times, 'patch', 'lora'):.2f}"]
        figures += [f"{ms['small lora']:.1f}", f"{ratio(times, 'patch', 'small lora'):.2f}"]
        rows.append([name, place, *figures])
    times = time_generation(pipe, module, repeats)
    generation = [name, *(f"{1000 * median(times[what]):.1f}" for what in ("plain", "patched", "unloaded"))]
    generation += [f"{ratio(times, what, 'plain'):.3f}" for what in ("patched", "unloaded")]
    return rows, generation


def main() -> None:
    """Measures every host and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="three rounds")
    args = parser.parse_args()
    if args.quick:
        args.repeats = 3
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    measured = [measure(name, args.repeats) for name in HOSTS]
    header = ["host", "layer", "patch", "beyond reading its file", "LoRA", "ratio", "LoRA of one matrix", "ratio"]
    parts = [
        "# Loading a patch, and drawing with one",
        f"Median milliseconds of {args.repeats} rounds by turns in one process, {args.threads} thread(s).",
        "A dense patch of one layer, its base checked by hash, against `load_lora_weights` of a rank-4 LoRA on the same encoder: one of "
        "all attention matrices, as diffusers' scripts train it, and one of a single matrix (`out_proj`, the least that diffusers "
        "loads). All from a folder. The ratio is the median of the rounds'. Goal: at most 50 ms beyond reading the file.",
        markdown(header, [line for lines, _ in measured for line in lines]),
        "One picture of ten steps, before a patch, with one, and after unloading it:",
        markdown(
            ["host", "plain", "patched", "unloaded", "patched / plain", "unloaded / plain"],
            [generation for _, generation in measured],
        ),
    ]
    write("loading_quick" if args.quick else "loading", parts)


if __name__ == "__main__":
    main()
