# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""UnlearnCanvas's two classifiers, as their authors store them."""

import re
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from canvas.classifiers import FILES, VitJudge, load_judge
from canvas.protocol import Canvas
from canvas_miniature import MINIATURE, OBJECT_NAMES, STYLE_NAMES
from PIL import Image

from hf_slug import zoo
from hf_slug.errors import UnsupportedModelError


def fake_timm(monkeypatch):
    """Instead of 300 million parameters, the mean of each quarter of the pixels' red and a head."""

    class Tiny(torch.nn.Module):
        def __init__(self, names):
            super().__init__()
            self.head = torch.nn.Linear(4, names)

        def forward(self, pixels):
            assert pixels.shape[1:] == (3, 224, 224) and pixels.abs().max() <= 1
            return self.head(torch.nn.functional.adaptive_avg_pool2d(pixels[:, 0], 2).flatten(1))

    timm = ModuleType("timm")
    asked = []
    timm.create_model = lambda name, pretrained, num_classes: asked.append((name, pretrained)) or Tiny(num_classes)
    monkeypatch.setitem(sys.modules, "timm", timm)
    return asked


def save_classifiers(folder, styles=2, objects=3):
    for file, n in zip(FILES.values(), (styles, objects)):
        weight = torch.eye(4)[:n].clone() if n <= 4 else torch.zeros(n, 4)
        torch.save(
            {"model_state_dict": {"head.weight": weight, "head.bias": torch.zeros(n)}, "epoch": 3}, folder / file
        )


def test_the_authors_checkpoints_are_read(monkeypatch, tmp_path):
    asked = fake_timm(monkeypatch)
    save_classifiers(tmp_path)
    judge = load_judge(tmp_path, MINIATURE, "cpu")
    assert asked == [("vit_large_patch16_224.augreg_in21k", False)] * 2
    images = []
    for quarter in range(3):  # red is brightest where the head of that number looks
        pixels = np.zeros((64, 64, 3), np.uint8)
        y, x = 32 * (quarter // 2), 32 * (quarter % 2)
        pixels[y : y + 32, x : x + 32, 0] = 255
        images.append(Image.fromarray(pixels))
    seen = judge(images)
    assert [names[1] for names in seen] == list(OBJECT_NAMES)
    assert [names[0] for names in seen[:2]] == list(STYLE_NAMES)
    assert judge([]) == []


def test_classifiers_that_are_none_are_refused(monkeypatch, tmp_path):
    with pytest.raises(UnsupportedModelError, match="no style50.pth and no style50_cls.pth; found nothing"):
        load_judge(tmp_path / "nowhere", MINIATURE, "cpu")
    monkeypatch.setitem(sys.modules, "timm", None)
    save_classifiers(tmp_path)
    with pytest.raises(ImportError, match="pip install timm torchvision.*belongs to the torch"):
        load_judge(tmp_path, MINIATURE, "cpu")
    fake_timm(monkeypatch)
    with pytest.raises(UnsupportedModelError, match="tells 2 names apart, and there are 51"):
        load_judge(tmp_path, Canvas(), "cpu")
    (tmp_path / FILES["style"]).write_bytes(b"<html>Too many downloads</html>")
    with pytest.raises(UnsupportedModelError, match="Download it again"):
        load_judge(tmp_path, MINIATURE, "cpu")
    torch.save({"state_dict": {}}, tmp_path / FILES["style"])
    with pytest.raises(UnsupportedModelError, match="expected {'model_state_dict': tensors}"):
        load_judge(tmp_path, MINIATURE, "cpu")
    torch.save({"model_state_dict": {"head.weight": torch.zeros(2, 7)}}, tmp_path / FILES["style"])
    with pytest.raises(UnsupportedModelError, match="is not a vit_large"):
        load_judge(tmp_path, MINIATURE, "cpu")
    with pytest.raises(UnsupportedModelError, match="no label 'Abstractionism'"):
        load_judge(zoo.JUDGE_FOLDER, Canvas(), "cpu")


def test_a_checkpoint_never_runs_code(monkeypatch, tmp_path):
    fake_timm(monkeypatch)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    save_classifiers(tmp_path)
    saved = torch.load(tmp_path / "style50.pth")
    torch.save({**saved, "more": Evil()}, tmp_path / "style50.pth")
    with pytest.raises(UnsupportedModelError, match="UnpicklingError") as refused:
        VitJudge(tmp_path / "style50.pth", STYLE_NAMES, "cpu")
    assert not (tmp_path / "owned").exists()
    # whoever trusts it is told how to keep the tensors alone, by a command that works
    command = re.search(r'python -c "(.*?)"', str(refused.value))[1]
    subprocess.run([sys.executable, "-c", command], check=True)
    assert VitJudge(tmp_path / "style50.pth", STYLE_NAMES, "cpu").names == list(STYLE_NAMES)
