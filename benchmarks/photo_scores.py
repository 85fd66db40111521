# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Checks the scores of all layers of the photographs' CLIP against plain float64, at three batch sizes.

    HF_SLUG_DATA=../shared/data python benchmarks/photo_scores.py

Transformers' own forward and loss in double precision, without any of the shortcuts of `hf_slug`. Writes
`benchmarks/results/photo_scores.md`.
"""

import argparse
import copy
from typing import Any

import torch
from photo_data import DEVELOPMENT, MODEL, collect, load_model
from photo_sources import NAMES, TEMPLATE
from tables import markdown, write
from train_photo_clip import MAX_LENGTH
from transformers import CLIPModel

from hf_slug import unlearn
from hf_slug.data import Pairs
from hf_slug.scores import pareto_fronts


def plain_scores(
    model: CLIPModel, processor: Any, forget: Pairs, retain: Pairs, concept: str, contrast: int = 64
) -> dict[str, tuple[float, float]]:
    """Importance and alignment of every weight, in float64."""
    model = copy.deepcopy(model).double()

    def inputs(pairs: Pairs, texts: list[str]) -> dict[str, torch.Tensor]:
        tokens = processor.tokenizer(texts, padding="max_length", max_length=MAX_LENGTH, return_tensors="pt")
        pixels = processor.image_processor(pairs.images(), return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels.double(), **tokens}

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    output = model(**inputs(forget, [TEMPLATE.format(concept)] * len(forget)))
    down = gradients((1 - torch.cosine_similarity(output.image_embeds, output.text_embeds)).mean())
    up: dict[str, torch.Tensor] = {}
    for start in range(0, len(retain), contrast):
        part = retain[start : start + contrast]
        for name, gradient in gradients(model(**inputs(part, part.texts), return_loss=True).loss).items():
            up[name] = up.get(name, 0) + gradient * (len(part) / len(retain))
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {
        name.removesuffix(".weight"): (
            float(down[name].norm() / weights[name].norm()),
            float((down[name] * up[name]).sum() / (down[name].norm() * up[name].norm())),
        )
        for name in down
        if name in up
    }


def compare_scores(model: CLIPModel, processor: Any, concept: str) -> list[list[Any]]:
    """Of each batch size how far the reported scores are from plain ones, and whether that changes what is chosen."""
    parts, lines = collect(concept, seed=0, test_objects=500).parts, []
    expected = plain_scores(model, processor, parts["forget"], parts["retain"], concept)
    for batch_size in (1, 7, 64):
        report = unlearn(model, processor, concept=concept, names=NAMES, batch_size=batch_size, **parts).report
        layers = report["layers"]
        errors = [
            max(abs(layer[key] / expected[layer["name"]][i] - 1) for layer in layers)
            for i, key in enumerate(("importance", "alignment"))
        ]
        front = {layer["name"] for layer in layers if layer["on_front"]}
        plain = set()
        for tower in ("vision", "text"):
            own = [layer["name"] for layer in layers if layer["tower"] == tower]
            first = pareto_fronts([(expected[name][0], abs(expected[name][1])) for name in own])[0]
            plain |= {own[i] for i in first}
        same = "the same" if front == plain else "ANOTHER"
        chosen = report["chosen"]
        errors = [f"{error:.1e}" for error in errors]
        lines.append([batch_size, *errors, f"{same}, of {len(front)}", chosen["layer"], f"{chosen['step_size']:.6g}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="folder that train_photo_clip.py wrote")
    parser.add_argument("--concept", default=DEVELOPMENT[0])
    args = parser.parse_args()
    model, processor = load_model(args.model)
    header = ["batch size", "largest relative error of importance", "of alignment", "front", "chosen layer", "step"]
    lines = compare_scores(model, processor, args.concept)
    write("photo_scores", ["# Scores against plain float64", f"Forgetting {args.concept}.", markdown(header, lines)])


if __name__ == "__main__":
    main()
