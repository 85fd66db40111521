# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The model card of a patch, filled from what was measured."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .tables import caution, damage, metric_rows, unit
from .tuner import SlugConfig


TEMPLATE = Path(__file__).parent / "card_template.md"
_TASKS = {"GenerationEvaluator": "text-to-image", "VqaEvaluator": "visual-question-answering"}
_PLOTS = {
    "front.png": "All layers by importance and alignment; the one that was changed in red",
    "trajectory.png": "Every step that was tried",
    "similarity.png": "Image-text similarity before and after",
}
_LOADERS = ("load_clip", "load_stable_diffusion", "load_llava")
_UNLOAD = "{}.unload_unlearning()  # the original weights, bit for bit"
_ANY_HOST = {
    "text": "CLIP model of transformers and every diffusers pipeline",
    "vision": "CLIP model and every LLaVA of transformers",
}


def render_card(
    config: SlugConfig,
    report: dict[str, Any],
    *,
    source: str,
    shapes: Mapping[str, Sequence[int]],
    norms: Mapping[str, float],
    subfolder: str | None = None,
    licence: str | None = None,
    plots: Sequence[str] = (),
) -> str:
    """
    Renders `README.md`: the Hub's metadata, what is forgotten, how well, and how to load it.

    Args:
        config ([`SlugConfig`]): The patch's config.
        report (`dict`): The patch's report; numbers that it lacks are left out.
        source (`str`): Where the patch will be: a repository id or a folder.
        shapes (`Mapping[str, Sequence[int]]`): By canonical module name, the shape of its delta.
        norms (`Mapping[str, float]`): Its Frobenius norm.
        subfolder (`str`, *optional*): The folder of the repository.
        licence (`str`, *optional*): An identifier that the Hub knows, such as `"apache-2.0"`.
        plots (`Sequence[str]`, *optional*): File names of pictures that lie beside the card.

    Returns:
        `str`: Markdown with a YAML header.
    """
    base, concept = config.base_model_name_or_path, config.concept or "a concept"
    measured = "metrics" in report and "data" in report
    # a local folder is no model id: the Hub would refuse the card
    on_hub = base is not None and base.count("/") == 1 and not base.startswith((".", "/", "~"))
    data = ModelCardData(
        library_name="peft",
        base_model=base if on_hub else None,
        base_model_relation="adapter" if on_hub else None,
        license=licence,
        tags=["slug", "unlearning", "patch", "machine-unlearning", "clip", "hf-slug"],
        model_name=f"forget {concept}" if measured else None,
        eval_results=_eval_results(report) if measured else None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        concept=_inline(repr(concept)),
        not_forgotten=report.get("succeeded") is False,
        damage=damage(report) if report.get("target", {}).get("damages_the_rest") else "",
        base=_say_base(base),
        modules=", ".join(f"`{name}`" for name in sorted(shapes)),
        step=f"{config.step_size:.6g}" if config.step_size is not None else "",
        made_for=_made_for(report),
        changes=_changes(config, shapes, norms),
        loading=_loading(config, report, source, subfolder),
        kinds=_ANY_HOST.get(config.tower or "", "CLIP model of transformers"),
        measured=measured,
        parts=_parts(report),
        fitted="joint_weights" in report,
        plots=[{"file": name, "title": _PLOTS.get(name, name)} for name in plots],
        licence=f"{licence}." if licence else _NO_LICENCE,
        **(_measurements(report) if measured else {}),
    )
    return card.content if card.content.endswith("\n") else card.content + "\n"


_NO_LICENCE = "The author has named none for the delta. What comes out of putting it on the base model is under the base model's licence."


def _say_base(base: str | None) -> str:
    if base is not None and _zoo_loader(base):  # where the package lies differs from machine to machine
        base = "/".join(Path(base).parts[-3:])
    return "a CLIP model" if base is None else f"`{_inline(base)}`"


def _inline(text: Any) -> str:
    """A stranger's text within a line of markdown: nothing in it makes a tag, a cell, code or a new line."""
    line = " ".join(str(text).split())
    return "".join(f"&#{ord(sign)};" if sign in "`<>|[]" else sign for sign in line if sign.isprintable())


def _zoo_loader(base: str | None) -> str | None:
    """The function that loads a model of the package's own zoo, whose path differs from machine to machine."""
    parts = Path(base or "").parts
    loader = f"load_{parts[-1]}" if parts[-3:-1] == ("hf_slug", "zoo") else None
    return loader if loader in _LOADERS else None


def _changes(
    config: SlugConfig, shapes: Mapping[str, Sequence[int]], norms: Mapping[str, float]
) -> list[dict[str, str]]:
    known = config.base_fingerprint or {}
    rows = []
    for name in sorted(shapes):
        base = known.get(name, {}).get("norm")
        size = f"{norms[name]:.4g}" + (f" ({norms[name] / base:.0%} of the weight)" if base else "")
        rows.append({"module": name, "shape": " × ".join(map(str, shapes[name])), "size": size})
    return rows


def _made_for(report: dict[str, Any]) -> str:
    host = _host(report)
    losses = "its own loss" if report.get("objective") == "host" else "CLIP's losses"
    said = (
        [f"It was made for the `{host['component']}` of a {host['class']}, by {losses}."] if host is not None else []
    )
    others = [
        _inline(repr(row["concept"]) + (f" ({row['source']})" if row["source"] else ""))
        for row in report.get("beside") or ()
    ]
    if others:
        said.append(
            f"It was made, and measured, beside {'the patch' if len(others) == 1 else 'patches'} that forget{'s' if len(others) == 1 else ''} "
            f"{', '.join(others)}: load it together with {'that' if len(others) == 1 else 'those'}."
        )
    return " ".join(said)


def _host(report: dict[str, Any]) -> dict[str, Any] | None:
    """The host of a report; its names become code, so they must be names."""
    host = report.get("host")
    if host is not None and not (str(host["class"]).isidentifier() and str(host["component"]).isidentifier()):
        raise ValueError(f"the host {host['class']!r} is no class")
    return host


def _loading(config: SlugConfig, report: dict[str, Any], source: str, subfolder: str | None) -> list[dict[str, str]]:
    """How the patch is loaded, for every model whose checkpoint is known: code that runs as it is."""
    where = json.dumps(source) + (f", subfolder={json.dumps(subfolder)}" if subfolder else "")
    host, base = _host(report), config.base_model_name_or_path or "<base model>"
    blocks = []
    if host is not None:
        library = "diffusers" if host["class"].endswith("Pipeline") else "transformers"
        line, load = _model(library, host["class"], host["name_or_path"] or "<its checkpoint>")
        code = [
            "import hf_slug",
            line,
            "",
            f"host = {load}",
            f"host.load_unlearning({where})",
            _UNLOAD.format("host"),
        ]
        blocks.append({"title": f"On the {host['class']} it was made for", "code": "\n".join(code)})
    if host is None or report.get("base_model", {}).get("class") == "CLIPModel":
        line, load = _model("transformers", "CLIPModel", base)
        code = [
            "import hf_slug",
            line,
            "",
            f"model = {load}",
            f"model.load_unlearning({where})",
            _UNLOAD.format("model"),
        ]
        blocks.append({"title": "On the CLIP", "code": "\n".join(code)})
        code = ["import hf_slug", "from peft import PeftModel", line, "", f"model = {load}"]
        code += [f"model = PeftModel.from_pretrained(model, {where})", "model = model.unload()  # likewise"]
        blocks.append({"title": "On the CLIP, by PEFT", "code": "\n".join(code)})
    return blocks


def _model(library: str, name: str, checkpoint: str) -> tuple[str, str]:
    """The import of a model's class, and the call that loads it."""
    loader = _zoo_loader(checkpoint)
    if loader is None:
        return f"from {library} import {name}", f"{name}.from_pretrained({json.dumps(checkpoint)})"
    # models of the zoo come with their processors, pipelines alone
    return f"from hf_slug.zoo import {loader}", f"{loader}()" + ("" if name.endswith("Pipeline") else "[0]")


def _parts(report: dict[str, Any]) -> list[dict[str, str]]:
    rows = []
    for part in report.get("composed_of", []):
        alone, stacked = part.get("metrics"), report.get("stacked", {}).get(part["name"])
        rows.append(
            {
                "concept": _inline(repr(part["concept"])),
                "weight": f"{part['weight']:g}",
                "modules": ", ".join(f"`{_inline(name)}`" for name in part["modules"]),
                "alone": (f"{alone['before']['fa1']:.2%}, {alone['after']['fa1']:.2%}" if alone else "not measured")
                + (f" (beside {_inline(', '.join(map(repr, part['beside'])))})" if part.get("beside") else ""),
                "together": f"{stacked['stacked']['fa1']:.2%}" if stacked else "not measured",
            }
        )
    return rows


def _measurements(report: dict[str, Any]) -> dict[str, Any]:
    metrics, data = report["metrics"], report["data"]
    low, high = metrics["fa_interval"]
    overlap = data.get("overlap", 0)

    def say(part: str) -> str:
        known = data.get(part)
        if known is None:
            return "not recorded"
        digest = f", sha256 {known['sha256']}" if known.get("sha256") else ""
        return _inline(f"{known['source']}" + (f" ({known['n']} pairs{digest})" if "n" in known else ""))

    return {
        "rows": [
            {"title": title, "before": f"{before:.2%}", "after": f"{after:.2%}"}
            for title, before, after in metric_rows(report)
        ],
        "counts": f"{metrics['n_forget']} {unit(report)} of the concept (95 % interval of FA@1 after: {low:.2%} to {high:.2%}) and "
        f"{metrics['n_retain']} others, {metrics['n_names']} names, seed {report['seed']}.",
        "caution": caution(report),
        "unseen": f"{overlap} of the test images were also in the sets that the gradient or the search saw."
        if overlap
        else "Neither the gradient nor the search has seen them.",
        "neighbors": [
            {"name": _inline(name), "before": f"{before:.2%}", "after": f"{after:.2%}"}
            for name, (before, after) in metrics.get("neighbor_accuracy", {}).items()
        ],
        "data": {part: say(part) for part in ("forget", "retain")},
    }


def _eval_results(report: dict[str, Any]) -> list[EvalResult]:
    """What was measured on the test set, as the Hub's metadata want it."""
    metrics, data = report["metrics"], report["data"]
    measured = {
        "FA@1": ("test_forget", "fa1"),
        "FA@5": ("test_forget", "fa5"),
        "TA": ("test_retain", "ta"),
        "IRA": ("test_retain", "ira"),
        "CRA": ("test_retain", "cra"),
    }
    task = _TASKS.get(metrics.get("evaluator", ""), "zero-shot-image-classification")
    return [
        EvalResult(
            task_type=task,
            dataset_type=part,
            dataset_name=data[part]["source"] if part in data else unit(report),
            metric_type="accuracy",
            metric_name=name,
            metric_value=metrics["after"][key],
        )
        for name, (part, key) in measured.items()
        if key in metrics["after"]
    ]
