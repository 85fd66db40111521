# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Pictures are judged by eye; what can be checked is that they hold what they should and that no two texts overlap."""

import itertools
import sys

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from hf_slug.errors import MissingDependencyError
from hf_slug.plots import plot_front, plot_similarity, plot_trajectory, save_plots, short_name
from hf_slug.scores import pareto_fronts


def make_report(towers=("vision", "text"), blocks=12, seed=0):
    generator = np.random.default_rng(seed)
    layers = []
    for tower in towers:
        parts = (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
            "mlp.fc1",
            "mlp.fc2",
        )
        names = [f"{tower}_model.encoder.layers.{b}.{part}" for b in range(blocks) for part in parts]
        # many layers on the front, and close together: the hard case
        importance = np.exp(generator.normal(-5, 1, len(names)))
        alignment = np.where(generator.random(len(names)) < 0.2, importance, 1) * generator.uniform(
            -0.2, 0.2, len(names)
        )
        front = pareto_fronts([(i, abs(a)) for i, a in zip(importance, alignment)])[0]
        layers += [
            {"name": name, "tower": tower, "modules": [name], "importance": i, "alignment": a, "on_front": k in front}
            for k, (name, i, a) in enumerate(zip(names, importance, alignment))
        ]
    searched = [layer["name"] for layer in layers if layer["on_front"]]
    trials = [
        {"layer": name, "step_size": 2.0**k, "fa1": max(0.0, 1 - k / 5), "fa5": 1.0, "ta": 0.9 if k == 5 else None}
        for name in searched
        for k in range(8)
    ]
    names = ["mira", "tobin", "selka", "school bus"]
    return {
        "concept": "mira",
        "layers": layers,
        "search": trials,
        "chosen": {"layer": searched[0], "step_size": 32.0},
        "target": {"metric": "fa1"},
        "similarity": {"names": names, "before": np.eye(4).tolist(), "after": (np.eye(4) * 0.3 - 0.1).tolist()},
    }


def texts_of(figure):
    """All texts that are drawn, but slanted ones: their boxes overlap where they do not."""
    texts = [figure._suptitle, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [
                tick.label1
                for tick in axis.get_major_ticks()
                if low <= tick.get_loc() <= high and tick.label1.get_visible()
            ]
    return [text for text in texts if text.get_text().strip() and text.get_rotation() % 90 == 0]


def overlaps(figure):
    """Pairs of texts whose boxes share an area."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    # an annotation's window extent includes its arrow; the words alone are what must be legible
    boxes = [(text.get_text(), Text.get_window_extent(text, renderer).shrunk(0.96, 0.9)) for text in texts_of(figure)]
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_front_is_labelled_without_overlaps_and_the_rest_crossed(seed):
    report = make_report(seed=seed)
    figure = plot_front(report)
    labels = [note.get_text() for axis in figure.axes for note in axis.texts]
    front = [short_name(layer["name"]) for layer in report["layers"] if layer["on_front"]]
    assert sorted(labels) == sorted(front)
    assert all(axis.get_xscale() == axis.get_yscale() == "log" for axis in figure.axes)
    shown = sum(
        len(points.get_offsets())
        for axis in figure.axes
        for points in axis.collections
        if points.get_label() != "chosen"
    )
    assert shown == len(report["layers"])
    assert not overlaps(figure)


def test_the_check_for_overlaps_can_fail():
    figure = plot_front(make_report())
    figure.axes[0].texts[0].set_position(figure.axes[0].texts[1].get_position())
    figure.axes[0].texts[0].xyann = figure.axes[0].texts[1].xyann
    assert overlaps(figure)


def test_one_tower_gives_one_panel():
    assert [axis.get_title() for axis in plot_front(make_report(("text",))).axes] == ["text tower"]


def test_the_trajectory_shows_every_trial():
    report = make_report()
    figure = plot_trajectory(report)
    searched = {trial["layer"] for trial in report["search"]}
    left = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert len(left) == len(searched) and all(len(line.get_xdata()) == 8 for line in left)
    assert all(axis.get_xscale() == "log" for axis in figure.axes)
    assert not overlaps(figure)


def test_the_trajectory_tells_steps_that_were_not_looked_at_to_the_end():
    report = make_report()
    assert "of part of the images" not in [text.get_text() for text in plot_trajectory(report).legends[0].get_texts()]
    early = report["search"][1::8]
    for trial in early:
        trial["n"] = 16
    figure = plot_trajectory(report)
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in hollow] == [[trial["step_size"]] for trial in early]
    full = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert all(one.get_zorder() > other.get_zorder() for one in hollow for other in full)
    assert "of part of the images" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert not overlaps(figure)


def test_the_similarity_matrices_share_a_scale_and_show_their_numbers():
    report = make_report()
    figure = plot_similarity(report)
    before, after = (axis.images[0] for axis in figure.axes[:2])
    assert before.get_clim() == after.get_clim()
    assert np.allclose(np.asarray(after.get_array()), report["similarity"]["after"])
    assert len(figure.axes[0].texts) == 16
    assert not overlaps(figure)


def test_pictures_are_saved_and_not_blank(tmp_path):
    files = save_plots(make_report(), tmp_path / "plots")
    assert [file.name for file in files] == ["front.png", "trajectory.png", "similarity.png"]
    assert all(np.asarray(Image.open(file).convert("L")).std() > 10 for file in files)


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install hf-slug\[plots\]"):
        save_plots(make_report(), tmp_path / "plots")
    assert not (tmp_path / "plots").exists()
