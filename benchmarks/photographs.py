# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Forgets people and objects of the photographs' CLIP, and checks its layer scores against plain float64.

    HF_SLUG_DATA=../shared/data python benchmarks/train_photo_clip.py --output /tmp/photo-clip
    HF_SLUG_DATA=../shared/data python benchmarks/photographs.py --model /tmp/photo-clip

Fifty names, so forgotten means FA@5 = 0. Of a person's ten photographs six give the gradient, two choose the layer and the
step, and two are reported: read the column n. Writes the table benchmarks/results/photographs.md.
"""

import argparse
import copy
import random
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from train_photo_clip import FACE_NAMES, NAMES, OBJECT_NAMES, TRAIN_SHOTS, load_faces, load_objects
from transformers import CLIPModel, CLIPProcessor

from hf_slug import unlearn
from hf_slug.scores import pareto_fronts


CONCEPTS = (*FACE_NAMES[:8], *OBJECT_NAMES[:2])
RESULTS = Path(__file__).parent / "results" / "photographs.md"


def collect(concept: str, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The six sets of one concept, by the names that `unlearn` has for them."""
    generator = random.Random(seed)
    faces, objects, unseen = load_faces(), load_objects("train"), load_objects("test")
    generator.shuffle(objects), generator.shuffle(unseen)
    shots = {
        "": [row for row in faces if row["shot"] < TRAIN_SHOTS] + objects[:600],
        "validation_": [row for row in faces if row["shot"] in (6, 7)] + unseen[:1000],
        "test_": [row for row in faces if row["shot"] > 7] + unseen[1000:3000],
    }
    sets = {}
    for part, rows in shots.items():
        generator.shuffle(rows)
        sets[f"{part}forget"] = [row for row in rows if row["name"] == concept]
        sets[f"{part}retain"] = [row for row in rows if row["name"] != concept]
    return sets


def plain_scores(
    model: CLIPModel,
    processor: CLIPProcessor,
    forget: list[dict],
    retain: list[dict],
    concept: str,
    contrast: int = 64,
) -> dict[str, tuple[float, float]]:
    """Importance and alignment of every weight, in float64, by transformers' own forward and loss, without shortcuts."""
    model = copy.deepcopy(model).double()

    def inputs(rows: list[dict], texts: list[str]) -> dict[str, torch.Tensor]:
        tokens = processor.tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
        pixels = processor.image_processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels.double(), **tokens}

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    output = model(**inputs(forget, [f"a photo of {concept}"] * len(forget)))
    down = gradients((1 - torch.cosine_similarity(output.image_embeds, output.text_embeds)).mean())
    parts = [retain[i : i + contrast] for i in range(0, len(retain), contrast)]
    up: dict[str, torch.Tensor] = {}
    for part in parts:
        grads = gradients(model(**inputs(part, [row["text"] for row in part]), return_loss=True).loss)
        for name, gradient in grads.items():
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


def compare_scores(model: CLIPModel, processor: CLIPProcessor, concept: str) -> list[str]:
    """Sentences on how far the reported scores are from plain float64, at three batch sizes."""
    sets, lines = collect(concept, seed=0), []
    expected = plain_scores(model, processor, sets["forget"], sets["retain"], concept)
    for batch_size in (1, 7, 64):
        result = unlearn(model, processor, concept=concept, names=NAMES, batch_size=batch_size, **sets)
        layers = result.report["layers"]
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
        chosen = result.report["chosen"]
        lines.append(
            f"- batch size {batch_size}: largest relative error of importance {errors[0]:.1e}, of alignment {errors[1]:.1e}; "
            f"{'the same front' if front == plain else 'ANOTHER FRONT'} of {len(front)}; chosen `{chosen['layer']}`, "
            f"step {chosen['step_size']:.6g}."
        )
    return lines


def run(model: CLIPModel, processor: CLIPProcessor, concept: str, direction: str, seed: int) -> dict[str, Any]:
    """One run, as a row of the table."""
    result = unlearn(
        model, processor, concept=concept, names=NAMES, direction=direction, seed=seed, **collect(concept, seed)
    )
    metrics, chosen = result.report["metrics"], result.report["chosen"]
    step = next(
        trial
        for trial in result.report["search"]
        if (trial["layer"], trial["step_size"]) == (chosen["layer"], chosen["step_size"])
    )
    return {"concept": concept, "direction": direction, "validation": step, **metrics, "layer": chosen["layer"]}


def table(rows: list[dict[str, Any]], checks: list[str]) -> str:
    """The table in Markdown."""
    lines = ["# Photographs: people and objects, FA@5 = 0 among fifty names", ""]
    for direction in dict.fromkeys(row["direction"] for row in rows):
        own = [row for row in rows if row["direction"] == direction]
        fall = sum(row["before"]["ta"] - row["after"]["ta"] for row in own) / len(own)
        reached = sum(row["validation"]["forgotten"] for row in own)
        lines += [
            f"## direction `{direction}`",
            "",
            f"{reached} of {len(own)} reach FA@5 = 0 on validation; mean fall of retained accuracy on test {100 * fall:.2f} points.",
            "",
            "| concept | n | FA@5 validation | FA@1, FA@5 test before | after | TA before | after | layer |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in own:
            before, after = row["before"], row["after"]
            lines.append(
                f"| {row['concept']} | {row['n_forget']} | {row['validation']['fa5']:.2%} "
                f"| {before['fa1']:.1%}, {before['fa5']:.1%} | {after['fa1']:.1%}, {after['fa5']:.1%} "
                f"| {before['ta']:.2%} | {after['ta']:.2%} | `{row['layer'].replace('_model.encoder.layers', '')}` |"
            )
        lines.append("")
    return "\n".join([*lines, "## Scores against plain float64", "", *checks]) + "\n"


def main() -> None:
    """Runs everything and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder that train_photo_clip.py wrote")
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, processor = CLIPModel.from_pretrained(args.model).eval(), CLIPProcessor.from_pretrained(args.model)
    checks = compare_scores(model, processor, args.concepts[0])
    jobs = [(direction, concept) for direction in ("whitened", "gradient") for concept in args.concepts]
    rows = [run(model, processor, concept, direction, args.seed) for direction, concept in tqdm(jobs)]
    text = table(rows, checks)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
