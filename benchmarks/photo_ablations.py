# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
What settles the defaults: one thing changed at a time, on people and objects that no other table reports.

    HF_SLUG_DATA=../shared/data python benchmarks/photo_ablations.py             # an hour or two; goes on where it was stopped
    HF_SLUG_DATA=../shared/data python benchmarks/photo_ablations.py --quick     # a person and an object of one seed

The steps of `unlearn` are joined here by hand, so that all variants of one concept share their gradients, and so that variants that did
not become an option can be tried. Writes `benchmarks/results/photo_ablations.md`.
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from photo_data import DEVELOPMENT, DEVELOPMENT_SEEDS, MODEL, Score, collect, load_model, mark_of
from photo_variants import BASE, GROUPS, PUBLISHED, VARIANTS, WHY, Variant
from tables import SEARCH, Runs, by_concept, interval, markdown, percent, percents, write
from train_photo_clip import FACE_NAMES, NAMES, TEMPLATE
from transformers import CLIPModel

from hf_slug.direction import InputMoment, compute_directions, compute_input_moments, sum_up, whiten
from hf_slug.evaluation import ZeroShotEvaluator, seen_beside
from hf_slug.gradients import eval_mode
from hf_slug.inputs import image_batches, text_batch
from hf_slug.losses import retain_loss
from hf_slug.objectives import ContrastiveObjective
from hf_slug.replay import changed_weights
from hf_slug.scores import score_layers, select_layers
from hf_slug.search import Search, search
from hf_slug.steps import Trial as Step
from hf_slug.steps import new_weights
from hf_slug.towers import TOWERS, Layer, candidate_layers, embed, layer_weights, resolve_modules


CONCEPTS = (*DEVELOPMENT[:6], *DEVELOPMENT[-3:])  # people and objects; five minutes each and seed
# other variants, another search, or other rules of what is compared, are other runs
PLAN = hashlib.sha256(repr((VARIANTS, PUBLISHED, SEARCH, "the forgotten name struck")).encode()).hexdigest()[:8]


class Trial:
    """What all variants share for one concept: gradients of both losses, moments of inputs and outputs."""

    def __init__(self, model: CLIPModel, processor: Any, concept: str, seed: int):
        self.model, self.processor, self.concept = model, processor, concept
        self.photographs = collect(concept, seed, test_objects=1500)
        parts = self.photographs.parts
        self.retain = parts["retain"]
        self.layers = candidate_layers(model, "both", "matrix", False)
        objective = ContrastiveObjective(
            model, processor, parts["forget"], self.retain, [TEMPLATE.format(concept)], 64, 64
        )
        self.forget_gradients = objective.forget_gradients(self.layers)
        self.retain_gradients = objective.retain_gradients(self.layers)
        self.weights = {n: w for layer in self.layers for n, w in layer_weights(model, layer).items()}
        self.moments = {None: objective.input_moments(self.layers)}
        self.outputs: dict[str, torch.Tensor] | None = None
        self.score = Score(self.photographs, "test_", processor, model)
        self.embedded = self.score.embed(model)
        self.before = self.score(model, embedded=self.embedded, struck=(concept,))

    def run(self, variant: Variant) -> dict[str, Any]:
        """One variant: metrics after, and what was chosen."""
        layers = candidate_layers(self.model, variant.tower, variant.granularity, False)
        directions = self._directions(variant, layers)
        candidates = self._choose(variant, layers, directions)
        found = search(
            self.model, candidates, directions, self._evaluator(variant), steps=variant.steps, risk=variant.risk
        )
        chosen = most_accurate(found) if variant.by_accuracy else found.chosen
        if variant.smallest:
            chosen = smallest(found, variant.risk)
        layer = chosen.layer
        changed = new_weights(layer_weights(self.model, layer), directions, chosen.step_size)
        with changed_weights(self.model, layer, changed):
            after = self.score(self.model, embedded=None if layer.tower == "vision" else self.embedded)
        return {"after": after, "layer": layer.name, "succeeded": found.succeeded, "trials": len(found.trials)}

    def _evaluator(self, variant: Variant) -> ZeroShotEvaluator:
        parts = self.photographs.parts
        forget = parts["validation_forget"][: variant.validation]
        return ZeroShotEvaluator(
            self.processor,
            forget,
            parts["validation_retain"],
            self.concept,
            NAMES,
            batch_size=250,
            seen=seen_beside(forget, parts["forget"]) if variant.seen else None,
        )

    def _directions(self, variant: Variant, layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
        if variant.direction == "gradient":
            return compute_directions(self.forget_gradients, layers, rank=variant.rank)
        moments = self._moments(variant.inputs)
        gradients = self.forget_gradients
        if variant.direction == "two-sided":
            gradients = {n: whiten(g.T, self._output_moments()[n], variant.epsilon).T for n, g in gradients.items()}
        directions = compute_directions(gradients, layers, moments, variant.epsilon, variant.rank)
        if variant.direction == "projected":
            kept = compute_directions(self.retain_gradients, layers, moments, variant.epsilon)
            for name, retain in self.retain_gradients.items():
                if name in directions:  # so that to first order the retain loss stays as it is
                    share = (directions[name] * retain).sum() / (kept[name] * retain).sum()
                    directions[name] = directions[name] - share * kept[name]
        return directions

    def _moments(self, inputs: int | None) -> Mapping[str, torch.Tensor]:
        if inputs not in self.moments:
            part = self.retain[:inputs]
            self.moments[inputs] = compute_input_moments(self.model, self.processor, self.layers, part)
        return self.moments[inputs]

    def _output_moments(self) -> dict[str, torch.Tensor]:
        """`E[g gᵀ]` of the retain loss's gradient g by what each layer puts out."""
        if self.outputs is None:
            names = [name for layer in self.layers for name in layer.modules]
            live = resolve_modules(self.model, names)
            modules = {name: self.model.get_submodule(live[name]) for name in names}
            moments = {
                n: InputMoment(m.out_features, m.weight.device)
                for n, m in modules.items()
                if hasattr(m, "out_features")
            }
            handles = [
                modules[n].register_full_backward_hook(lambda module, _, grads, n=n: moments[n](module, grads))
                for n in moments
            ]
            with eval_mode(self.model):
                for start, batch in image_batches(self.model, self.processor, self.retain, 64):
                    texts = self.retain.texts[start : start + 64]
                    said = embed(self.model, "text", text_batch(self.model, self.processor, texts))
                    retain_loss(embed(self.model, "vision", batch), said, self.model.logit_scale).backward()
            for handle in handles:
                handle.remove()
            self.model.zero_grad()
            self.outputs = sum_up(moments)
        return self.outputs

    def _choose(
        self, variant: Variant, layers: Sequence[Layer], directions: Mapping[str, torch.Tensor]
    ) -> list[Layer]:
        forget: Mapping[str, torch.Tensor] = self.forget_gradients
        retain: Mapping[str, torch.Tensor] = self.retain_gradients
        if variant.choose == "whitened":
            forget, retain = (
                directions,
                compute_directions(retain, layers, self._moments(variant.inputs), variant.epsilon),
            )
        scores = score_layers(layers, self.weights, forget, retain)
        if variant.choose in ("front", "whitened"):
            return [score.layer for score in select_layers(scores, variant.minimum, variant.minimum == 1)]
        if variant.choose == "signed":  # all are positive then, and stand in the order of their signed alignments
            signed = [replace(score, alignment=1 + score.alignment) for score in scores]
            return [score.layer for score in select_layers(signed, variant.minimum)]
        chosen = []
        for tower in TOWERS:
            own = [score for score in scores if score.layer.tower == tower]
            chosen += sorted(own, key=lambda score: -score.importance)[: variant.minimum]
        return [score.layer for score in chosen]


def most_accurate(found: Search) -> Step:
    """Of the layers that forget, if any do, the one of the highest retained accuracy, which is measured at each one's best step alone."""
    measured = [trial for trial in found.trials if "ta" in trial.metrics]
    pool = [trial for trial in measured if trial.forgotten] or [found.chosen]
    return min(pool, key=lambda trial: (-trial.metrics["ta"], trial.relative_change))


def smallest(found: Search, risk: float) -> Step:
    """Of the chosen layer the smallest step that forgets at a risk, where a larger one was taken to be safer."""
    own = [trial for trial in found.trials if trial.layer == found.chosen.layer]
    done = [t for t in own if t.metrics["fa5"] == 0 and t.metrics["risk"] <= risk]
    return min(done or [found.chosen], key=lambda trial: trial.step_size)


def run(task: dict[str, Any]) -> dict[str, Any]:
    """All variants, of one concept and seed."""
    model, processor = load_model(task["model"])
    trial = Trial(model, processor, task["concept"], task["seed"])
    return {"before": trial.before, "variants": {_key(v): trial.run(v) for v in (*VARIANTS, PUBLISHED)}}


def _key(variant: Variant) -> str:
    group = next((title for title, group in GROUPS.items() if variant in group), "")
    return f"{group}: {variant.name}" if group else variant.name


MEASURES = ("fa1", "fa5", "people", "objects")


def measure(rows: Sequence[dict[str, Any]], variant: Variant, key: str) -> list[float]:
    """What is left of each concept, or how far what is kept falls: means over seeds."""

    def value(row: dict[str, Any]) -> float:
        after = row["variants"][_key(variant)]["after"][key]
        return after if key in ("fa1", "fa5") else row["before"][key] - after

    return by_concept(rows, value)


def against_default(rows: Sequence[dict[str, Any]], variant: Variant) -> str:
    """Where a variant differs from the default by more than half the 95 % interval of the difference over concepts."""
    said = []
    for key, name in (("fa5", "FA@5"), ("people", "people"), ("objects", "objects")):
        pairs = zip(measure(rows, variant, key), measure(rows, BASE, key), strict=True)
        mean, half = interval([its - default for its, default in pairs])
        if abs(mean) > max(half, 5e-5):
            said.append(f"{'worse' if mean > 0 else 'better'} in {name}")
    return ", ".join(said) or ("" if variant is BASE else "no difference shown")


def write_table(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes what each change does to forgetting and to what is kept, people and objects apart."""
    parts = ["# Ablations"]
    people = [row for row in rows if row["concept"] in FACE_NAMES]
    objects = [row for row in rows if row["concept"] not in FACE_NAMES]
    parts.append(
        f"One thing changed at a time, on {len({row['concept'] for row in people})} people and {len({row['concept'] for row in objects})} "
        f"objects that the other tables don't report, seeds {sorted({row['seed'] for row in rows})}. On test photographs, in percent; falls in "
        f"points, from the untouched model with the forgotten name struck from the list. People: mean ± half a 95 % interval over "
        f"people, each the mean of its seeds; objects: each one's own mean. *Forgotten*: on validation. All but the rows under *Tower* search the text "
        f"tower alone."
    )
    header = [
        "",
        "people: FA@1",
        "FA@5",
        "fall of people",
        "fall of objects",
        "forgotten",
        "beside the default",
        "objects: FA@1",
        "FA@5",
        "fall of people",
        "fall of objects",
    ]

    def line(variant: Variant) -> list[str]:
        cells = [f"**{variant.name}**" if variant is BASE else variant.name]
        for own in (people, objects):
            found = [row for row in own if _key(variant) in row["variants"]]
            if not found:
                return []
            for key in MEASURES:
                means = measure(found, variant, key)
                cells.append(percents(means) if own is people else " ".join(percent(mean, 1) for mean in means))
            if own is people:
                done = [row["variants"][_key(variant)]["succeeded"] for row in found]
                cells += [percent(sum(done) / len(done), 0) + " %", against_default(found, variant)]
        return cells

    for title, variants in {**GROUPS, "Everything as published": (PUBLISHED,)}.items():
        lines = [line(BASE), *map(line, variants)]
        parts += [f"## {title}", markdown(header, [each for each in lines if each]), *filter(None, [WHY.get(title)])]
    write(name, parts, note="One thread a run.", rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="folder that train_photo_clip.py wrote")
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS, choices=DEVELOPMENT, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=DEVELOPMENT_SEEDS)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a person and an object, one seed")
    args = parser.parse_args()
    name = "photo_ablations"
    if args.quick:
        name, args.concepts, args.seeds = f"{name}_quick", [DEVELOPMENT[0], DEVELOPMENT[-1]], args.seeds[:1]
    load_model(args.model)
    mark = mark_of(args.model)
    tasks = [
        {"concept": concept, "seed": seed, "model": args.model, "plan": PLAN, "weights": mark}
        for seed in args.seeds
        for concept in args.concepts
    ]
    runs = Runs(name, ("concept", "seed", "plan", "weights"))

    def write_current(rows: Sequence[dict[str, Any]]) -> None:
        write_table(name, [row for row in rows if (row["plan"], row.get("weights")) == (PLAN, mark)])

    runs.complete(run, tasks, args.workers, after=write_current)


if __name__ == "__main__":
    main()
