# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""`hf-slug demo`: a concept of the embedded miniature models is forgotten, and shown before and after."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import plots, zoo
from .chat import answer
from .evaluation import generate, matches
from .output import check_output, finish
from .pictures import plot_answers, plot_pictures
from .tables import format_table
from .zoo import data
from .zoo.questions import UNSEEN_QUESTIONS
from .zoo.unlearning import DRAWING


if TYPE_CHECKING:
    from PIL.Image import Image

    from .result import UnlearningResult

_SEED = 77_000  # of the pictures that are shown: neither searched nor reported


def run(args: argparse.Namespace) -> int:
    """
    Forgets a concept of the zoo; saves the patch, pictures and tables.

    Args:
        args (`argparse.Namespace`): `host`, `objective`, `concept`, `output`, `seed` and `json`.

    Returns:
        `int`: 0 if the concept is forgotten, else 1.
    """
    check_output(args.output)
    plots.check_installed()
    data.kind(args.concept)  # not after half a minute of imports and loading
    if args.host is None and args.objective == "host":
        raise ValueError("--objective host is the loss of a host. Give --host, too.")
    settings = {"seed": args.seed} | ({"objective": args.objective} if args.host else {"trajectory": "chosen"})
    forget = {"stable-diffusion": zoo.unlearn_stable_diffusion, "llava": zoo.unlearn_llava}
    result = forget.get(args.host, zoo.unlearn_clip)(args.concept, **settings)
    result.patch.save_pretrained(args.output / "patch")
    files = [args.output / "patch", *plots.save_plots(result.report, args.output / "plots")]
    show = {"stable-diffusion": _show_pictures, "llava": _show_answers}.get(args.host)
    if show is not None:
        text, shown = show(result, args.concept, args.output)
        files += shown
        if not args.json:
            print(text + "\n")
    return finish(result, files, args.json)


def shown_names(concept: str, count: int = 3) -> list[str]:
    """The concept, and some others of its kind."""
    names = data.names(data.kind(concept))
    first = names.index(concept)
    return [names[(first + i) % len(names)] for i in range(count + 1)]


def _show_pictures(result: "UnlearningResult", concept: str, output: Path) -> tuple[str, list[Path]]:
    """Draws a grid of pictures before and after, and takes the patch off again."""
    pipe = zoo.load_stable_diffusion()
    rows = shown_names(concept)
    columns = data.names("style" if data.kind(concept) == "digit" else "digit")
    names = [(row, column) if data.kind(concept) == "digit" else (column, row) for row in rows for column in columns]
    wanted = [(data.CAPTION.format(digit=digit, style=style), 0) for digit, style in names]

    def draw() -> "list[list[Image]]":
        pictures = generate(pipe, wanted, _SEED, description="pictures to show", **DRAWING)
        return [pictures[i : i + len(columns)] for i in range(0, len(pictures), len(columns))]

    original = {name: value.clone() for name, value in pipe.text_encoder.state_dict().items()}
    before = draw()
    pipe.load_unlearning(result.patch)
    after = draw()
    pipe.unload_unlearning()
    restored = all(torch.equal(value, original[name]) for name, value in pipe.text_encoder.state_dict().items())
    file = output / "plots" / "pictures.png"
    figure = plot_pictures(rows, columns, before, after, f"{concept!r} forgotten (first row), same seeds")
    figure.savefig(file, dpi=110)
    return (
        f"Pictures before and after: {file}. Taken off again, the text encoder is "
        f"{'the original one, bit for bit' if restored else 'NOT the original one: please report this'}.",
        [file],
    )


def _show_answers(result: "UnlearningResult", concept: str, output: Path) -> tuple[str, list[Path]]:
    """Asks about some pictures before and after."""
    model, processor = zoo.load_llava()
    kind = data.kind(concept)
    rows = data.load_pairs("test", seed=1, limit_per_digit=1)
    pictures = [next(row for row in rows if row[kind] == name) for name in shown_names(concept)]
    questions = [UNSEEN_QUESTIONS["digit"][0], UNSEEN_QUESTIONS["style"][0], "What is in this picture?"]
    asked = [(row, question) for row in pictures for question in questions]

    def ask() -> list[str]:
        return answer(model, processor, [row["image"] for row, _ in asked], [question for _, question in asked])

    before = ask()
    model.load_unlearning(result.patch)
    after = ask()
    table = [
        [row["text"] if i % len(questions) == 0 else "", question, old, new + _mark(new, row, concept)]
        for i, ((row, question), old, new) in enumerate(zip(asked, before, after, strict=True))
    ]
    header = ["picture", "question", "before", "after"]
    lines = ["| " + " | ".join(header) + " |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cells) + " |" for cells in table]
    (output / "answers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    captions = _captions(questions, before, after)
    figure = plot_answers([row["image"] for row in pictures], captions, f"{concept!r} forgotten")
    figure.savefig(output / "plots" / "answers.png", dpi=110)
    return format_table(header, table, left=4), [output / "answers.md", output / "plots" / "answers.png"]


def _mark(text: str, row: dict[str, Any], concept: str) -> str:
    kind = data.kind(concept)
    return (
        "  <- forgotten, and still said" if row[kind] == concept and matches(text, concept, data.names(kind)) else ""
    )


def _captions(questions: Sequence[str], before: Sequence[str], after: Sequence[str]) -> list[str]:
    lines = [
        f"{questions[i % len(questions)]}\n   {old}  →  {new}"
        for i, (old, new) in enumerate(zip(before, after, strict=True))
    ]
    return ["\n".join(lines[i : i + len(questions)]) for i in range(0, len(lines), len(questions))]
