# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""`hf-slug unlearn --host …`: which models, data and evaluators a command means, and what it refuses."""

import io
import json
import shutil

import datasets
import pytest
import torch
from test_cli import write_folder

from hf_slug import UnlearningPatch, zoo
from hf_slug.cli import build_parser, main
from hf_slug.evaluation import ClassifierJudge, GenerationEvaluator, VqaEvaluator, ZeroShotJudge
from hf_slug.host_evaluation import spread
from hf_slug.request import load_request
from hf_slug.zoo import concept_pairs
from hf_slug.zoo.data import DIGITS


SD, LLAVA, CLIP, JUDGE = map(str, (zoo.STABLE_DIFFUSION_FOLDER, zoo.LLAVA_FOLDER, zoo.CLIP_FOLDER, zoo.JUDGE_FOLDER))
FEW = ["--images-per-prompt", "1", "--inference-steps", "4", "--guidance-scale", "3"]


def write_parquet(file, rows):
    """As the Hub's datasets have it."""
    columns = {"text": [row["text"] for row in rows], "name": [row["name"] for row in rows], "image": []}
    for row in rows:
        stream = io.BytesIO()
        row["image"].save(stream, "png")
        columns["image"].append({"bytes": stream.getvalue(), "path": None})
    datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).to_parquet(file)
    return str(file)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    forget, retain = concept_pairs("seven", "train", limit_per_digit=2)
    return write_folder(folder / "forget", forget), write_parquet(folder / "retain.parquet", retain[:36])


@pytest.fixture
def arguments(data, tmp_path):
    return [
        *("unlearn", "--concept", "seven", "--template", "a {}", "--forget", data[0], "--retain", data[1]),
        *("--output", str(tmp_path / "patch"), "--device", "cpu", "--steps", "5", "--json"),
    ]


def run(arguments, capsys, code=0):
    assert main(arguments) in ([code] if isinstance(code, int) else code), capsys.readouterr().err
    report = json.loads(capsys.readouterr().out)
    assert UnlearningPatch.from_pretrained(arguments[arguments.index("--output") + 1]).report == report
    return report


def request(arguments):
    return load_request(build_parser().parse_args(arguments))


@pytest.mark.parametrize("host, chosen, objective", [
    pytest.param("stable-diffusion", [], "host", marks=pytest.mark.slow),
    ("stable-diffusion", ["--objective", "clip"], "clip"),
    ("llava", [], "host"), ("llava", ["--objective", "clip"], "clip"),
])  # fmt: skip
def test_without_a_model_it_is_the_miniature_one(arguments, host, chosen, objective, capsys, tmp_path):
    report = run([*arguments, "--host", host, *chosen], capsys, (0, 1))
    assert report["objective"] == objective
    assert report["host"]["name_or_path"] == (SD if host == "stable-diffusion" else LLAVA)
    assert report["base_model"]["name_or_path"] == CLIP and report["base_model"]["class"] == "CLIPModel"
    assert report["tower"] == ("text" if host == "stable-diffusion" else "vision")
    assert report["metrics"]["evaluator"] == "ZeroShotEvaluator" and report["metrics"]["before"]["fa1"] >= 0.7
    assert report["metrics"]["after"]["fa1"] <= 0.5 or report["objective"] == "host"  # on so little data
    loaded = zoo.load_stable_diffusion() if host == "stable-diffusion" else zoo.load_llava()[0]
    for model in (loaded, zoo.load_clip()[0]):
        assert model.load_unlearning(tmp_path / "patch") == "default_0"


@pytest.mark.slow
@pytest.mark.parametrize("host, folder, evaluator", [
    ("stable-diffusion", SD, "GenerationEvaluator"), ("llava", LLAVA, "VqaEvaluator"),
])  # fmt: skip
def test_the_model_may_be_the_host_itself(arguments, host, folder, evaluator, capsys):
    more = ["--judge", JUDGE, *FEW] if host == "stable-diffusion" else ["--question", "Which digit is it?"]
    report = run(
        [*arguments, "--host", host, "--model", folder, "--steps", "2", "--front-only", *more], capsys, (0, 1)
    )
    assert report["objective"] == "host" and report["metrics"]["evaluator"] == evaluator
    assert report["base_model"] == {k: report["host"][k] for k in report["base_model"]}
    assert report["base_model"]["name_or_path"] == folder
    assert report["metrics"]["before"]["fa1"] >= 0.9
    if host == "stable-diffusion":  # nothing of the data is split off for pictures that are drawn
        assert report["data"]["forget"]["n"] == 20 and "test_forget" not in report["data"]
    else:
        assert [report["data"][part]["n"] for part in ("forget", "validation_forget", "test_forget")] == [12, 4, 4]


def test_pictures_are_drawn_of_the_datas_own_captions(arguments):
    arguments += ["--host", "stable-diffusion", "--evaluate", "host", "--images-per-prompt", "8", "--seed", "5"]
    chooser, tester = (request(arguments).settings[key] for key in ("evaluate", "test_evaluate"))
    assert isinstance(chooser, GenerationEvaluator) and isinstance(chooser.judge, ZeroShotJudge)
    assert (chooser.seed, tester.seed) == (5, 10_005)
    forget, retain = concept_pairs("seven", "train", limit_per_digit=2)
    assert {prompt for prompt, _ in chooser.forget} == {row["text"] for row in forget}
    assert {prompt for prompt, _ in chooser.retain} <= {row["text"] for row in retain}
    assert (chooser.n_forget, chooser.n_retain) == (10 * 8, len({row["text"] for row in retain[:36]}) * 2)
    shown = [chooser.shown[prompt][0] for prompt, _ in chooser.retain]
    assert all(prompt.split()[1] == name for (prompt, _), name in zip(chooser.retain, shown))
    assert set(shown) == set(DIGITS) - {"seven"}


def test_of_few_captions_fifty_pictures_are_drawn(arguments):
    settings = request([*arguments, "--host", "stable-diffusion", "--evaluate", "host"]).settings
    assert all(settings[key].n_forget == 10 * 5 for key in ("evaluate", "test_evaluate"))  # of ten captions
    assert settings["evaluate"].n_retain == len({prompt for prompt, _ in settings["evaluate"].retain})
    assert settings["evaluate"].settings == {"num_inference_steps": 25, "guidance_scale": 7.5}


@pytest.mark.parametrize("flag", FEW[::2])
@pytest.mark.parametrize("rest", [[], ["--host", "llava", "--evaluate", "host"], ["--host", "stable-diffusion"]])
def test_how_pictures_are_drawn_is_refused_where_none_are(arguments, flag, rest):
    rest = rest or ["--model", str(zoo.CLIP_FOLDER)]
    with pytest.raises(ValueError, match=f"{flag} says how pictures are generated"):
        request([*arguments, *rest, flag, "3"])


def test_of_many_captions_some_of_every_name_are_drawn():
    shown = {f"a {name} {i}": name for name, count in (("two", 90), ("one", 7), ("nine", 2)) for i in range(count)}
    taken = [name for (name,) in spread(shown).values()]
    assert [taken.count(name) for name in ("two", "one", "nine")] == [41, 7, 2]
    few = {"a two": "two", "a one": "one"}
    assert spread(few) == {"a two": ("two",), "a one": ("one",)} and spread({}) == {}


def test_a_judge_may_be_given(arguments):
    arguments += ["--host", "stable-diffusion", "--evaluate", "host", "--judge", JUDGE, *FEW]
    chooser = request(arguments).settings["evaluate"]
    assert isinstance(chooser.judge, ClassifierJudge) and set(chooser.judge.kinds[0]) == set(DIGITS)
    assert chooser.settings == {"num_inference_steps": 4, "guidance_scale": 3.0} and chooser.n_forget == 10


def test_questions_are_asked_about_images_of_their_own(arguments):
    arguments += [
        "--host",
        "llava",
        "--evaluate",
        "host",
        "--question",
        "Digit?",
        "--question",
        "So?",
        "--batch-size",
        "9",
    ]
    settings = request(arguments).settings
    chooser, tester = settings["evaluate"], settings["test_evaluate"]
    assert isinstance(chooser, VqaEvaluator) and chooser.questions == settings["questions"] == ["Digit?", "So?"]
    assert (len(chooser.forget), len(tester.forget), chooser.batch_size) == (4, 4, 9)
    own = [
        {image.tobytes() for image in part.images()} for part in (settings["forget"], chooser.forget, tester.forget)
    ]
    assert len(set().union(*own)) == 20 and set(chooser.names) == set(DIGITS)


@pytest.mark.parametrize("host", ["stable-diffusion", "llava"])
def test_names_may_be_in_the_captions_alone_and_differ_in_case(host, tmp_path):
    """Without a name column a caption gives its name by the template; the concept may be said as a whole prompt."""
    forget, retain = concept_pairs("seven", "train", limit_per_digit=2)
    rows = [[{**row, "text": text.format(row["name"]), "name": None} for row in part] for part, text in (
        (forget, "some seven, anyhow"), (retain, "A photo of {}"))]  # fmt: skip
    rows[1][0]["text"] = "A photo of EIGHT"
    arguments = [
        "unlearn",
        "--concept",
        "A photo of Seven",
        "--template",
        "A photo of {}",
        "--output",
        "x",
        "--host",
        host,
    ]
    arguments += ["--evaluate", "host", "--device", "cpu"]
    for what, part in zip(("forget", "retain"), rows):
        arguments += [f"--{what}", write_folder(tmp_path / what, part)]
    evaluator = request(arguments).settings["evaluate"]
    assert evaluator.concept == "Seven" and len(evaluator.names) == 10
    assert {name.casefold() for name in evaluator.names} == set(DIGITS)  # and no caption of the forget set


REFUSED = {
    "no model": ([], "Give --model, a CLIPModel, or --host"),
    "a host's flag without a host": (["--model", CLIP, "--objective", "host"], "--objective says something of a host"),
    "a host's model without a host": (["--model", CLIP, "--host-model", SD], "--host-model says something of a host"),
    "two hosts": (["--host", "llava", "--model", LLAVA, "--host-model", LLAVA], "Found two hosts"),
    "another kind of host": (["--host", "llava", "--host-model", SD], "'diffusers pipeline' model. Expected one of llava"),
    "a host that is none": (["--host", "stable-diffusion", "--host-model", CLIP], "holds no model_index.json"),
    "a host as the CLIP": (["--host", "stable-diffusion", "--model", LLAVA], "'llava' model. Expected a checkpoint of CLIP"),
    "no such folder": (["--host", "llava", "--host-model", "/nowhere"], "There is no folder /nowhere"),
    "no such judge": (["--host", "stable-diffusion", "--evaluate", "host", "--judge", "/nowhere"], "There is no folder /nowhere"),
    "no judge": (["--host", "stable-diffusion", "--model", SD], "give --judge"),
    "no CLIP for its losses": (["--host", "llava", "--model", LLAVA, "--objective", "clip"], "needs the CLIPModel"),
    "no CLIP to classify": (["--host", "llava", "--model", LLAVA, "--evaluate", "zero-shot"], "Without a CLIPModel"),
    "a judge that nobody asks": (["--host", "stable-diffusion", "--judge", JUDGE], "--evaluate host, too"),
    "a question that nobody hears": (["--host", "stable-diffusion", "--question", "So?"], "what a LLaVA is asked"),
    "a judge without the name": (
        ["--host", "stable-diffusion", "--evaluate", "host", "--judge", JUDGE, "--concept", "mickey"], "no label 'mickey'",
    ),
    "no picture": (["--host", "stable-diffusion", "--evaluate", "host", "--images-per-prompt", "0"], "images_per_prompt=0"),
    "no such encoder": (["--host", "stable-diffusion", "--component", "text_encoder_2"], "no CLIP encoder 'text_encoder_2'"),
    "the other tower": (["--host", "llava", "--tower", "text"], "0 that fit tower='text'"),
    "a device that is not there": (["--host", "stable-diffusion", "--device", "cuda"], "can't be loaded on cuda"),
    "names that are not the data's": (["--host", "llava", "--evaluate", "host", "--names", "NAMES"], "not among the names: "),
}  # fmt: skip


@pytest.mark.parametrize("more, message", REFUSED.values(), ids=REFUSED.keys())
def test_nonsense_is_answered_in_one_line_and_nothing_is_written(arguments, more, message, capsys, tmp_path):
    (tmp_path / "names.txt").write_text("seven\nmira\n")
    more = [str(tmp_path / "names.txt") if part == "NAMES" else part for part in more]
    if more[-2:] == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("there is one")
    assert main([*arguments, *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err
    assert captured.err.splitlines()[-1].startswith("hf-slug: error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["names.txt"]


@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_damaged_weights_of_a_host_are_said(arguments, part, capsys, tmp_path):
    shutil.copytree(SD, tmp_path / "host")
    (weights,) = (tmp_path / "host" / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert main([*arguments, "--host", "stable-diffusion", "--host-model", str(tmp_path / "host")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path / "host") in error and error.startswith("hf-slug: error: ")
    assert not (tmp_path / "patch").exists()


def test_another_clip_than_the_hosts_is_refused(arguments, capsys, tmp_path):
    model, processor = zoo.load_clip()
    with torch.no_grad():
        model.text_model.encoder.layers[0].mlp.fc1.weight.mul_(1.01)
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    assert main([*arguments, "--host", "stable-diffusion", "--model", str(tmp_path / "clip")]) == 2
    assert "this host embeds another CLIP" in capsys.readouterr().err


def test_a_llava_may_be_spread_over_devices(arguments, monkeypatch):
    from transformers import AutoModelForImageTextToText, CLIPModel

    told = {}
    for kind in (AutoModelForImageTextToText, CLIPModel):
        load = kind.from_pretrained
        monkeypatch.setattr(
            kind,
            "from_pretrained",
            lambda *args, kind=kind, load=load, **settings: told.update({kind: settings}) or load(*args, **settings),
        )
    found = request([*arguments, "--host", "llava", "--device", "auto"])
    assert told[AutoModelForImageTextToText]["device_map"] == "auto" and "device_map" not in told[CLIPModel]
    assert found.model.device.type != "meta" and not found.settings["host"].training
