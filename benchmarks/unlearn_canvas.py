# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
SLUG's row of UnlearnCanvas (arXiv 2402.11846): a patch for each of 50 styles and 20 objects, judged by the official grid of pictures.

    python benchmarks/unlearn_canvas.py --model diffuser/style50/step19999 --data UnlearnCanvas --classifiers cls_model --output canvas

Needed, from the links in github.com/OPTML-Group/UnlearnCanvas: the Stable Diffusion 1.5 that was fine-tuned on the benchmark's fifty
styles, in diffusers' layout (`diffusion`); the pictures in folders, `<style>/<object>/<n>.jpg`, with `Seed_Images` as one of the styles; and
the two ViTs (`cls_model`: `style50.pth`, `style50_cls.pth`), with `pip install timm torchvision`. FID also needs torchmetrics.

Each model draws 5,100 pictures in 100 steps: hours on a GPU for one concept, days for all. `--concepts Van_Gogh Dogs` takes a few,
`--seeds 188` a fifth of the pictures, to which other seeds can be added later. It can be stopped at any time and goes on where it was: every patch and every picture is kept in
`--output`, and the table `unlearn_canvas.md` there is written anew after every concept. `canvas/protocol.py` says where the protocol is
written down, `canvas/metrics.py` how the metrics are defined.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from canvas.classifiers import load_judge, mark_of
from canvas.dataset import Dataset
from canvas.forgetting import Budget, make_patch, searched_seeds
from canvas.metrics import Answer, frechet_distance, score
from canvas.pictures import draw, picture_file
from canvas.protocol import GUIDANCE, OBJECTS, PROMPT, SEEDS, STEPS, STYLES, Canvas
from canvas.report import tell
from diffusers import DDIMScheduler
from PIL import Image
from tables import write

from hf_slug.hosts import load_unlearning, unload_unlearning
from hf_slug.loading import load_host


# what every picture of a run must have in common
SETTINGS = ("model", "dtype", "prompt", "styles", "objects", "steps", "guidance")
SETTINGS += ("forget", "retain", "search_pictures", "search_kept", "search_steps", "rank", "early_stopping")


class Benchmark:
    """
    A run, in a folder that says how it was set.

    Args:
        args (`argparse.Namespace`): The options.

    Raises:
        ValueError: If the options contradict each other, or the folder holds a run with others.
        UnreadableSourceError, UnsupportedModelError: If data, classifiers or model are not as expected.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.canvas = args, Canvas(args.styles, args.objects, args.prompt)
        pictures = args.forget, args.retain, args.search_pictures, args.search_kept, args.search_steps
        self.budget = Budget(*pictures, args.rank or None, args.early_stopping)
        self.concepts = list(args.concepts or self.canvas.concepts)
        unknown = [concept for concept in self.concepts if concept not in self.canvas.concepts]
        if unknown:
            raise ValueError(
                f"There is no style or object {', '.join(unknown)} to forget. Give names of folders, of: {', '.join(self.canvas.concepts)}."
            )
        searched = searched_seeds(self.canvas, self.budget).intersection(args.seeds)
        if searched:
            raise ValueError(
                f"The search goes by the seeds {', '.join(map(str, sorted(searched)))}, so they can't be reported. Give others, e.g. "
                f"--seeds {' '.join(map(str, SEEDS))}."
            )
        self.dataset = Dataset(args.data, self.canvas)
        self.judge = load_judge(args.classifiers, self.canvas, args.device)
        self.pipe, _ = load_host("stable-diffusion", args.model, args.dtype, args.device)
        self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
        self.pipe.safety_checker = None  # as the authors do: a blackened picture would count as forgotten
        self._check_settings()

    def run(self) -> list[dict[str, Any]]:
        """Judges the untouched model, then forgets each concept, and writes the table after each."""
        untouched = self.judged("untouched")
        for concept in self.concepts:
            file, row = self.args.output / concept / "row.json", self.done(concept)
            if row is None:
                row = self.forget(concept)
                _write_whole(file, row)
            # torchmetrics may have been installed since
            if row["fid"] is None and (found := self.distances(concept))["fid"] is not None:
                _write_whole(file, row | found)
            self.write_table(untouched)
        return self.write_table(untouched)

    def done(self, concept: str) -> dict[str, Any] | None:
        """The row of a concept, if there is one of these seeds."""
        file = self.args.output / concept / "row.json"
        row = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        return row if row and sorted(row["seeds"]) == sorted(self.args.seeds) else None

    def write_table(self, untouched: list[Answer]) -> list[dict[str, Any]]:
        """Writes the table of all concepts that are done, by this call or an earlier one, and returns its rows."""
        done = [row for concept in self.canvas.concepts if (row := self.done(concept))]
        rows = [{**row, "untouched": score(untouched, row["concept"], self.canvas)} for row in done]
        write("unlearn_canvas", tell(rows, self.canvas, len(untouched)), folder=self.args.output)
        return rows

    def forget(self, concept: str) -> dict[str, Any]:
        """Makes a patch, and judges the model under it."""
        args, folder = self.args, self.args.output / concept
        folder.mkdir(exist_ok=True)
        patch = make_patch(
            self.pipe,
            self.judge,
            self.dataset,
            concept,
            folder / "patch",
            self.budget,
            args.batch_size,
            guidance_scale=args.guidance,
        )
        load_unlearning(self.pipe, patch)
        try:
            answers = self.judged(concept)
        finally:
            unload_unlearning(self.pipe)
        cost = patch.report["cost"]
        return {
            "concept": concept,
            "seeds": list(args.seeds),
            **score(answers, concept, self.canvas),
            **self.distances(concept),
            "reached": patch.report["target"]["reached_on_validation"],
            "seconds": [cost["gradient_s"], cost["search_s"]],
            "peak_bytes": cost["peak_memory_bytes"],
            "stored_bytes": sum(file.stat().st_size for file in (folder / "patch").rglob("*") if file.is_file()),
        }

    def distances(self, concept: str) -> dict[str, float | None]:
        """FID of the pictures that were drawn under a patch, but for those of the concept's prompts, and of the untouched model's."""
        cells = [cell for cell in self.canvas.cells if concept not in cell]
        real, found = self.dataset.reference(concept), {}
        for key, model in (("fid", concept), ("fid_untouched", "untouched")):
            folder = self.args.output / model / "pictures"
            drawn = [folder / picture_file(cell, seed) for cell in cells for seed in self.args.seeds]
            found[key] = frechet_distance(real, drawn, self.args.device)
        return found

    def judged(self, model: str) -> list[Answer]:
        """Draws the grid with the pipeline as it is now, but for pictures that are there, and has all of it judged."""
        args = self.args
        files = draw(
            self.pipe,
            self.canvas,
            args.seeds,
            args.output / model / "pictures",
            args.batch_size,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
        )
        keys, seen = list(files), []
        for start in range(0, len(keys), 64):
            seen += self.judge([Image.open(files[key]).convert("RGB") for key in keys[start : start + 64]])
        return [Answer(cell, seed, names) for (cell, seed), names in zip(keys, seen)]

    def _check_settings(self) -> None:
        """Pictures of one setting must not be counted with those of another."""
        args, file = self.args, self.args.output / "settings.json"
        now = json.loads(json.dumps({name: getattr(args, name) for name in SETTINGS}))
        now |= {"data": self.dataset.digest, "classifiers": mark_of(args.classifiers)}  # wherever they lie
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            other = [name for name in now if now[name] != before.get(name)]
            if other:
                raise ValueError(
                    f"{args.output} holds a run with another "
                    + "; ".join(
                        f"--{name.replace('_', '-')} ({_short(before.get(name))}, now {_short(now[name])})"
                        for name in other
                    )
                    + ". Give these again to go on with it, or another --output."
                )
        _write_whole(file, now)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write_whole(file: Path, value: Any) -> None:
    """Writes JSON so that a run that is killed leaves all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(value), encoding="utf-8")
    os.replace(unfinished, file)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of the fine-tuned pipeline")
    parser.add_argument("--data", type=Path, required=True, help="folder of pictures, <style>/<object>/<n>.jpg")
    parser.add_argument("--classifiers", type=Path, required=True, help="folder of style50.pth and style50_cls.pth")
    parser.add_argument("--output", type=Path, required=True, help="folder of patches, pictures and the table")
    parser.add_argument(
        "--concepts", nargs="+", help="styles and objects to forget (default: all but the photographs)"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=SEEDS, help="of the pictures (default: the official five)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="denoising steps (default: 100)")
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="classifier-free guidance (default: 9)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--batch-size", type=int, default=4, help="pictures in a pass (default: 4)")
    own = parser.add_argument_group("a canvas of your own")
    own.add_argument("--prompt", default=PROMPT, help="template with {object} and {style}")
    own.add_argument("--styles", nargs="+", default=STYLES, help="names of folders, in the order of the classifier")
    own.add_argument("--objects", nargs="+", default=OBJECTS, help="names of folders, in the order of the classifier")
    budget = parser.add_argument_group("what a patch is made from")
    defaults = Budget()
    budget.add_argument("--forget", type=int, default=defaults.forget, help="pictures of the concept")
    budget.add_argument("--retain", type=int, default=defaults.retain, help="pictures of the rest")
    budget.add_argument("--search-pictures", type=int, default=defaults.pictures, help="generated ones of the concept")
    budget.add_argument("--search-kept", type=int, default=defaults.kept, help="generated ones of the rest")
    budget.add_argument("--search-steps", type=int, default=defaults.steps, help="denoising steps of these")
    budget.add_argument("--rank", type=int, default=defaults.rank, help="of a patch; 0: dense (default: %(default)s)")
    budget.add_argument(
        "--early-stopping",
        action=argparse.BooleanOptionalAction,
        default=defaults.early_stopping,
        help="end at the first layer that forgets and keeps the rest",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the benchmark; returns the rows of the table."""
    return Benchmark(parse(arguments)).run()


if __name__ == "__main__":
    main()
