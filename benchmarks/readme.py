# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Writes into README.md what the benchmarks have found, between its marks, from the rows in `benchmarks/results`.

    python benchmarks/readme.py
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import goals
import speed_goals
from photo_data import EVERYONE, OBJECTS, PEOPLE, STACKED
from photo_methods import METHODS, WIDELY, current
from photo_picture import TITLES, falls
from photo_report import LEFT, SHOWN, left, with_no_risk
from photo_stacks import WAYS, summarize
from photo_stacks import current as current_stacks
from photo_unlisted import UNLISTED
from tables import Runs, markdown, percent, percents, searched_today
from zoo_answers import HEADER as ABOUT_ANSWERS
from zoo_answers import KINDS as ANSWERED
from zoo_answers import means
from zoo_canvas_report import METHODS as ERASERS
from zoo_canvas_report import by_kind, complete, of, qualities
from zoo_concepts import summary
from zoo_erasers import settings_of
from zoo_hosts import WAYS as WAYS_OF_HOSTS
from zoo_hosts import falls_of_answers, stacks_table, with_untouched
from zoo_hosts import of as of_host
from zoo_models import table as models_table
from zoo_seconds import current as timed


README = Path(__file__).parent.parent / "README.md"
Rows = list[dict[str, Any]]


@cache
def last(name: str) -> Rows:
    """The rows of a table of photographs: those of the model that was last run."""
    rows = Runs(name, ()).rows
    return current(rows, rows[-1]["weights"])


def line(title: str, rows: Rows) -> list[str]:
    """What is left of some concepts and what that costs, with how many runs validation calls a success."""
    kept = [percents(falls(rows, key)) for key in ("objects", "people")]
    reached = sum(row["forgotten_on_validation"] for row in rows)
    return [title, *(left(rows, key) for key in LEFT), *kept, f"{reached} of {len(rows)}"]


def photographs() -> str:
    """SLUG and every other method on Tables 1 and 2; more people, stacks, another checkpoint."""
    lines: list[Sequence[str]] = []
    rows, other = last("photo_tables"), last("photo_tables_other")
    for title, concepts in (("five people", PEOPLE), ("seven objects", OBJECTS)):
        every = with_no_risk([row for row in rows if row["concept"] in concepts])
        for method in SHOWN:
            own = [row for row in every if row["method"] == method]
            if own:
                lines.append(line(f"{title}: {'**SLUG**' if method == 'SLUG' else TITLES.get(method, method)}", own))
    for method in WIDELY:
        more = [row for row in rows if row["method"] == method and row["concept"] in EVERYONE]
        if len({row["concept"] for row in more}) > len(PEOPLE):
            lines.append(line(f"{len({row['concept'] for row in more})} people: {TITLES[method]}", more))
    for title, own in (
        ("people", [row for row in other if row["concept"] not in OBJECTS]),
        ("objects", [row for row in other if row["concept"] in OBJECTS]),
    ):
        for method in METHODS:
            found = [row for row in own if row["method"] == method]
            if found:
                said = f"{len({row['concept'] for row in found})} {title} of another checkpoint: {TITLES[method]}"
                lines.append(line(said, found))
    most = len(STACKED[0])
    stacks = [row for row in stack_rows() if row["count"] == most]
    for weights, said in WAYS.items():
        own = [row for row in stacks if row["weights"] == weights]
        if not own:
            continue
        fa1, fa5, _, people, objects = summarize(own)
        lines.append([f"{most} people at once: SLUG, {said}", fa1, fa5, "", objects, people, ""])
    same = [row for row in rows if row["concept"] in (*PEOPLE, *OBJECTS)]
    seconds = {
        method: fmean(own) for method in METHODS if (own := [r["seconds"] for r in same if r["method"] == method])
    }
    costs = "; ".join(f"{TITLES[method]} {value:.0f}" for method, value in seconds.items())
    header = [
        "",
        "FA@1 ↓",
        "FA@5 ↓",
        "reworded ↓",
        "fall of objects",
        "fall of other people",
        "forgotten on validation",
    ]
    ours = [row for row in same if row["method"] == "SLUG"]
    before = [percent(fmean(row["before"][key] for row in ours), 1) for key in ("people", "objects")]
    known = (
        f"Untouched, it knows {before[0]} % of the people and {before[1]} % of the objects (top-1 among fifty names)."
    )
    spent = f"Processor seconds of a run of these twelve, with all that is tried: {costs}."
    return "\n\n".join([known, markdown(header, lines), spent, *unlisted(rows[-1]["weights"])])


def unlisted(weights: str) -> list[str]:
    """What becomes of people whom the retain set does not show; once it was measured."""
    rows = current(Runs("photo_unlisted", ()).rows, weights)
    if not rows:
        return []
    said = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        apart = [percents(falls(own, key)) for key in ("unlisted", "listed")]
        said.append(f"{TITLES[method]} {apart[0]} points, and {apart[1]} of those it shows")
    return [
        f"Of {len(UNLISTED)} people whom the retain set does not show, forgetting another takes: {'; '.join(said)}."
    ]


def hosts() -> str:
    """Both hosts of the zoo, both objectives: what is forgotten and how much of the rest falls, one concept at a time, and three."""
    rows, lines = Runs("zoo_hosts", ()).rows, []
    for objective in ("host", "clip"):
        pairs = with_untouched(rows, objective)
        forgotten = [row["ua"] for row, _ in pairs]
        fall = [[base[key] - row[key] for row, base in pairs] for key in ("ira", "cra")]
        lines.append(
            [f'Stable Diffusion, {len(pairs)} concepts, `"{objective}"`', *worst(forgotten, min), *fell(*fall)]
        )
    for objective in ("host", "clip"):
        own = of_host(rows, "llava", objective)
        forgotten = [1 - row["after"]["fa1"] for row in own]
        fall = [falls_of_answers(own), [row["before"]["cra"] - row["after"]["cra"] for row in own]]
        lines.append([f'LLaVA, {len(own)} digits, `"{objective}"`', *worst(forgotten, min), *fell(*fall)])
    header = [
        "host and objective",
        "forgotten ↑",
        "worst",
        "fall of the same kind ↓",
        "worst",
        "of the other kind ↓",
        "worst",
    ]
    stacks = [row for way in WAYS_OF_HOSTS for row in of_host(rows, "stable-diffusion", way)]
    said = 'Three patches at once (`"host"`), made apart or in turn, each with those before it on; percent right over prompts that show none of them:'
    return "\n\n".join([markdown(header, lines), said, stacks_table(stacks)])


def models() -> str:
    """What the zoo's models can do untouched."""
    return models_table(Runs("zoo_models", ()).rows)


def answers() -> str:
    """What the zoo's LLaVA still names, and what it answers to other questions, by each way of forgetting."""
    rows = searched_today(Runs("zoo_answers", ()).rows)
    lines = [
        [f"{kind}: {title}", *cells] for kind, own in by_kind(rows, ANSWERED).items() for title, *cells in means(own)
    ]
    return markdown(ABOUT_ANSWERS, lines) if lines else ""


def concepts() -> str:
    """Each of CLIP's concepts with each seed: means and worst cases."""
    return summary(searched_today(Runs("zoo_concepts", ()).rows))


def worst(values: Sequence[float], pick: Any) -> list[str]:
    return [percent(fmean(values)), percent(pick(values))]


def fell(*columns: Sequence[float]) -> list[str]:
    return [cell for column in columns for cell in worst(column, max)]


@cache
def canvas_rows() -> Rows:
    return complete([row for row in Runs("zoo_canvas", ()).rows if row["settings"] == settings_of(row["method"])])


def canvas() -> str:
    """SLUG and the erasers of Stable Diffusion: quality, processor seconds and bytes."""
    rows = canvas_rows()
    lines = []
    for title, of_kind in by_kind(rows).items():
        for method in ERASERS[1:]:
            own = of(of_kind, method)
            costs = [fmean(row[key] for row in own) for key in ("seconds", "seconds_all")]
            sizes = [fmean(row[key] for row in own) / 1e3 for key in ("stored_bytes", "changed_bytes")]
            name = "**SLUG**" if method == "SLUG" else method
            cells = [*(f"{value:.1f}" for value in costs), *(f"{size:,.1f}" for size in sizes)]
            lines.append([f"{title.lower()}: {name}", *qualities(own), *cells])
    header = ["", "UA ↑", "IRA ↑", "CRA ↑", "mean ↑", "s, once", "s, with search", "kB stored", "kB changed"]
    return markdown(header, lines)


@cache
def stack_rows() -> Rows:
    return current_stacks(Runs("photo_stacks", ()).rows, last("photo_tables")[-1]["weights"])


def reached() -> str:
    """Every goal that was set beforehand, and whether it was reached."""
    rows = last("photo_tables")
    lines = [*goals.tables(rows), *goals.stacks(stack_rows()), *goals.checkpoint(rows, last("photo_tables_other"))]
    return goals.goals_table([*lines, *goals.canvas(canvas_rows(), timed(Runs("zoo_seconds", ()).rows))])


def speed() -> str:
    """Each goal of speed and memory, as found on the machine that measured last."""
    rows = Runs("speed", ()).rows
    if not rows:
        return ""
    where = f"{rows[-1]['machine']}, {rows[-1]['device']}, {rows[-1]['threads']} threads:"
    return f"{where}\n\n{speed_goals.goals(speed_goals.current(rows))}"


BLOCKS = {
    "models": models,
    "hosts": hosts,
    "answers": answers,
    "concepts": concepts,
    "canvas": canvas,
    "photographs": photographs,
    "goals": reached,
    "speed": speed,
}


def fill(text: str) -> str:
    """Puts every block between its marks."""
    for name, block in BLOCKS.items():
        mark = f"<!-- {name}: by benchmarks/readme.py -->"
        whole = re.compile(rf"{re.escape(mark)}\n(.*?\n)?<!-- end of {name} -->", re.DOTALL)
        if not whole.search(text):
            raise ValueError(
                f"README.md has no block that begins with {mark!r} and ends with '<!-- end of {name} -->'."
            )
        found = block()
        text = whole.sub(lambda _: f"{mark}\n{found}\n<!-- end of {name} -->", text)  # noqa: B023
    return text


if __name__ == "__main__":
    README.write_text(fill(README.read_text(encoding="utf-8")), encoding="utf-8")
