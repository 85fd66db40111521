# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A run of UnlearnCanvas on a miniature: what is asked, drawn, measured and told."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import unlearn_canvas
from canvas import forgetting, pictures
from canvas.classifiers import load_judge
from canvas.forgetting import Budget, make_evaluator, searched_seeds
from canvas.metrics import Answer, frechet_distance, score
from canvas.protocol import PHOTO, Canvas
from canvas.report import tell
from canvas_miniature import MINIATURE, OBJECT_NAMES, STYLE_NAMES, draw_miniature, options
from PIL import Image

from hf_slug import UnlearningPatch, zoo
from hf_slug.errors import UnreadableSourceError, UnsupportedModelError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_miniature(tmp_path_factory.mktemp("canvas"))


def random_answers(canvas, seeds=range(15)):
    generator = np.random.default_rng(0)
    answers = []
    for cell in canvas.cells:
        for seed in seeds:
            seen = tuple(
                name if generator.random() < 0.6 else str(generator.choice(names))
                for name, names in zip(cell, (canvas.styles, canvas.objects))
            )
            answers.append(Answer(cell, seed, seen))
    return answers


@pytest.mark.parametrize("canvas", [MINIATURE, Canvas(("Rust", PHOTO, "Monet", "Sketch"), ("Dogs", "Cats"))])
def test_metrics_agree_with_a_recount_by_hand(canvas):
    answers = random_answers(canvas)
    for concept in canvas.concepts:
        kind = 0 if concept in canvas.styles else 1
        shown = [a for a in answers if a.cell[kind] == concept]
        found = score(answers, concept, canvas)
        assert found["ua"] == pytest.approx(sum(a.seen[kind] != concept for a in shown) / len(shown))
        # every name has as many pictures as any other of its kind, so a mean over names is one over pictures
        same = [a for a in answers if a.cell[kind] not in (concept, PHOTO)]
        assert found["ira"] == pytest.approx(sum(a.seen[kind] == a.cell[kind] for a in same) / len(same))
        other = [a for a in answers if a.cell[1 - kind] != PHOTO]
        assert found["cra"] == pytest.approx(sum(a.seen[1 - kind] == a.cell[1 - kind] for a in other) / len(other))
        rest = [a for a in other if concept not in a.cell]
        assert found["cra_others"] == pytest.approx(
            sum(a.seen[1 - kind] == a.cell[1 - kind] for a in rest) / len(rest)
        )
        assert 0 < found["ua"] < 1 and found["cra"] != found["cra_others"]


def test_fid_is_measured_where_torchmetrics_is(monkeypatch, tmp_path):
    for name in ("torchmetrics", "torchmetrics.image", "torchmetrics.image.fid"):
        monkeypatch.setitem(sys.modules, name, None)
    assert frechet_distance([], [], "cpu") is None

    class Distance:
        def __init__(self):
            self.parts = {True: [], False: []}

        def to(self, device):
            return self

        def update(self, pixels, real):
            assert pixels.dtype == torch.uint8 and pixels.shape[1:] == (3, 512, 512)
            self.parts[real].append(pixels.float().mean((1, 2, 3)))

        def compute(self):
            return torch.cat(self.parts[True]).mean() - torch.cat(self.parts[False]).mean()

    module = ModuleType("torchmetrics.image.fid")
    module.FrechetInceptionDistance = Distance
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", module)
    files = []
    for value in (200, 100, 60):
        files.append(tmp_path / f"{value}.png")
        Image.new("RGB", (4, 4), (value,) * 3).save(files[-1])
    assert frechet_distance(files[:2], files[2:], "cpu", batch_size=1) == pytest.approx(90)


def test_the_search_looks_at_other_seeds_and_no_photographs():
    canvas = Canvas()
    evaluator = make_evaluator(None, canvas, "Dogs", 0, Budget(), guidance_scale=9.0)
    assert len(evaluator.forget) == 50 and len(evaluator.retain) == 100  # a picture of each painted style
    assert not any("Seed Images" in prompt for prompt in evaluator.shown)
    assert evaluator.settings == {"num_inference_steps": 25, "guidance_scale": 9.0}
    looked = {seed for _, i in evaluator.forget for seed in (i, 10_000 + i)}
    assert looked <= searched_seeds(canvas, Budget())


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"concepts": ["neon", "eight"]}, ValueError, "no style or object eight to forget. .* of: neon, chalk, two"),
        ({"seeds": [188, 10_001]}, ValueError, "The search goes by the seeds 10001"),
        ({"data": "nowhere"}, UnreadableSourceError, "There is no folder nowhere"),
        ({"classifiers": "nowhere"}, UnsupportedModelError, "nowhere holds no style50.pth"),
        ({"model": zoo.CLIP_FOLDER}, UnsupportedModelError, "model_index.json"),
    ],
)
def test_what_can_not_run_is_refused_before_anything_is_drawn(data, tmp_path, changed, error, message):
    with pytest.raises(error, match=message):
        unlearn_canvas.main(options(data, tmp_path / "out", **changed))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(data, tmp_path, monkeypatch):
    output = tmp_path / "out"
    drawn, made, limit = [], [], SimpleNamespace(left=12 + 4)  # the untouched model's, and one batch
    generate, unlearn = pictures.generate, forgetting.unlearn

    def counted(pipe, wanted, *args, **settings):
        if limit.left < len(wanted):
            raise KeyboardInterrupt
        limit.left -= len(wanted)
        drawn.append(wanted)
        assert settings == {"num_inference_steps": 8, "guidance_scale": 3.0}
        return generate(pipe, wanted, *args, **settings)

    monkeypatch.setattr(pictures, "generate", counted)
    monkeypatch.setattr(forgetting, "unlearn", lambda *args, **kwargs: made.append(1) or unlearn(*args, **kwargs))

    with pytest.raises(KeyboardInterrupt):  # in the middle of the patched model's pictures
        unlearn_canvas.main(options(data, output))
    assert len(list((output / "untouched" / "pictures").iterdir())) == 12 and made == [1]
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*.jpg")}
    assert len(before) == 12 + 4
    half = output / "neon" / "pictures" / "chalk_seven_seed288.part"
    half.write_bytes(b"\xff\xd8")  # a picture that was being written
    with pytest.raises(KeyboardInterrupt):
        unlearn_canvas.main(options(data, output))
    limit.left = 10**6
    rows = unlearn_canvas.main(options(data, output))

    assert made == [1]  # the patch is not made again
    assert {file: file.stat().st_mtime_ns for file in before} == before
    asked = [wanted for batch in drawn for wanted in batch]
    assert len(asked) == 24 and set(asked) == {
        (f"a {thing} in {style} style", seed) for thing in OBJECT_NAMES for style in STYLE_NAMES for seed in (188, 288)
    }
    files = {file.name for file in (output / "neon" / "pictures").iterdir()}
    assert files == {f"{s}_{o}_seed{n}.jpg" for s in STYLE_NAMES for o in OBJECT_NAMES for n in (188, 288)}

    # the row says what the zoo's judge sees in the files
    judge = load_judge(zoo.JUDGE_FOLDER, MINIATURE, "cpu")
    answers = []
    for file in sorted((output / "neon" / "pictures").iterdir()):
        style, thing, seed = file.stem.split("_")
        answers += [Answer((style, thing), int(seed[4:]), judge([Image.open(file)])[0])]
    (row,) = rows
    assert {key: row[key] for key in ("ua", "ira", "cra", "cra_others")} == score(answers, "neon", MINIATURE)
    assert row["ua"] > 0.8 and row["untouched"]["ua"] < 0.2 and row["ira"] > 0.8 and row["cra"] > 0.8
    patch = UnlearningPatch.from_pretrained(output / "neon" / "patch")
    assert (patch.config.concept, patch.config.rank) == ("neon", 4) and patch.report["early_stopping"]
    table = (output / "unlearn_canvas.md").read_text()
    assert "12 pictures of each model: 2 styles × 3 objects" in table and "| neon | 1" in table
    assert "Not the official canvas" in table

    # all is there: nothing is drawn or made
    drawn.clear()
    assert unlearn_canvas.main(options(data, output)) == rows and drawn == [] and made == [1]
    # concepts of other calls are in the table, too
    other = {**rows[0], "concept": "seven"}
    (output / "seven").mkdir()
    (output / "seven" / "row.json").write_text(json.dumps(other))
    assert [row["concept"] for row in unlearn_canvas.main(options(data, output))] == ["neon", "seven"]
    assert "## Objects (1 of 3)" in (output / "unlearn_canvas.md").read_text() and drawn == []
    # FID, where what it needs is installed afterwards, is that of the pictures that are there
    asked_for = []

    def distance(real, drawn, device):
        asked_for.append((drawn[0].parts[-3], sorted(path.name for path in drawn)))
        return 12.5

    monkeypatch.setattr(unlearn_canvas, "frechet_distance", distance)
    unlearn_canvas.main(options(data, output))
    found = json.loads((output / "neon" / "row.json").read_text())
    assert (found["fid"], found["fid_untouched"]) == (12.5, 12.5) and drawn == []
    kept = sorted(name for name in files if not name.startswith("neon"))
    assert asked_for[:2] == [("neon", kept), ("untouched", kept)]
    # fewer seeds take a part of the pictures that are there; another one is drawn, under the same patch
    (row,) = unlearn_canvas.main(options(data, output, seeds=[188]))
    some = [answer for answer in answers if answer.seed == 188]
    assert {key: row[key] for key in ("ua", "ira", "cra")} == {
        key: value for key, value in score(some, "neon", MINIATURE).items() if key in ("ua", "ira", "cra")
    }
    assert drawn == [] and made == [1]
    (row,) = unlearn_canvas.main(options(data, output, seeds=[388]))
    assert row["seeds"] == [388] and {seed for batch in drawn for _, seed in batch} == {388} and made == [1]
    monkeypatch.setattr(unlearn_canvas, "mark_of", lambda folder: "other classifiers")
    with pytest.raises(ValueError, match="another --classifiers"):
        unlearn_canvas.main(options(data, output))
    monkeypatch.undo()
    # pictures of other settings are not mixed in
    with pytest.raises(ValueError, match=r"another --steps \(8, now 9\); --guidance \(3.0, now 4.0\)\. Give"):
        unlearn_canvas.main(options(data, output, steps=9, guidance=4.0))


def test_the_table_has_each_concept_its_kinds_mean_and_what_is_published():
    metrics = {"ira": 0.75, "cra": 0.9, "cra_others": 0.8}
    costs = {
        "reached": True,
        "fid": None,
        "fid_untouched": None,
        "seconds": [39.4, 20.0],
        "peak_bytes": 3.6e9,
        "stored_bytes": 40e6,
    }
    rows = [
        {"concept": name, "ua": ua, **metrics, **costs, "untouched": {"ua": 0.01, **metrics}}
        for name, ua in (("Monet", 0.8), ("Rust", 0.9), ("Dogs", 0.5))
    ]
    text = "\n\n".join(tell(rows, Canvas(), 5100))
    assert "5,100 pictures of each model: 51 styles × 20 objects" in text
    assert "| Monet | 80.00 | 75.00 | 90.00 | 80.00 | - | 1.00 | 75.00 | 90.00 | - | 39 | 20 | 3.6 | 40.00 |" in text
    # Student's t of one degree of freedom: 12.706 * 0.1 / 2
    assert "## Styles (2 of 50)" in text and "| **mean** | 85.00 ± 63.53 | 75.00 ± 0.00 |" in text
    assert "## Objects (1 of 20)" in text and text.count("**mean**") == 1  # no mean of one
    assert "| SLUG | 86.3 / 84.6 / 88.4 | 75.4 / 77.5 / 81.2 |" in text and "quoted" in text
    assert "pip install torchmetrics torch-fidelity" in text and "†" not in text
    failed = "".join(tell([{**row, "reached": row["concept"] != "Rust"} for row in rows], Canvas(), 5100))
    assert "| Rust † | 90.00 |" in failed and "| Monet | 80.00 |" in failed and "† The search found no step" in failed
    measured = "".join(tell([{**row, "fid": 60.0, "fid_untouched": 55.0} for row in rows], Canvas(), 5100))
    assert "torchmetrics" not in measured and "| 60.0 | 1.00 | 75.00 | 90.00 | 55.0 |" in measured
    assert "Published" not in "".join(tell([{**rows[0], "concept": "neon"}], MINIATURE, 12))
