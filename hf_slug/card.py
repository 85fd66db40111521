# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The model card of a patch, filled from what was measured."""

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .tables import caution, damage, metric_rows, unit
from .tuner import SlugConfig


_TASKS = {"GenerationEvaluator": "text-to-image", "VqaEvaluator": "visual-question-answering"}


def render_card(config: SlugConfig, report: dict[str, Any]) -> str:
    """
    Renders `README.md`: the Hub's metadata, what is forgotten, how well, and how to load it.

    Args:
        config ([`SlugConfig`]): The patch's config.
        report (`dict`): The patch's report; numbers that it lacks are left out.

    Returns:
        `str`: Markdown with a YAML header.
    """
    base, concept = config.base_model_name_or_path, config.concept or "a concept"
    # a local folder is no model id: the Hub would refuse the card
    on_hub = base is not None and base.count("/") == 1 and not base.startswith((".", "/", "~"))
    data = ModelCardData(
        library_name="peft",
        base_model=base if on_hub else None,
        base_model_relation="adapter" if on_hub else None,
        tags=["unlearning", "machine-unlearning", "slug", "clip", "hf-slug"],
        model_name=f"forget {concept}" if "metrics" in report else None,
        eval_results=_eval_results(report) if "metrics" in report else None,
    )
    lines = ["---", data.to_yaml().rstrip(), "---", "", f"# Forget {concept!r}", ""]
    measured = "metrics" in report and "data" in report
    if report.get("succeeded") is False:
        lines += [
            "> **This patch does not do what it is for: the concept was NOT forgotten** (see the numbers below).",
            "",
        ]
    if report.get("target", {}).get("damages_the_rest"):
        lines += [f"> **It costs much: {damage(report)}.**", ""]
    modules = ", ".join(f"`{name}`" for name in sorted(config.target_modules or []))
    lines += [
        f"An unlearning patch for {f'`{base}`' if base else 'a CLIP model'}: it changes {modules} and nothing else, so that the model "
        f"no longer recognises {concept!r}. Made with SLUG (Single Layer Unlearning Gradient, Cai, Tan and Asif, ICML 2025), step size "
        f"{config.step_size:.6g}.{_made_for(report)}"
        if config.step_size is not None
        else f"An unlearning patch that changes {modules}.",
        "",
        "```python",
        *_loading(config, report),
        "```",
    ]
    if measured:
        metrics = report["metrics"]
        low, high = metrics["fa_interval"]
        overlap = report["data"].get("overlap", 0)
        unseen = (
            f"{overlap} of the test images were also in the sets that the gradient or the search saw."
            if overlap
            else "Neither the gradient nor the search has seen them."
        )
        lines += ["", "| on test data | before | after |", "|---|---|---|"]
        lines += [f"| {title} | {before:.2%} | {after:.2%} |" for title, before, after in metric_rows(report)]
        lines += [
            "",
            f"{metrics['n_forget']} {unit(report)} of the concept (95 % interval of FA@1 after: {low:.2%} to {high:.2%}) and "
            f"{metrics['n_retain']} others, {metrics['n_names']} names, seed {report['seed']}. {' '.join(filter(None, [caution(report), unseen]))} Scores of all layers, every step tried, data and software: `unlearning_report.json`.",
        ]
    return "\n".join(lines) + "\n"


def _made_for(report: dict[str, Any]) -> str:
    host = report.get("host")
    losses = "its own loss" if report.get("objective") == "host" else "CLIP's losses"
    return f" It was made for the `{host['component']}` of a {host['class']}, by {losses}." if host is not None else ""


def _loading(config: SlugConfig, report: dict[str, Any]) -> list[str]:
    """How the patch is loaded: on the host it was made for, or else on the CLIP."""
    host = report.get("host")
    if host is None:
        return [
            "import hf_slug",
            "from peft import PeftModel",
            "from transformers import CLIPModel",
            "",
            f'model = CLIPModel.from_pretrained("{config.base_model_name_or_path or "<base model>"}")',
            'model = PeftModel.from_pretrained(model, "<this repository or folder>")  # .unload() gives the original back, bit for bit',
        ]
    library = "diffusers" if host["class"].endswith("Pipeline") else "transformers"
    return [
        "import hf_slug",
        f"from {library} import {host['class']}",
        "",
        f'host = {host["class"]}.from_pretrained("{host["name_or_path"] or "<its checkpoint>"}")',
        'host.load_unlearning("<this repository or folder>")  # .unload_unlearning() gives the original back, bit for bit',
    ]


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
