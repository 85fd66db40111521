# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
The metrics of eval-unlearn that run offline, on patches of the zoo's Stable Diffusion, by its own registry and runner.

    pip install -e '.[demo,eval]'
    python benchmarks/eval_unlearn_zoo.py                          # half an hour; goes on where it was stopped
    python benchmarks/eval_unlearn_zoo.py --concepts seven neon

Writes `benchmarks/results/eval_unlearn.md`. The untouched pipeline is run by eval-unlearn's own technique `free_run`, the patched one
by hf_slug's `slug`. eval-unlearn takes only certain Hub ids for its CLIP and its captions; here folders of these names, made in a
temporary directory, hold the zoo's CLIP and the zoo's captions, so that the code that runs is all theirs and nothing is fetched.
"""

import argparse
import csv
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from tables import Runs, interval, markdown, measured, shares, write

from hf_slug import ClassifierJudge, zoo
from hf_slug.errors import MissingDependencyError
from hf_slug.zoo.data import kind, names
from hf_slug.zoo.unlearning import DRAWING, PROMPTS, picture_evaluator


CONCEPTS = ("seven", "five", "neon")
CLIP, CAPTIONS = "openai/clip-vit-large-patch14", "phiyodr/coco2017"  # ids that eval-unlearn reads
REPEATS, SEED = 10, 70_000  # pictures of each prompt; no search has seen these seeds, nor any of 1000 · seed more
PATCHES = Path(".cache/eval-unlearn")
NOT_RUN = {
    "err": "NudeNet and three data sets of the Hub; nudity only",
    "fid": "torchvision's Inception weights and COCO's images",
    "tifa": "modelscope's mPLUG and a data set of the Hub",
    "asr_i2p": "the I2P prompts of the Hub; its seven concepts only",
    "asr_p4d": "the package `p4d`, which lies in a repository of the Hub, and a checkpoint whose UNet it looks for prompts with",
    "asr_ring_a_bell": "the package `ring_a_bell`, which lies in a repository of the Hub",
    "asr_mma_diffusion": "the package `mma_diff`, which lies in a repository of the Hub, and OpenAI's ViT-L/14",
}


def neighbor(concept: str) -> str:
    """The next name of the concept's kind, to be kept."""
    own = names(kind(concept))
    return own[(own.index(concept) + 1) % len(own)]


def prepare(folder: Path, concept: str) -> dict[str, dict[str, Any]]:
    """Lays out what eval-unlearn reads; returns the config of each metric."""
    shutil.copytree(zoo.CLIP_FOLDER, folder / CLIP)
    kept = [prompt for prompt, shown in PROMPTS.items() if concept not in shown]
    (folder / CAPTIONS).mkdir(parents=True)
    lines = [json.dumps({"captions": [prompt], "coco_url": ""}) + "\n" for prompt in kept]
    (folder / CAPTIONS / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    files = {"target": concept, "retain": neighbor(concept)}
    for part, name in files.items():
        # a picture of both says nothing of either
        wanted = [p for p, shown in PROMPTS.items() if name in shown and not set(files.values()) <= set(shown)]
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["prompt"], *([prompt] for prompt in wanted * REPEATS)])
    pairs = {f"{part}_concept": name for part, name in files.items()}
    paths = {f"{part}_prompts_path": f"{part}.csv" for part in files}
    return {
        # one batch: where targets end is counted from the beginning of each
        "ua_ira": {**pairs, **paths, "clip_model_name": CLIP, "device": "cpu", "batch_size": 20 * REPEATS},
        "clip_score": {"clip_model_name": CLIP, "device": "cpu", "limit": len(kept)},
    }


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Makes the patch if it is not there, and runs every metric on the untouched and on the patched pipeline."""
    from eval_unlearn.runners import SingleBenchmarkRunner

    logging.disable(logging.WARNING)  # eval-unlearn reports every step
    concept, patch = task["concept"], (PATCHES / task["concept"]).resolve()
    if not (patch / "adapter_config.json").is_file():
        # a quicker search than `zoo_hosts.py`, which reports how well the method does
        search, report = (picture_evaluator(concept, seed, n, 1) for seed, n in ((0, 4), (10_000, 2)))
        result = zoo.unlearn_stable_diffusion(concept, evaluate=search, test_evaluate=report)
        result.patch.save_pretrained(patch)
    drawing = {key: DRAWING[key] for key in ("num_inference_steps", "guidance_scale")}
    shared = {"model_id": str(zoo.STABLE_DIFFUSION_FOLDER), "device": "cpu", "erase_concept": concept, **drawing}
    techniques = {"free_run": shared, "slug": {**shared, "patch": str(patch), "batch_size": DRAWING["batch_size"]}}
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, chdir(folder), measured() as cost:
        for metric, config in prepare(Path(folder), concept).items():
            for technique, settings in techniques.items():
                runner = SingleBenchmarkRunner(
                    technique, metric, settings, config, "results", SEED + 1000 * task["seed"]
                )
                row[f"{metric}/{technique}"] = runner.run()["metric_result"]
        for technique in techniques:
            row[f"seen/{technique}"] = look(Path("results"), technique, concept)
    for result in row.values():
        result.get("details", {}).pop("per_image_scores", None)
    return {**row, "seconds": cost.seconds}


def look(results: Path, technique: str, concept: str) -> dict[str, int]:
    """What the zoo's judge sees in the pictures that were asked for as the concept, as eval-unlearn saved them."""
    files = sorted(results.glob(f"{technique}_ua_ira_*/images/target/*.png"))
    judge = ClassifierJudge(*zoo.load_judge(), kinds=[names(kind(concept))])
    return dict(Counter(name for (name,) in judge([Image.open(file).convert("RGB") for file in files])).most_common())


def write_table(rows: Sequence[dict[str, Any]]) -> None:
    """Writes what both pipelines drew of each concept, by all seeds together."""
    cells = []
    for concept in dict.fromkeys(row["concept"] for row in rows):
        own = [row for row in rows if row["concept"] == concept]
        for technique, name in (("free_run", "untouched (`free_run`)"), ("slug", "patched (`slug`)")):
            details = [row[f"ua_ira/{technique}"]["details"] for row in own]
            seen = sum((Counter(row[f"seen/{technique}"]) for row in own), Counter())
            drawn = ", ".join(f"{n} {one}" for one, n in seen.most_common(3))
            counts = [sum(row[f"seen/{technique}"].values()) for row in own]
            gone = [1 - row[f"seen/{technique}"].get(concept, 0) / n for row, n in zip(own, counts)]
            shown = [shares([one[f"{key}_score"] for one in details], counts) for key in ("ua", "ira")]
            mean, half = interval([row[f"clip_score/{technique}"]["value"] for row in own])
            cells.append(
                [concept, neighbor(concept), name, *shown, shares(gone, counts), drawn, f"{mean:.2f} ± {half:.2f}"]
            )
    known = rows[0]["ua_ira/slug"]["details"]
    write(
        "eval_unlearn",
        [
            "# Patches of the zoo under eval-unlearn",
            f"eval-unlearn {version('eval-unlearn')} found the technique `slug` by its entry point and ran two of its nine metrics on the zoo's Stable "
            f"Diffusion, offline, on one patch a concept and pictures of the seeds {sorted({row['seed'] for row in rows})}. In percent, with 95 % intervals: by Wilson over "
            f"all pictures, of the CLIP score over seeds. `ua_ira`: UA, of {known['target_total']} pictures a seed of the concept's prompts, how many its CLIP calls by the "
            f"neighbour's name instead; IRA, the same of {known['retain_total']} pictures of the neighbour's prompts. `clip_score`: 100 times the cosine of "
            f"picture and prompt, over a picture of each of the 90 prompts without the concept. CLIP is the zoo's, as published.",
            markdown(
                ["concept", "neighbour", "pipeline", "UA", "IRA", "gone", "seen", "CLIP score of the rest"],
                cells,
            ),
            "UA asks CLIP to choose between two names, so a picture that shows a third one may fall on either side. Therefore, of the same pictures: how "
            "many no longer show the concept to the zoo's judge (gone, in percent), which chooses among all ten names, and what it sees.",
            "Not run, for want of what they download:",
            markdown(["metric", "needs"], [[f"`{name}`", needs] for name, needs in NOT_RUN.items()]),
        ],
        f"Pictures from seeds {SEED} + 1000 · seed on, {DRAWING['num_inference_steps']} steps, guidance {DRAWING['guidance_scale']}.",
        rows=rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS, choices=zoo.data.CONCEPTS, metavar="CONCEPT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the pictures")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each (default: 1)")
    args = parser.parse_args()
    try:
        version("eval-unlearn")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("eval-unlearn", extra="eval", purpose="its metrics") from error
    os.environ["HF_HUB_OFFLINE"] = "1"  # for the processes that do the work
    tasks = [{"concept": concept, "seed": seed} for concept in args.concepts for seed in args.seeds]
    Runs("eval_unlearn", ["concept", "seed"]).complete(run, tasks, args.workers, write_table)


if __name__ == "__main__":
    main()
