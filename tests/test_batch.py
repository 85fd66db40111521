# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""`hf-slug unlearn --concepts FILE`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import NAMES, make_clip, noise_rows, write_folder
from safetensors.torch import load_file

from hf_slug import UnlearningPatch, zoo
from hf_slug.cli import main
from hf_slug.concept_list import read_concepts


WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    """A model, a forget set of two names, a retain set of the others."""
    folder = tmp_path_factory.mktemp("batch")
    make_clip().save_pretrained(folder / "model")
    request.getfixturevalue("processor").save_pretrained(folder / "model")
    rows = [row | {"name": row["text"].split()[-1]} for row in noise_rows(60)]
    first, second = sorted({row["name"] for row in rows})[:2]
    write_folder(folder / "forget", [row for row in rows if row["name"] in (first, second)])
    write_folder(folder / "retain", [row for row in rows if row["name"] not in (first, second)])
    (folder / "concepts.txt").write_text(f"# two of them\n{first}\n\n{second}\n")
    return folder


@pytest.fixture
def arguments(folder, tmp_path):
    return [
        *("unlearn", "--model", str(folder / "model"), "--concepts", str(folder / "concepts.txt")),
        *("--forget", str(folder / "forget"), "--retain", str(folder / "retain"), "--template", "{}"),
        *("--output", str(tmp_path / "out"), "--steps", "2", "--device", "cpu"),
    ]


def concepts(folder):
    return [wanted.concept for wanted in read_concepts(folder / "concepts.txt")]


def test_every_concept_becomes_a_patch_like_one_made_alone(folder, arguments, tmp_path, capsys):
    assert main([*arguments, "--json"]) in (0, 1)
    said = json.loads(capsys.readouterr().out)
    assert list(said["patches"]) == concepts(folder) and said["failed"] == {}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*concepts(folder), "batch.json", "retain-stats"}
    for concept in concepts(folder):
        patch = UnlearningPatch.from_pretrained(tmp_path / "out" / concept)
        assert patch.report == said["patches"][concept] and patch.config.concept == concept
        own = tmp_path / f"only-{concept}"
        rows = [json.loads(line) for line in (folder / "forget" / "metadata.jsonl").read_text().splitlines()]
        (tmp_path / "metadata").write_text("")
        kept = [row for row in rows if row["name"] == concept]
        own.mkdir()
        for row in kept:
            (own / row["file_name"]).write_bytes((folder / "forget" / row["file_name"]).read_bytes())
        (own / "metadata.jsonl").write_text("\n".join(map(json.dumps, kept)))
        alone = [argument for argument in arguments if argument != "--concepts"]
        alone[alone.index(str(folder / "concepts.txt"))] = "--concept"
        alone.insert(alone.index("--concept") + 1, concept)
        alone[alone.index("--forget") + 1], alone[alone.index("--output") + 1] = str(own), str(tmp_path / concept)
        assert main(alone) in (0, 1)
        single = load_file(tmp_path / concept / WEIGHTS)
        for name, tensor in load_file(tmp_path / "out" / concept / WEIGHTS).items():
            torch.testing.assert_close(tensor, single[name], rtol=1e-4, atol=1e-7)


def test_what_is_done_is_not_done_again(folder, arguments, tmp_path, capsys, monkeypatch):
    main(arguments)
    first, second = concepts(folder)
    out = tmp_path / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    for path in sorted((out / second).iterdir()):
        path.unlink()
    (out / second).rmdir()
    monkeypatch.setattr("hf_slug.batch.statistics_of", None)  # they are there
    assert main(arguments) in (0, 1)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert set(after) == set(before)
    again = {path for path in after if after[path] != before[path]}
    assert {path.parent.name for path in again} == {second, "out"}  # and batch.json
    assert main([*arguments, "--steps", "3"]) == 2
    assert "other settings (steps)" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == after
    assert main([*arguments, "--batch-size", "101"]) == 2  # more would be contrasted with each other
    assert "other settings (retain_batch_size)" in capsys.readouterr().err
    assert main([*arguments, "--batch-size", "9", "--gradient-checkpointing"]) in (0, 1)  # memory, and nothing else


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_where_memory_runs_out_a_way_out_is_named(arguments, capsys, monkeypatch, error):
    def fail(*_, **__):
        raise error(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\n#0 c10::ThrowEnforceNotMet"
        )

    monkeypatch.setattr("hf_slug.batch.statistics_of", fail)
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "Memory ran out (DefaultCPUAllocator" in said and "--gradient-checkpointing" in said and "#0" not in said


def test_one_that_fails_does_not_stop_the_others(folder, arguments, tmp_path, capsys):
    first, _ = concepts(folder)
    (tmp_path / "more.jsonl").write_text(
        "\n".join(
            json.dumps(row)
            for row in (
                {"concept": "nobody"},
                {"concept": first, "output": "the-first"},
                {"concept": "someone", "forget": "/nowhere/at/all"},
            )
        )
    )
    arguments[arguments.index("--concepts") + 1] = str(tmp_path / "more.jsonl")
    assert main(arguments) == 2
    out = capsys.readouterr().out
    assert "No pair of --forget" in out and "/nowhere/at/all" in out and "the-first" in out
    assert UnlearningPatch.from_pretrained(tmp_path / "out" / "the-first").config.concept == first
    assert not (tmp_path / "out" / "nobody").exists()


def test_a_forget_set_may_be_named_by_the_concept_or_in_the_file(folder, arguments, tmp_path, capsys):
    first, second = concepts(folder)
    (tmp_path / "sets").mkdir()
    for concept in (first, second):
        (tmp_path / "sets" / concept).symlink_to(folder / "forget")
    arguments[arguments.index("--forget") + 1] = str(tmp_path / "sets" / "{}")
    assert main([*arguments, "--json"]) in (0, 1)
    n = json.loads(capsys.readouterr().out)["patches"][first]["data"]["forget"]["n"]
    (tmp_path / "sets" / "two.jsonl").write_text(json.dumps({"concept": second, "forget": second}))
    arguments[arguments.index("--concepts") + 1] = str(tmp_path / "sets" / "two.jsonl")
    arguments[arguments.index("--output") + 1] = str(tmp_path / "other")
    del arguments[arguments.index("--forget") : arguments.index("--forget") + 2]
    assert main([*arguments, "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["patches"][second]["data"]["forget"]["n"] == n


def test_sets_of_all_concepts_are_taken_apart_by_name(folder, arguments, tmp_path, capsys):
    more = ["--validation-forget", str(folder / "forget"), "--test-forget", str(folder / "forget"), "--json"]
    assert main([*arguments, *more, "--plots", str(tmp_path / "plots")]) in (0, 1)
    for concept, report in json.loads(capsys.readouterr().out)["patches"].items():
        n = report["data"]["forget"]["n"]
        assert 0 < n < 60 and report["data"]["validation_forget"]["n"] == report["data"]["test_forget"]["n"] == n
        assert (tmp_path / "plots" / concept / "front.png").is_file()


def test_statistics_serve_all_concepts(folder, arguments, tmp_path, capsys):
    stats = ["--model", str(folder / "model"), "--retain", str(folder / "retain"), "--device", "cpu"]
    assert main(["retain-stats", *stats, "--output", str(tmp_path / "stats")]) == 0
    arguments[arguments.index("--retain") : arguments.index("--retain") + 2] = [
        *("--retain-stats", str(tmp_path / "stats"), "--names", str(tmp_path / "names.txt")),
        *("--validation-retain", str(folder / "retain"), "--test-retain", str(folder / "retain")),
    ]
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    capsys.readouterr()
    assert main([*arguments, "--json"]) in (0, 1)
    said = json.loads(capsys.readouterr().out)
    assert list(said["patches"]) == concepts(folder) and not (tmp_path / "out" / "retain-stats").exists()


def test_a_concept_whose_pictures_are_missing_is_done_again(folder, arguments, tmp_path, capsys, monkeypatch):
    from hf_slug import plots

    first, second = concepts(folder)
    whole, plotted = plots.save_plots, []

    def fails_once(report, where):
        plotted.append(Path(where).name)
        if len(plotted) == 1:
            raise RuntimeError("the disk is full")
        return whole(report, where)

    monkeypatch.setattr(plots, "save_plots", fails_once)
    arguments += ["--tower", "text", "--plots", str(tmp_path / "plots")]
    assert main(arguments) == 2 and "the disk is full" in capsys.readouterr().out
    assert not (tmp_path / "out" / first).exists() and (tmp_path / "out" / second).is_dir()
    assert main(arguments) in (0, 1) and plotted == [first, second, first]
    assert (tmp_path / "plots" / first / "front.png").is_file() and (tmp_path / "out" / first).is_dir()


def test_what_a_stream_can_not_give_is_asked_for_before_anything_is_read(arguments, tmp_path, capsys):
    assert main([*arguments, "--streaming", "--validation-retain", "/nowhere"]) == 2
    assert "Give --validation-retain and --test-retain" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_statistics_for_a_host_are_of_its_tower_alone(folder, arguments, tmp_path, capsys, monkeypatch):
    asked = []

    def compute(args, model, processor, source, accelerator, tower):
        asked.append(tower)
        raise ValueError("that is enough")

    monkeypatch.setattr("hf_slug.batch.statistics_of", compute)
    arguments[arguments.index("--model") + 1] = str(zoo.CLIP_FOLDER)
    assert main([*arguments, "--host", "stable-diffusion", "--objective", "clip"]) == 2
    assert "that is enough" in capsys.readouterr().err and asked == ["text"]


def test_another_retain_set_under_the_same_name_is_not_mixed_in(folder, arguments, tmp_path, capsys):
    shutil.copytree(folder / "retain", tmp_path / "retain")
    arguments[arguments.index("--retain") + 1] = str(tmp_path / "retain")
    assert main(arguments) in (0, 1)
    _, second = concepts(folder)
    shutil.rmtree(tmp_path / "out" / second)
    rows = (tmp_path / "retain" / "metadata.jsonl").read_text().splitlines()
    (tmp_path / "retain" / "metadata.jsonl").write_text("\n".join(rows[:-7]))
    assert main(arguments) == 2
    assert "computed from other pairs" in capsys.readouterr().err
    assert not (tmp_path / "out" / second).exists()


@pytest.mark.slow
def test_processes_take_concepts_in_turn(folder, arguments, tmp_path):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "hf_slug"]
    done = subprocess.run(
        [*start, *arguments, "--json"],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said = json.loads(done.stdout)  # once, and nothing else
    assert done.returncode == (0 if all(report["succeeded"] for report in said["patches"].values()) else 1)
    assert list(said["patches"]) == concepts(folder) and said["failed"] == {}
    assert main(arguments[: arguments.index("--output")] + ["--output", str(tmp_path / "alone"), *arguments[-4:]]) in (
        0,
        1,
    )
    for concept in concepts(folder):
        one, two = (load_file(tmp_path / part / concept / WEIGHTS) for part in ("alone", "out"))
        for name, tensor in one.items():
            assert (two[name] - tensor).norm() <= 1e-4 * tensor.norm()


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("c.txt", "\n# nothing\n", "holds no concepts"),
        ("c.txt", "mira\nmira\n", "'mira' more than once"),
        ("c.txt", "Mira Lee\nmira-lee\n", "folder 'mira-lee' more than once"),
        ("c.jsonl", '{"concept": "mira"', "line 1 is not JSON"),
        ("c.jsonl", '{"concept": "mira", "forgot": "x"}', "line 1: expected an object"),
        ("c.jsonl", '{"concept": 3}', "line 1: expected an object"),
        ("c.jsonl", '{"forget": "x"}', "names no concept"),
        ("c.jsonl", '{"concept": "mira", "output": "../mira"}', "can't be the folder"),
        ("c.jsonl", '{"concept": "retain-stats"}', "can't be the folder"),
        ("c.txt", "…", "can't be the folder"),
    ],
)
def test_nonsense_in_the_file_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_concepts(tmp_path / name)


def test_nonsense_on_the_command_line(arguments, capsys):
    assert main([*arguments[:-2], "--validation-forget", "/nowhere/at/all"]) == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*arguments, "--concept", "mira"])
    del arguments[arguments.index("--concepts") : arguments.index("--concepts") + 2]
    del arguments[arguments.index("--forget") : arguments.index("--forget") + 2]
    assert main([*arguments, "--concept", "mira"]) == 2
    assert "There is no forget set" in capsys.readouterr().err


@pytest.mark.slow
def test_a_batch_that_is_killed_again_and_again_ends_with_the_same_patches(folder, arguments, tmp_path):
    script = Path(__file__).with_name("killed_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out"), "0", "20", *arguments, "--tower", "text"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["whole"] and set(said["whole"]) == set(concepts(folder))
    assert len(said["kills"]) == 20 and said["ends"]
    for code, same, left in said["ends"]:
        assert code in (0, 1) and same and not left
    for left in said["kills"]:  # a patch was there as a whole or not at all
        for concept in concepts(folder):
            assert len([path for path in left if path.startswith(f"{concept}/")]) in (0, 4), left
    assert any(f"{concept}/{WEIGHTS}" in left for left in said["kills"] for concept in concepts(folder))
