# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Model cards: valid metadata, true numbers, and code that runs as it stands."""

import json
import re
from pathlib import Path

import pytest
import torch
from attachment_helpers import FC1, VISION_V, make_patch
from huggingface_hub import ModelCard, metadata_load
from loopback_hub import check_yaml
from tiny_hosts import HOSTS, make_clip

from hf_slug import UnlearningPatch, zoo
from hf_slug.card import render_card
from hf_slug.errors import CorruptPatchError


ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "model_cards/examples").glob("*/README.md"))
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def run_blocks(text):
    """Runs every block of Python on its own; returns what each leaves behind."""
    blocks = BLOCK.findall(text)
    assert blocks and all("import hf_slug" in block for block in blocks)
    found = []
    for block in blocks:
        scope: dict = {}
        exec(compile(block, "card", "exec"), scope)
        found.append(scope)
    return found


def report_of(host=None, **changes):
    numbers = {"fa1": 0.0, "fa5": 0.125, "ta": 0.875, "ta_neighbors": 0.75}
    metrics = {"before": dict.fromkeys(numbers, 1.0), "after": numbers, "fa_interval": [0.0, 0.3], "n_forget": 8}
    metrics |= {"n_retain": 40, "n_names": 5, "neighbors": ["tobin"], "neighbor_accuracy": {"tobin": [1.0, 0.5]}}
    parts = ("forget", "retain", "test_forget", "test_retain")
    data = {part: {"source": f"the {part} folder", "n": 8, "sha256": "ab12"} for part in parts}
    base = {"class": "CLIPModel"}
    return {"succeeded": True, "seed": 3, "metrics": metrics, "data": data, "host": host, "base_model": base} | changes


def test_a_card_says_what_was_measured_and_on_what(tmp_path):
    patch = make_patch(make_clip())
    patch.report = report_of()
    patch.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| tobin | 100.00% | 50.00% |" in text  # a neighbour that suffered
    assert (
        "8 images of the concept (95 % interval of FA@1 after: 0.00% to 30.00%) and 40 others, 5 names, seed 3."
        in text
    )
    assert "Forget set: the forget folder (8 pairs, sha256 ab12)." in text
    assert "content filters" in text and "subtracted again" in text and "@inproceedings{cai2025slug" in text
    assert f"| `{FC1}` | 24 × 16 |" in text or f"| `{FC1}` | 32 × 16 |" in text
    data = metadata_load(tmp_path / "README.md")
    assert data["library_name"] == "peft" and data["base_model_relation"] == "adapter"
    assert {"slug", "unlearning", "patch"} <= set(data["tags"])
    assert not check_yaml(text)


@pytest.mark.parametrize(
    "concept", ["it's", 'a "quoted" one', "名前", "a: b", "<script>", "{{ 7 * 7 }}", "x" * 300, "- # %"]
)
def test_any_concept_gives_a_valid_card(tmp_path, concept):
    patch = make_patch(make_clip())
    patch.config.concept, patch.report = concept, report_of()
    patch.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert not check_yaml(text) and "# Forget " in text and "<script>" not in text.split("---")[2]
    assert ModelCard.load(tmp_path / "README.md").data.eval_results[0].metric_name == "FA@1"


def test_a_failure_is_the_first_thing_that_is_said():
    patch = make_patch(make_clip())
    report = report_of(succeeded=False, target={"damages_the_rest": True})
    text = render_card(patch.config, report, source="user/x", shapes={FC1: (2, 2)}, norms={FC1: 1.0})
    assert text.index("NOT forgotten") < text.index("It costs much") < text.index("An unlearning patch for")


@pytest.mark.parametrize("part", ["class", "component"])
def test_a_strangers_report_writes_no_code(tmp_path, part):
    patch = make_patch(make_clip())
    host = {"class": "StableDiffusionPipeline", "component": "text_encoder", "name_or_path": 'x")\nimport os  # "'}
    patch.report = report_of(host)
    patch.save_pretrained(tmp_path / "fine")
    for block in BLOCK.findall((tmp_path / "fine/README.md").read_text()):
        assert not [line for line in block.splitlines() if line.strip() == "import os" or line.startswith("import os")]
    host[part] += "\nimport os; os.mkdir('executed')\n#Pipeline"
    with pytest.raises(CorruptPatchError, match="report"):
        patch.save_pretrained(tmp_path / "patch")
    assert not (tmp_path / "patch/README.md").exists()


def test_every_block_runs_on_a_clip(tmp_path, monkeypatch):
    clip, patch = make_clip(), make_patch(make_clip())
    clip.save_pretrained(tmp_path / "clip")
    patch.config.base_model_name_or_path = str(tmp_path / "clip")
    monkeypatch.chdir(tmp_path)
    patch.save_pretrained("forget-mira")
    text = (tmp_path / "forget-mira/README.md").read_text()
    found = run_blocks(text)
    assert len(found) == 2 and '"forget-mira"' in text
    for scope in found:  # each takes the patch off again
        assert torch.equal(scope["model"].get_submodule(FC1).weight, clip.get_submodule(FC1).weight)


@pytest.mark.parametrize(
    "name, component, module", [("sd1", "text_encoder", FC1), ("llava", "vision_tower", VISION_V)]
)
def test_every_block_runs_on_a_host(tmp_path, name, component, module):
    host, clip = HOSTS[name].build(), make_clip()
    host.save_pretrained(tmp_path / "host"), clip.save_pretrained(tmp_path / "clip")
    patch = make_patch(clip, (module,))
    patch.config.base_model_name_or_path = str(tmp_path / "clip")
    made_for = {"class": type(host).__name__, "name_or_path": str(tmp_path / "host"), "component": component}
    patch.report = report_of(made_for)
    patch.save_pretrained(tmp_path / "patch")
    found = run_blocks((tmp_path / "patch/README.md").read_text())
    assert len(found) == 3 and type(found[0]["host"]) is type(host)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_the_examples_are_valid_and_run(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = file.read_text()
    assert not check_yaml(text) and "What was measured" in text
    for plot in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (file.parent / plot).stat().st_size > 1000
    patch = UnlearningPatch.from_pretrained(file.parent)  # its hashes are those of its files
    assert patch.report["succeeded"] and json.dumps(patch.report["metrics"]["after"]["fa1"])
    scopes = run_blocks(text)
    assert all("host" in scope or "model" in scope for scope in scopes)


def test_there_is_an_example_for_every_host():
    assert [file.parent.name for file in EXAMPLES] == ["clip", "llava", "stable-diffusion"]
    hosts = {UnlearningPatch.from_pretrained(file.parent).report["host"] and file.parent.name for file in EXAMPLES}
    assert hosts == {None, "llava", "stable-diffusion"} and zoo.CLIP_FOLDER.is_dir()
