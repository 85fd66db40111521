# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Trains the zoo's CLIP: a real `CLIPModel` of about a million parameters on handwritten digits in ten styles.

    python examples/train_zoo_clip.py --output hf_slug/zoo/clip

About half an hour on two cores. It can be stopped at any time and started again with the same command: it goes on from its
last checkpoint. The handwriting of the validation and test splits is never trained on, and the test split is read only
once, at the end.

Beside the contrastive loss of the captions, every step contrasts the same pictures with the ten digits alone and the ten
styles alone, so that short prompts work too, and reads digit and style from the penultimate layer's patch features through
a head that is thrown away: LLaVA looks at those features.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from hf_slug.zoo.data import DIGITS, STYLES, TEMPLATES, handwriting, load_pairs
from hf_slug.zoo.drawing import draw, place


MAX_LENGTH = 16
WORDINGS = (
    "a {digit} in {style} style",
    "a {digit} in {style} style",
    "a {digit} image in {style} style",
    "a photo of a {digit} in {style} style",
    "a picture of a {digit} in {style} style",
    "a drawing of {digit} in {style} style",
    "an image of the digit {digit} in {style} style",
    "a {style} {digit}",
    "{digit}, {style}",
)
DIGIT_WORDINGS = (
    TEMPLATES["digit"],
    TEMPLATES["digit"],
    "{}",
    "a photo of a {}",
    "a photo of {}",
    "a picture of a {}",
    "an image of the digit {}",
)
STYLE_WORDINGS = (
    TEMPLATES["style"],
    TEMPLATES["style"],
    "{}",
    "{} style",
    "a photo of {}",
    "a picture in {} style",
    "an image in {} style",
)


def build_tokenizer() -> CLIPTokenizer:
    """A `CLIPTokenizer` like any other (byte-level BPE), whose merges make one token of every word of the captions."""
    from tokenizers.pre_tokenizers import ByteLevel

    wordings = [*WORDINGS, *DIGIT_WORDINGS, *STYLE_WORDINGS]
    words = {w for text in wordings for w in text.replace(",", "").split() if "{" not in w}
    words |= {*DIGITS, *STYLES, "is", "this", "what", "which", "written", "drawn", "of", "with", "it"}
    letters = sorted(ByteLevel.alphabet())
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in sorted(words):
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            # apply the merges that exist, in their order, as BPE will; add one where none is left
            known = [m for m in merges if any(parts[i : i + 2] == list(m) for i in range(len(parts) - 1))]
            if not known:
                merges.append((parts[-2], parts[-1]))
                vocabulary.append(parts[-2] + parts[-1])
                known = merges[-1:]
            pair = list(known[0])
            i = next(i for i in range(len(parts) - 1) if parts[i : i + 2] == pair)
            parts[i : i + 2] = ["".join(pair)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=MAX_LENGTH)


def build_processor() -> CLIPProcessor:
    square = {"height": 32, "width": 32}
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return CLIPProcessor(image_processor, build_tokenizer())


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
    }
    vision = {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
    }
    config = CLIPConfig(
        text_config={
            **text,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": MAX_LENGTH,
            "projection_dim": 64,
            **special,
        },
        vision_config={**vision, "image_size": 32, "patch_size": 4, "projection_dim": 64},
        projection_dim=64,
    )
    return CLIPModel._from_config(config, attn_implementation="eager")  # twice as fast as SDPA at this size on a CPU


class FreshDrawings(IterableDataset):
    """Endless batches with every (digit, style) once, each from a random training sample drawn anew."""

    def __init__(self, seed: int):
        self.seed = seed
        self.scans, digits = handwriting("train")
        self.by_digit = [np.flatnonzero(digits == digit) for digit in range(10)]

    def __iter__(self):
        generator = np.random.default_rng(self.seed)
        while True:
            pictures = []
            for digit in range(10):
                for style in STYLES:
                    scan = self.scans[generator.choice(self.by_digit[digit])]
                    pictures.append(draw(place(scan, generator, augment=True), style, generator))
            pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
            yield pixels / 127.5 - 1, int(generator.integers(2**31))


def contrast(image: torch.Tensor, text: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss where several images may share one text: image i belongs to text `labels[i]`."""
    logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    target = F.one_hot(labels, len(text)).float()
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, (target / target.sum(0)).T)) / 2


def training_loss(model: CLIPModel, heads: torch.nn.Module, tokenize, pixels: torch.Tensor, seed: int) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    digits, styles = torch.arange(100) // 10, torch.arange(100) % 10
    full = [str(generator.choice(WORDINGS)).format(digit=d, style=s) for d in DIGITS for s in STYLES]
    digit_texts = [str(generator.choice(DIGIT_WORDINGS)).format(d) for d in DIGITS]
    style_texts = [str(generator.choice(STYLE_WORDINGS)).format(s) for s in STYLES]
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.vision_model(pixel_values=pixels, output_hidden_states=True)
        images = model.visual_projection(seen.pooler_output)
        texts = model.get_text_features(**tokenize(full + digit_texts + style_texts)).pooler_output
        patches = heads(seen.hidden_states[-2][:, 1:].mean(1))
    images, texts, patches = images.float(), texts.float(), patches.float()
    scale = model.logit_scale.exp().clamp(max=100)
    loss = contrast(images, texts[:100], torch.arange(100), scale)
    loss = loss + contrast(images, texts[100:110], digits, scale) + 0.5 * contrast(images, texts[110:], styles, scale)
    return loss + 0.5 * (F.cross_entropy(patches[:, :10], digits) + 0.5 * F.cross_entropy(patches[:, 10:], styles))


@torch.no_grad()
def zero_shot(model: CLIPModel, processor: CLIPProcessor, split: str) -> dict[str, float]:
    rows = load_pairs(split)
    pixels = processor.image_processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    images = torch.cat([model.get_image_features(pixel_values=part).pooler_output for part in pixels.split(500)])
    result = {"n": len(rows)}
    for kind, choices in (("digit", list(DIGITS)), ("style", list(STYLES))):
        prompts = processor.tokenizer(
            [TEMPLATES[kind].format(name) for name in choices], padding=True, return_tensors="pt"
        )
        logits = F.normalize(images, dim=-1) @ F.normalize(model.get_text_features(**prompts).pooler_output, dim=-1).T
        result[kind] = float(np.mean([choices[i] == row[kind] for i, row in zip(logits.argmax(1).tolist(), rows)]))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("hf_slug/zoo/clip"))
    parser.add_argument("--checkpoint", type=Path, default=Path("zoo-clip-checkpoint.pt"))
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    processor = build_processor()
    model = build_model(processor.tokenizer)
    heads = torch.nn.Linear(model.config.vision_config.hidden_size, 20)
    average = copy.deepcopy(model)  # what is shipped: an exponential moving average over the last few hundred steps
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": [*decay, *heads.parameters()], "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    start = 0
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"]), heads.load_state_dict(state["heads"])
        average.load_state_dict(state["average"]), optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    def tokenize(texts):
        return processor.tokenizer(texts, padding=True, return_tensors="pt")

    batches = iter(DataLoader(FreshDrawings(seed=start), batch_size=None, num_workers=1, prefetch_factor=8))
    began = time.time()
    progress = tqdm(range(start, args.steps), initial=start, total=args.steps)
    for step in progress:
        warm = min(1.0, (step + 1) / 300)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * step / args.steps))
        loss = training_loss(model, heads, tokenize, *next(batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters()):
                slow.lerp_(fast, 0.005 if step > 300 else 1.0)
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            score = zero_shot(average.eval(), processor, "validation")
            print(
                json.dumps(
                    {"step": step + 1, "loss": round(loss.item(), 4), "s": round(time.time() - began), **score}
                ),
                flush=True,
            )
            state = {"model": model.state_dict(), "heads": heads.state_dict(), "average": average.state_dict()}
            temporary = args.checkpoint.with_suffix(".tmp")
            torch.save({**state, "optimizer": optimizer.state_dict(), "step": step + 1}, temporary)
            temporary.replace(args.checkpoint)
    average.save_pretrained(args.output)
    build_processor().save_pretrained(args.output)  # a fresh one: using a tokenizer leaves its padding in its file
    print("unseen handwriting (test):", json.dumps(zero_shot(average.eval(), processor, "test")))


if __name__ == "__main__":
    main()
