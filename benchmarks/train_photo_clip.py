# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Trains the photographs' CLIP: a real `CLIPModel` of two million parameters on forty people and ten kinds of objects.

    HF_SLUG_DATA=../shared/data python benchmarks/train_photo_clip.py

The people are the Olivetti faces, under invented names; the objects are CIFAR-10. Both are parquet files in the folder
that `HF_SLUG_DATA` names, and otherwise loaded by name. Neither the photographs nor weights made from them belong in
the project: they go to `.cache/photo-clip`, or to `--output`. About half an hour on one core; it can be stopped at any time and started again with the same command.
Shots 6 to 9 of each person and CIFAR-10's test split are never trained on, and nothing is chosen by their scores.
"""

import argparse
import copy
import json
import math
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from photo_sources import FACE_NAMES, NAMES, OBJECT_NAMES, TEMPLATE, TRAIN_SHOTS, WORDINGS, load_faces, load_objects
from tokenizers.pre_tokenizers import ByteLevel
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer


TRAINING = "training.json"  # beside the weights: how they were trained, and how they do on what is unseen
MAX_LENGTH = 16  # tokens of a caption, also where names are spelt


def build_processor(spell_names: bool = False) -> CLIPProcessor:
    """
    A CLIP processor like any other, whose BPE, learnt from the captions, makes one token of each of their words.

    Args:
        spell_names (`bool`, *optional*, defaults to `False`):
            Learn from the captions without their names: these then fall into letters (and a few pairs of them) that they share.
    """
    names = [""] if spell_names else NAMES
    words = sorted({word for wording in WORDINGS for name in names for word in wording.format(name).split()})
    spelt = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for parts in spelt for pair in pairwise(parts)):
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        for parts in spelt:
            for i in reversed(range(len(parts) - 1)):
                if tuple(parts[i : i + 2]) == merges[-1]:
                    parts[i : i + 2] = ["".join(merges[-1])]
    letters = sorted(ByteLevel.alphabet())  # any other word falls into these
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters), *map("".join, merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return CLIPProcessor(CLIPImageProcessorPil(**sizes, image_mean=[0.5] * 3, image_std=[0.5] * 3), tokenizer)


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    size = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "projection_dim": 128}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": MAX_LENGTH, **special}
    config = CLIPConfig(
        text_config={**size, **words, "num_hidden_layers": 4},
        vision_config={**size, "num_hidden_layers": 6, "image_size": 32, "patch_size": 4},
        projection_dim=128,
    )
    return CLIPModel._from_config(config, attn_implementation="eager")  # twice as fast as SDPA at this size on a CPU


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def augment(pixels: torch.Tensor, degrees: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirrors, turns (up to `degrees`), zooms, shifts, and changes brightness and contrast of pictures in [-1, 1]."""
    n = len(pixels)
    angle = torch.deg2rad(degrees) * uniform(n, -1, 1, generator)
    zoom, mirror = uniform(n, 0.85, 1.1, generator), uniform(n, -1, 1, generator).sign()
    across, down = uniform(n, -0.2, 0.2, generator), uniform(n, -0.2, 0.2, generator)
    first = torch.stack([mirror * zoom * angle.cos(), -zoom * angle.sin(), across], 1)
    second = torch.stack([mirror * zoom * angle.sin(), zoom * angle.cos(), down], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = uniform(n, 0.7, 1.3, generator), uniform(n, -0.25, 0.25, generator)
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return (mean + (pixels - mean) * contrast.view(-1, 1, 1, 1) + brightness.view(-1, 1, 1, 1)).clamp(-1, 1)


class Photographs:
    """Every step's photographs and captions: functions of the seed and the step alone, so that training resumes unchanged."""

    def __init__(self, processor: CLIPProcessor, face_shots: int, object_shots: int, seed: int = 0):
        self.tokenizer, self.seed = processor.tokenizer, seed
        self.shots = [face_shots] * len(FACE_NAMES) + [object_shots] * len(OBJECT_NAMES)
        rows = [row for row in load_faces() if row["shot"] < TRAIN_SHOTS] + load_objects("train")
        self.pixels = torch.from_numpy(np.stack([np.asarray(row["image"]) for row in rows])).permute(0, 3, 1, 2)
        names = np.array([row["name"] for row in rows])
        self.by_name = [torch.from_numpy(np.flatnonzero(names == name)) for name in NAMES]

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Pictures of every name, the index of each one's name, and one caption per name."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_000 + step)
        chosen = [at[torch.randint(len(at), (n,), generator=generator)] for at, n in zip(self.by_name, self.shots)]
        labels = torch.arange(len(NAMES)).repeat_interleave(torch.tensor(self.shots))
        degrees = torch.where(labels < len(FACE_NAMES), 12.0, 5.0)
        pixels = augment(self.pixels[torch.cat(chosen)].float() / 127.5 - 1, degrees, generator)
        wordings = torch.randint(len(WORDINGS), (len(NAMES),), generator=generator).tolist()
        captions = [WORDINGS[i].format(name) for i, name in zip(wordings, NAMES)]
        return pixels, labels, self.tokenizer(captions, padding=True, return_tensors="pt")


def contrast(images: torch.Tensor, texts: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """
    CLIP's symmetric loss over groups of distinct names, people and objects counting the same.

    A picture is compared with the caption of every name; a caption with one picture of every name, its group. No two
    pictures of a name ever stand against each other.
    """
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    people, groups = len(FACE_NAMES), int(labels.bincount().max())
    of_image = F.cross_entropy(logits, labels, reduction="none")
    loss = of_image[labels < people].mean() + of_image[labels >= people].mean()
    # the k-th group: the k-th picture of every name, over again where a name has fewer
    by_name = [part[torch.arange(groups) % len(part)] for part in logits.split(labels.bincount().tolist())]
    by_caption = torch.stack(by_name, 1).permute(2, 1, 0)  # caption, picture's name, group
    target = torch.arange(len(texts))[:, None].expand(-1, groups)
    of_text = F.cross_entropy(by_caption, target, reduction="none")
    return (loss + of_text[:people].mean() + of_text[people:].mean()) / 4


def training_loss(model: CLIPModel, pixels: torch.Tensor, labels: torch.Tensor, captions: dict) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        images = model.get_image_features(pixel_values=pixels).pooler_output
        texts = model.get_text_features(**captions).pooler_output
    return contrast(images.float(), texts.float(), labels, model.logit_scale.exp().clamp(max=100))


@torch.no_grad()
def zero_shot(model: CLIPModel, processor: CLIPProcessor, rows: list[dict]) -> dict[str, float]:
    """Accuracy over all fifty names under the usual template."""
    prompts = processor.tokenizer([TEMPLATE.format(name) for name in NAMES], padding=True, return_tensors="pt")
    texts = F.normalize(model.get_text_features(**prompts).pooler_output, dim=-1)
    ranks = []
    for i in range(0, len(rows), 500):
        part = rows[i : i + 500]
        pixels = processor.image_processor([row["image"] for row in part], return_tensors="pt")["pixel_values"]
        with torch.autocast("cpu", torch.bfloat16):
            images = model.get_image_features(pixel_values=pixels).pooler_output.float()
        logits = F.normalize(images, dim=-1) @ texts.T
        own = logits.gather(1, torch.tensor([[NAMES.index(row["name"])] for row in part]))
        ranks.append((logits > own).sum(1))
    ranks = torch.cat(ranks)
    accuracy = {f"top{k}": round((ranks < k).float().mean().item(), 4) for k in (1, 5)}
    return {**accuracy, "n": len(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(".cache/photo-clip/model"))
    parser.add_argument("--checkpoint", type=Path, help="default: checkpoint.pt beside the output")
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--face-shots", type=int, default=1, help="pictures of every person in a step")
    parser.add_argument("--object-shots", type=int, default=10, help="pictures of every object in a step")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of what is seen when")
    parser.add_argument(
        "--spell-names", action="store_true", help="names are no tokens of their own, but fall into letters"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    checkpoint = args.checkpoint or args.output.parent / "checkpoint.pt"
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    processor = build_processor(args.spell_names)
    model = build_model(processor.tokenizer)
    average = copy.deepcopy(model).eval()  # what is saved: a moving average over the last few hundred steps
    matrices, rest = [[p for p in model.parameters() if (p.ndim > 1) is many] for many in (True, False)]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    start = 0
    wanted = {key: getattr(args, key) for key in ("steps", "learning_rate", "face_shots", "object_shots", "seed")}
    wanted |= {"spell_names": True} if args.spell_names else {}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        # those of earlier versions do not say what they were made by
        if (found := state.get("made_by", wanted)) != wanted:
            raise SystemExit(
                f"{checkpoint} was made by {found}, not by {wanted}. Remove it, or name another --checkpoint."
            )
        model.load_state_dict(state["model"]), average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    photographs = Photographs(processor, args.face_shots, args.object_shots, args.seed)
    unseen = {"faces": [row for row in load_faces() if row["shot"] >= TRAIN_SHOTS], "objects": load_objects("test")}
    print(f"{model.num_parameters():,} parameters, {sum(photographs.shots)} photographs a step", flush=True)
    began = time.time()
    for step in tqdm(range(start, args.steps), initial=start, total=args.steps, mininterval=10):
        for group in optimizer.param_groups:
            warm, cool = min(1, (step + 1) / 200), 0.5 + 0.5 * math.cos(math.pi * step / args.steps)
            group["lr"] = args.learning_rate * warm * cool
        loss = training_loss(model, *photographs(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters()):
                slow.lerp_(fast, 0.01 if step > 200 else 1.0)
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            parts = {kind: rows[:: max(1, len(rows) // 1000)] for kind, rows in unseen.items()}  # all only at the end
            scores = {kind: zero_shot(average, processor, rows) for kind, rows in parts.items()}
            now = {"step": step + 1, "loss": round(loss.item(), 4), "s": round(time.time() - began)}
            print(json.dumps({**now, **scores}), flush=True)
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            temporary = checkpoint.with_suffix(".tmp")
            torch.save({**state, "step": step + 1, "made_by": wanted}, temporary)
            temporary.replace(checkpoint)
    average.save_pretrained(args.output)
    processor.save_pretrained(args.output)
    found = {kind: zero_shot(average, processor, rows) for kind, rows in unseen.items()}
    # what tables say of it
    (args.output / TRAINING).write_text(json.dumps({"made_by": wanted, "unseen": found}, indent=2) + "\n")
    print("unseen:", json.dumps(found))


if __name__ == "__main__":
    main()
