# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Patches that somebody made to do harm: none is loaded, runs code, changes a weight, or takes long or much memory."""

import json
import os
import pickle
import resource
import shutil
import struct
import time
from pathlib import Path

import pytest
import torch
from attachment_helpers import FC1, make_patch
from conftest import assert_same, make_clip, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file

from hf_slug import UnlearningPatch, load_unlearning
from hf_slug.cli import main
from hf_slug.errors import CorruptPatchError
from hf_slug.patch_files import CONFIG, REPORT, WEIGHTS


KEY = f"base_model.model.{FC1}.slug_delta"
UP, DOWN = KEY.replace("delta", "up"), KEY.replace("delta", "down")
MOST_SECONDS, MOST_BYTES = 10, 2**30  # of the processor: others may be at work on the machine


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def set_tensors(folder, tensors):
    save_file(tensors, folder / WEIGHTS)


def set_config(folder, **changes):
    """A forger leaves the hashes out, or makes them anew."""
    fields = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(fields | {"content_sha256": None} | changes))


def header(length, entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


names = st.one_of(
    st.text(min_size=1, max_size=30),
    st.sampled_from(
        [
            "../../../etc/passwd",
            "/etc/passwd",
            "..\\..\\windows",
            "__class__.__init__",
            "text_model.encoder.layers.1.mlp.fс1",  # with a Cyrillic letter
            "text_model.encoder.layers.1.mlp.fc1\u200b",
            "text_model.encoder.layers.9999999999.mlp.fc1",
            "text_model.encoder.layers.-1.mlp.fc1",
            "text_model.encoder.layers.1.mlp.fc1\x00",
            "\u202eltm.1.sreyal",
            "logit_scale",
            "",
        ]
    ),
).filter(lambda name: name != FC1)
shapes = st.lists(st.integers(0, 40), max_size=4).filter(lambda shape: shape != [24, 16])
dtypes = st.sampled_from(
    [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool, torch.uint8, torch.complex64]
)
bad_numbers = st.sampled_from([float("nan"), float("inf"), float("-inf")])


@st.composite
def attacks(draw):
    """A name, and what is done to the folder of an honest patch."""
    kind = draw(
        st.sampled_from(
            [
                "shape",
                "dtype",
                "number",
                "extra",
                "renamed",
                "missing",
                "rank",
                "expansion",
                "link",
                "loop",
                "pickle",
                "disguise",
                "header",
                "length",
                "garbage",
                "code",
                "fingerprint",
                "keys",
                "size",
                "depth",
                "width",
                "digits",
                "type",
                "fields",
                "factors",
                "modules",
                "library",
                "constant",
            ]
        )
    )
    if kind == "shape":
        shape = draw(shapes)
        return kind, lambda f: set_tensors(f, {KEY: torch.zeros(shape)})
    if kind == "dtype":
        dtype = draw(dtypes)
        return kind, lambda f: set_tensors(f, {KEY: torch.zeros(24, 16, dtype=dtype)})
    if kind == "number":
        value, place = draw(bad_numbers), draw(st.integers(0, 24 * 16 - 1))

        def poison(folder):
            tensor = load_file(folder / WEIGHTS)[KEY].clone()
            tensor.view(-1)[place] = value
            set_tensors(folder, {KEY: tensor})

        return kind, poison
    if kind in ("extra", "renamed"):
        name, prefix = draw(names), draw(st.sampled_from(["base_model.model.", "", "model."]))
        suffix = draw(st.sampled_from([".slug_delta", ".slug_up", ".weight", ".lora_A.weight", ""]))
        key, keep, named = f"{prefix}{name}{suffix}", kind == "extra", draw(st.booleans())

        def rename(folder):
            own = load_file(folder / WEIGHTS)
            set_tensors(folder, (own if keep else {}) | {key: torch.ones(24, 16)})
            if named:
                set_config(folder, target_modules=[*([FC1] if keep else []), name])

        return kind, rename
    if kind == "missing":
        file = draw(st.sampled_from([WEIGHTS, CONFIG]))
        return kind, lambda f: (f / file).unlink()
    if kind == "rank":
        rank = draw(st.sampled_from([10**3, 10**9, 2**63, -1, 0, True, "8", 2.5, [4]]))
        return kind, lambda f: set_config(f, rank=rank)
    if kind == "expansion":  # a few megabytes that stand for terabytes
        rows, columns = draw(st.integers(10**5, 10**6)), draw(st.integers(10**5, 10**6))
        return kind, lambda f: (
            set_tensors(f, {UP: torch.zeros(rows, 1), DOWN: torch.zeros(1, columns)}),
            set_config(f, rank=1),
        )
    if kind == "factors":
        a, b, rank = draw(shapes), draw(shapes), draw(st.integers(1, 40))
        return kind, lambda f: (set_tensors(f, {UP: torch.zeros(a), DOWN: torch.zeros(b)}), set_config(f, rank=rank))
    if kind == "link":
        file = draw(st.sampled_from([WEIGHTS, CONFIG, REPORT]))
        target = draw(st.sampled_from(["/etc/passwd", "/dev/zero", "/dev/urandom", "/proc/self/environ", "elsewhere"]))

        def link(folder):
            outside = folder.parent / "outside"
            if target == "elsewhere":
                shutil.move(folder / file, outside)
            (folder / file).unlink(missing_ok=True)
            (folder / file).symlink_to(outside if target == "elsewhere" else target)

        return kind, link
    if kind == "loop":
        file = draw(st.sampled_from([WEIGHTS, CONFIG]))
        as_folder = draw(st.booleans())

        def loop(folder):
            (folder / file).unlink()
            (folder / file).mkdir() if as_folder else (folder / file).symlink_to(file)

        return kind, loop
    if kind in ("pickle", "disguise"):
        name = draw(st.sampled_from(["adapter_model.bin", "adapter_model.pt", "pytorch_model.bin"]))
        protocol = draw(st.integers(0, 5))

        def drop(folder):
            content = pickle.dumps({KEY: Bomb(folder.parent / "executed")}, protocol)
            (folder / WEIGHTS).unlink()
            (folder / (WEIGHTS if kind == "disguise" else name)).write_bytes(content)

        return kind, drop
    if kind == "header":
        length = draw(st.sampled_from([2**63, 2**64 - 1, 10**8, 2**31, 0, 7]))
        return kind, lambda f: (f / WEIGHTS).write_bytes(header(length, {}))
    if kind == "length":
        end, size = draw(st.integers(1, 2**62)), draw(st.integers(0, 64))
        entry = {KEY: {"dtype": "F32", "shape": [32, 16], "data_offsets": [0, end]}}
        return kind, lambda f: (f / WEIGHTS).write_bytes(header(None, entry, b"\0" * size))
    if kind == "garbage":
        file, content = draw(st.sampled_from([WEIGHTS, CONFIG])), draw(st.binary(max_size=200))
        return kind, lambda f: (f / file).write_bytes(content)
    if kind == "code":
        key = draw(
            st.sampled_from(
                [
                    "auto_map",
                    "custom_code",
                    "trust_remote_code",
                    "_target_",
                    "pre_load_hook",
                    "exec",
                    "callback",
                    "function",
                    "loader",
                    "init_fn",
                ]
            )
        )
        value = draw(st.sampled_from([{"AutoModel": "evil.Model"}, "import os", True, ["os.system"]]))
        return kind, lambda f: set_config(f, **{key: value})
    if kind in ("depth", "width", "digits"):
        file = draw(st.sampled_from([CONFIG, REPORT]))
        bomb = {
            "depth": '{"a":' * 100_000 + "1" + "}" * 100_000,
            "width": '{"a": [' + "[]," * 3_000_000 + "[]]}",
            "digits": '{"rank": ' + "9" * draw(st.integers(5_000, 50_000)) + "}",
        }[kind]
        return kind, lambda f: (f / file).write_text(bomb)
    if kind == "type":
        other = draw(st.sampled_from(["LORA", "IA3", "slug", "", None, 7, {"a": 1}]))
        return kind, lambda f: set_config(f, peft_type=other)
    if kind == "fields":
        fields = (
            "target_modules base_fingerprint step_size tower direction concept auto_mapping base_model_name_or_path"
        )
        field = draw(st.sampled_from(fields.split()))
        wrong = [[1, None], {"a": {"b": []}}] + ([{}] if field in ("base_fingerprint", "concept") else [])
        value = draw(st.sampled_from(wrong))
        return kind, lambda f: set_config(f, **{field: value})
    if kind == "fingerprint":
        part = draw(st.sampled_from(["shape", "norm", "dtype", "sha256", "sample"]))
        value = draw(st.sampled_from([None, 3, "x", {"a": 1}, [[]]]).filter(lambda v: not (part == "norm" and v == 3)))

        def damage(folder):
            known = json.loads((folder / CONFIG).read_text())["base_fingerprint"]
            known[FC1][part] = value
            set_config(folder, base_fingerprint=known)

        return kind, damage
    if kind == "keys":
        count = draw(st.integers(2_500, 9_000))
        return kind, lambda f: set_tensors(
            f, {f"base_model.model.a{i}.slug_delta": torch.zeros(1) for i in range(count)}
        )
    if kind == "size":  # more numbers than any CLIP has, in a file that takes no room on the disk
        rows = draw(st.integers(6_000, 10_000))

        def spread(folder):
            entry = {KEY: {"dtype": "F32", "shape": [rows, rows], "data_offsets": [0, 4 * rows * rows]}}
            with (folder / WEIGHTS).open("wb") as file:
                file.write(header(None, entry))
                file.truncate(file.tell() + 4 * rows * rows)

        return kind, spread
    if kind == "modules":
        saved = draw(st.sampled_from([["text_model"], ["visual_projection"], ["logit_scale"]]))
        return kind, lambda f: (
            set_tensors(f, load_file(f / WEIGHTS) | {f"base_model.model.{saved[0]}.weight": torch.ones(3)}),
            set_config(f, modules_to_save=saved),
        )
    if kind == "library":
        library = draw(st.sampled_from(["os", "subprocess", "evil", "antigravity"]))
        return kind, lambda f: set_config(f, auto_mapping={"base_model_class": "system", "parent_library": library})
    word = draw(st.sampled_from(["NaN", "Infinity", "-Infinity"]))
    return kind, lambda f: (f / CONFIG).write_text((f / CONFIG).read_text().replace('"rank": null', f'"rank": {word}'))


REPORTS = [
    {"metrics": "x"}, {"metrics": {}}, {"metrics": {"after": {}}, "data": {}}, {"host": [1]}, {"host": {"class": "A"}}, {"software": "x"},
    {"composed_of": [1]}, {"data": {"forget": {"a": 1}}, "metrics": {"before": {}, "after": {"fa1": "x"}}}, {"target": []},
]  # fmt: skip


@pytest.mark.parametrize("report", REPORTS)
def test_a_report_of_nonsense_is_answered_in_one_line(honest, tmp_path, capsys, report):
    folder = Path(shutil.copytree(honest, tmp_path / "patch"))
    (folder / REPORT).write_text(json.dumps(report))
    set_config(folder)
    for command in (["inspect", str(folder)], ["inspect", str(folder), "--json"]):
        assert main(command) in (0, 2)
        said = capsys.readouterr()
        assert said.out or said.err.startswith("hf-slug: error: ")
    patch = UnlearningPatch.from_pretrained(folder)
    try:
        patch.save_pretrained(tmp_path / "again")
    except CorruptPatchError:
        assert not (tmp_path / "again").exists()


def test_a_terminal_is_not_steered(honest, tmp_path, capsys):
    folder = Path(shutil.copytree(honest, tmp_path / "patch"))
    set_config(folder, base_model_name_or_path="\x1b]0;pwn\x07x")
    assert main(["inspect", str(folder)]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest")
    make_patch(make_clip()).save_pretrained(folder)
    return folder


KEPT_BY_PEFT = ("library", "modules", "type")  # what PEFT means by these is no attack; it is no patch of ours either


@pytest.mark.slow
@settings(max_examples=220, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(attack=attacks())
def test_no_attack_succeeds(honest, tmp_path_factory, attack):
    kind, harm = attack
    place = tmp_path_factory.mktemp("attack")
    folder = Path(shutil.copytree(honest, place / "patch"))
    harm(folder)
    model = make_clip()
    before = snapshot(model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def load_here():
        load_unlearning(model, folder)

    def load_by_peft():
        PeftModel.from_pretrained(model, folder)

    def load_by_transformers():
        model.load_adapter(str(folder))

    for load in (load_here, load_by_peft, load_by_transformers):
        started = time.process_time()
        if load is not load_here and (kind in KEPT_BY_PEFT or _is_report_only(honest, folder)):
            continue  # PEFT reads no report
        with pytest.raises((ValueError, OSError, RuntimeError, TypeError, KeyError, AttributeError)) as caught:
            load()
        assert load is not load_here or isinstance(caught.value, (ValueError, OSError)), caught.value
        assert_same(model, before)
        assert time.process_time() - started < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < MOST_BYTES
    assert not (place / "executed").exists()


def _is_report_only(honest, folder):
    """Whether nothing but the report differs."""
    return all(
        (folder / name).is_file()
        and not (folder / name).is_symlink()
        and (folder / name).read_bytes() == (honest / name).read_bytes()
        for name in (WEIGHTS, CONFIG)
    )


def test_an_honest_patch_is_loaded(honest):
    """Or the tests above would prove nothing."""
    model = make_clip()
    before = snapshot(model)
    load_unlearning(model, honest)
    assert not torch.equal(model.get_submodule(FC1).weight, before[f"{FC1}.weight"])
    assert UnlearningPatch.from_pretrained(honest).modules == [FC1]
    PeftModel.from_pretrained(make_clip(), honest)


def test_a_regular_expression_that_never_ends_is_not_run(honest, tmp_path):
    folder = Path(shutil.copytree(honest, tmp_path / "patch"))
    set_config(folder, target_modules=r"(.*.*)*\.nothing$")
    started = time.process_time()
    model = PeftModel.from_pretrained(make_clip(), folder)
    assert time.process_time() - started < MOST_SECONDS
    assert model.peft_config["default"].target_modules == {FC1}  # what the file holds


def test_an_oversized_config_is_refused_before_it_is_parsed(honest, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(honest, tmp_path / "patch"))
    (folder / CONFIG).write_text('{"peft_type": "SLUG", "a": [' + "[]," * 3_000_000 + "[]]}")
    parsed = []
    for name in ("load", "loads"):
        monkeypatch.setattr(json, name, lambda *args, **kwargs: parsed.append(args))
    for load in (
        lambda model: load_unlearning(model, folder),
        lambda model: PeftModel.from_pretrained(model, folder),
        lambda model: model.load_adapter(str(folder)),
    ):
        with pytest.raises(CorruptPatchError, match="bytes"):
            load(make_clip())
    assert not parsed


def test_links_of_the_hubs_cache_are_followed(honest, tmp_path):
    snapshot_folder, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot_folder.mkdir(parents=True), blobs.mkdir()
    for file in honest.iterdir():
        shutil.copy(file, blobs / f"blob-{file.name}")
        (snapshot_folder / file.name).symlink_to(f"../../blobs/blob-{file.name}")
    assert UnlearningPatch.from_pretrained(snapshot_folder).modules == [FC1]
