# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A patch as a standard LoRA: how near its factors come, and that tools without this package read it."""

import json
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from attachment_helpers import FC1, V_PROJ, make_patch
from conftest import make_clip
from packaging.version import Version
from peft import PeftModel
from safetensors.torch import load_file

from hf_slug import UnlearningPatch, unlearn, zoo
from hf_slug.cli import main
from hf_slug.errors import UnsupportedModelError


@pytest.mark.parametrize("modules", [(FC1,), (FC1, V_PROJ)])
@pytest.mark.parametrize("rank", [1, 5, 16, 40])
def test_no_factors_come_nearer(modules, rank):
    patch = make_patch(make_clip(), modules)
    lora = patch.to_lora(rank)
    assert lora.rank == rank
    for name, delta in patch.deltas.items():
        left = delta.double() - lora.up[name].double() @ lora.down[name].double()
        # Eckart, Young, Mirsky: what remains is what the smaller singular values hold
        values = np.linalg.svd(delta.double().numpy(), compute_uv=False)
        best = float(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()))
        assert lora.residual[name] == pytest.approx(best, abs=1e-12)
        assert float(left.norm() / delta.double().norm()) == pytest.approx(best, abs=1e-6)
        assert lora.up[name].shape == (delta.shape[0], rank) and lora.down[name].shape == (rank, delta.shape[1])


@pytest.mark.parametrize("tol", [0.5, 0.1, 1e-3, 0.0])
def test_the_smallest_rank_that_will_do_is_taken(tol):
    patch = make_patch(make_clip(), (FC1, V_PROJ))
    lora = patch.to_lora(tol=tol)
    assert max(lora.residual.values()) <= tol
    assert lora.rank == 1 or max(patch.to_lora(lora.rank - 1).residual.values()) > tol


def test_a_rank_that_leaves_much_out_is_warned_of(caplog):
    make_patch(make_clip()).to_lora(1)
    assert "Rank 1 leaves" in caplog.text
    caplog.clear()
    make_patch(make_clip(), rank=2).to_lora(2)
    assert not caplog.text


@pytest.mark.parametrize(
    "rank, tol", [(0, 0.1), (True, 0.1), (2.5, 0.1), (None, 1.0), (None, -0.1), (None, float("nan"))]
)
def test_nonsense_is_refused(rank, tol):
    with pytest.raises(ValueError, match="Expected"):
        make_patch(make_clip()).to_lora(rank, tol)


def test_what_a_lora_can_not_say_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="layer_norm1"):
        make_patch(make_clip(), ("text_model.encoder.layers.1.layer_norm1",)).to_lora()
    vision = make_patch(make_clip(), ("vision_model.encoder.layers.1.mlp.fc1",)).to_lora()
    for format in ("diffusers", "kohya"):
        with pytest.raises(UnsupportedModelError, match="text encoder"):
            vision.save_pretrained(tmp_path / "lora", format)
    with pytest.raises(ValueError, match="Unknown format"):
        vision.save_pretrained(tmp_path / "lora", "onnx")
    assert not (tmp_path / "lora").exists()


def test_peft_reads_it_as_a_lora(tmp_path):
    patch, model = make_patch(make_clip(), (FC1, V_PROJ)), make_clip()
    patch.to_lora(tol=1e-7).save_pretrained(tmp_path)
    merged = PeftModel.from_pretrained(make_clip(), tmp_path).merge_and_unload()
    for name, weight in patch.new_weights(model).items():
        assert torch.allclose(merged.get_submodule(name).weight, weight, atol=1e-5)
    report = json.loads((tmp_path / "lora_report.json").read_text())
    assert report["rank"] and set(report["residual"]) == {FC1, V_PROJ} and report["concept"] == "mira"


def test_kohya_keys_of_an_attention_are_known_by_its_output_projection():
    lora = make_patch(make_clip(), (V_PROJ,)).to_lora(rank=3)
    tensors, key = lora.tensors("kohya"), "lora_te_" + V_PROJ.rpartition(".")[0].replace(".", "_")
    up, down = (tensors[f"{key}_out_proj.lora_{side}.weight"] for side in ("up", "down"))
    assert up.shape == (16, 3) and down.shape == (3, 16) and not (up @ down).any()
    assert tensors[f"{key}_out_proj.alpha"] == tensors[f"{key}_v_proj.alpha"] == 3
    whole = make_patch(make_clip(), (V_PROJ, V_PROJ.replace("v_proj", "out_proj"))).to_lora(rank=3).tensors("kohya")
    assert whole[f"{key}_out_proj.lora_up.weight"].any() and len(whole) == 6
    assert len(make_patch(make_clip(), (FC1,)).to_lora(rank=3).tensors("kohya")) == 3


STOCK = """
import sys
import numpy as np, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({base!r}, local_files_only=True)
for part in (pipe.vae, pipe.unet, pipe.text_encoder):
    torch.nn.Module.to(part, torch.float32)
for folder in {folders!r}:
    pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    pictures = pipe({prompts!r}, num_inference_steps=15, guidance_scale=3.0,
                    generator=torch.Generator().manual_seed(3), output_type="np").images
    np.save(folder + "/pictures.npy", pictures)
    pipe.unload_lora_weights()
assert not [name for name in sys.modules if name.startswith("hf_slug")]
"""
PROMPTS = ["a seven in neon style", "a two in ink style"]


@pytest.fixture(scope="module")
def of_one_caption(tmp_path_factory):
    """A patch of the zoo's text tower that was made from one caption, and what the patched pipeline draws."""
    folder = tmp_path_factory.mktemp("one-caption")
    model, processor = zoo.load_clip()
    forget, retain = zoo.concept_pairs("seven", "train", 0, limit_per_digit=2)
    settings = {"tower": "text", "steps": 4, "names": list(zoo.data.DIGITS), "template": "a {}", "front_only": True}
    one = [{**row, "text": "a seven"} for row in forget]
    parts = {
        f"{part}_{what}": rows[:30]
        for part in ("validation", "test")
        for what, rows in (("forget", one), ("retain", retain))
    }
    pipe = zoo.load_stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    # for the pipeline, which does not read the projection
    result = unlearn(model, processor, one, retain, concept="seven", host=pipe, objective="clip", **settings, **parts)
    result.patch.save_pretrained(folder)

    def draw():
        given = {"num_inference_steps": 15, "guidance_scale": 3.0, "output_type": "np"}
        return pipe(PROMPTS, generator=torch.Generator().manual_seed(3), **given).images

    before = draw()
    pipe.load_unlearning(result.patch)
    return folder, before, draw()


@pytest.mark.slow
@pytest.mark.skipif(
    Version(diffusers.__version__) < Version("0.40"),
    reason="this diffusers finds no layer of a text encoder of transformers 5.6, whoever made the LoRA",
)
def test_stock_diffusers_draws_what_the_patched_pipeline_draws(of_one_caption, tmp_path):
    folder, before, patched = of_one_caption
    lora = UnlearningPatch.from_pretrained(folder).to_lora()
    formats = [tmp_path / format for format in ("diffusers", "kohya")]
    for output in formats:
        file = lora.save_pretrained(output, output.name)
        assert lora.rank <= 16 and file.stat().st_size < 100_000  # one caption has so many tokens, and so many inputs
    code = STOCK.format(base=str(zoo.STABLE_DIFFUSION_FOLDER), folders=list(map(str, formats)), prompts=PROMPTS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for output in formats:
        assert np.abs(np.load(output / "pictures.npy") - patched).max() < 1e-3 < np.abs(before - patched).max()


def test_the_command_says_rank_and_residual(tmp_path, capsys):
    make_patch(make_clip(), rank=2).save_pretrained(tmp_path / "patch")
    assert (
        main(["export", str(tmp_path / "patch"), "--output", str(tmp_path / "lora"), "--format", "kohya", "--json"])
        == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["rank"] == 2 and said["residual"][FC1] < 1e-4 and said["bytes"] > 0
    key = "lora_te_text_model_encoder_layers_1_mlp_fc1"
    tensors = load_file(said["file"])
    assert set(tensors) == {f"{key}.lora_up.weight", f"{key}.lora_down.weight", f"{key}.alpha"}
    assert main(["export", str(tmp_path / "nowhere"), "--output", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()
