# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What is said of the photographs' rows: goals, another checkpoint, and what baselines would be without the risk."""

import goals
import photo_data
import photo_report
import pytest


def row(method, concept, seed=0, left=0.0, fall=0.0, **more):
    kept = {"people": 0.9, "objects": 0.7, "near": 0.9}
    after = {"fa1": left, "fa5": left, "fa5_reworded": left} | {key: value - fall for key, value in kept.items()}
    costs = dict.fromkeys(("seconds", "one_run", "wall_seconds", "peak_bytes", "stored_bytes"), 1.0)
    told = {
        "before": {**after, **kept, "fa1": 1.0},
        "struck": {**after, **kept},
        "n_forget": 2,
        "n_retain": 9,
        "chosen": "x",
    }
    return {"method": method, "concept": concept, "seed": seed, "after": after} | told | costs | more


def of_all(method, concepts, **values):
    return [row(method, concept, forgotten_on_validation=True, **values) for concept in concepts]


@pytest.fixture
def rows():
    ours = of_all("SLUG", [*photo_data.PEOPLE, *photo_data.OBJECTS])
    worse = of_all("GA", [*photo_data.PEOPLE, *photo_data.OBJECTS], fall=0.1)
    return [*ours, *worse, *of_all("SSD", photo_data.PEOPLE, left=0.5), *of_all("SSD", photo_data.OBJECTS)]


def found(lines, goal):
    return [(what, reached) for _, said, what, reached in lines if said.startswith(goal)]


def test_a_baseline_that_is_worse_in_nothing_is_named(rows):
    lines = goals.tables(rows)
    told = [("all", "yes"), ("not SSD: `photo_tables.md` says how", "**no**")]
    assert found(lines, "each baseline worse") == told
    assert found(lines, "FA@1 and FA@5 = 0") == [("5 of 5 runs", "yes")]
    # by the risk, which is SLUG's rule, it may be worse alone
    better = {"after": rows[0]["after"]}
    loose = [r | {"looks": [], "without_risk": better} if r["method"] == "GA" else r for r in rows]
    assert found(goals.tables(loose), "each baseline worse")[0] == (
        "not GA, no risk: `photo_tables.md` says how",
        "**no**",
    )
    rows[0]["forgotten_on_validation"] = False
    assert found(goals.tables(rows), "FA@1 and FA@5 = 0") == [("4 of 5 runs", "**no**")]


def test_another_checkpoint_is_judged_by_slug_alone(rows):
    concepts = [*photo_data.EVERYONE[-3:], *photo_data.OBJECTS]
    other = [*of_all("SLUG", concepts, fall=0.015), *of_all("SSD", concepts, fall=0.5)]
    assert [line[-1] for line in goals.checkpoint(rows, other)] == ["yes", "yes"]
    assert [line[-1] for line in goals.checkpoint(rows, of_all("SLUG", concepts, fall=0.03))] == ["**no**"] * 2


def test_what_a_baseline_would_be_without_the_risk_is_a_line_of_its_own(rows):
    people = [row for row in rows if row["concept"] in photo_data.PEOPLE]
    for own in people:
        own |= {"looks": []} if own["method"] != "SLUG" else {}
    for at, own in enumerate(row for row in people if row["method"] == "GA"):
        if at == 0:  # the others' choice is the same
            own["without_risk"] = {"after": own["struck"] | dict.fromkeys(("fa1", "fa5", "fa5_reworded"), 1.0)}
    lines = {line.split(" | ")[0][2:]: line.split(" | ") for line in photo_report.table(people).splitlines()}
    assert "SLUG, no risk" not in lines and "SSD, no risk" not in lines  # of SSD the risk decided nothing
    assert [lines[title][1].split()[0] for title in ("GA", "GA, no risk")] == ["0.00", "20.00"]
    assert [lines[title][4].split()[0] for title in ("GA", "GA, no risk")] == ["10.00", "8.00"]
    assert "- GA, no risk: " in photo_report.compare(people)
