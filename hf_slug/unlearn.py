# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The whole method: one gradient, one layer, one patch."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .direction import DIRECTIONS, Direction, compute_directions, compute_input_moments
from .errors import EmptyDatasetError
from .evaluation import Evaluator, ZeroShotEvaluator
from .fingerprint import compute_fingerprint
from .gradients import compute_forget_gradients, compute_retain_gradients, eval_mode
from .inputs import check_prompts, warn_of_truncation
from .names import DEFAULT_TEMPLATE, check_templates, collect_names, name_in, name_of, say
from .parts import common_concept, count_overlap, load_parts
from .patch import UnlearningPatch
from .report import build_report, describe_data, describe_model, peak_memory
from .result import UnlearningResult
from .scores import score_layers, select_layers
from .search import scale_delta, search
from .towers import Granularity, candidate_layers, check_clip_model, layer_weights
from .tuner import SlugConfig


logger = logging.get_logger(__name__)

MIN_CONTRAST = 64  # a contrastive loss over a handful of pairs says little; over one, nothing


def unlearn(
    model: PreTrainedModel,
    processor: Any,
    forget: Any,
    retain: Any,
    *,
    concept: str | None = None,
    tower: Literal["vision", "text", "both"] = "both",
    granularity: Granularity = "matrix",
    direction: Direction = "whitened",
    evaluate: Evaluator | None = None,
    validation_forget: Any = None,
    validation_retain: Any = None,
    test_forget: Any = None,
    test_retain: Any = None,
    names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    template: str | Sequence[str] = DEFAULT_TEMPLATE,
    fa_at: Literal[1, 5] | None = None,
    target: float | None = None,
    steps: int = 10,
    front_only: bool = False,
    norms: bool = False,
    epsilon: float = 0.03,
    rank: int | None = None,
    trajectory: Literal["best", "chosen", "all"] = "best",
    batch_size: int = 64,
    retain_batch_size: int | None = None,
    retain_gradients: Mapping[str, torch.Tensor] | None = None,
    image_column: str = "image",
    text_column: str = "text",
    name_column: str = "name",
    seed: int = 0,
) -> UnlearningResult:
    """
    Removes a concept from a `CLIPModel` with one gradient and one layer (SLUG), and returns it as a patch.

    The forget loss `1 - cos(v, t)` and CLIP's retain loss are differentiated once, at the original weights. Layers are scored by
    importance `‖∇L_forget‖/‖W‖` and alignment `cos(∇L_forget, ∇L_retain)`; those of the Pareto front are each stepped along
    the ascent of the forget loss until a validation set no longer shows the concept; the layer that keeps most wins. Metrics are
    reported on a test set that neither the gradient nor the search has seen.

    Args:
        model (`CLIPModel`): In float32, bfloat16 or float16, on any device. Left as it is.
        processor (`CLIPProcessor`): Its processor.
        forget, retain (dataset, list, path or Hub id):
            Image-text pairs of the concept, and pairs to keep; anything that [`load_pairs`] reads. Without validation and test
            sets they are split 60/20/20 by the seed; a set that is given takes nothing from them.
        concept (`str`, *optional*):
            The concept's name (or a full prompt): `t` in the forget loss, for the forget set only. Defaults to the one name
            or text that all of the forget set shares.
        tower (`str`, *optional*, defaults to `"both"`): `"vision"`, `"text"` or `"both"`: whose layers compete.
        granularity (`str`, *optional*, defaults to `"matrix"`): `"matrix"`, `"attention"` or `"block"`.
        direction (`str`, *optional*, defaults to `"whitened"`): `"whitened"`, or the paper's `"gradient"`.
        evaluate ([`Evaluator`], *optional*): What the search goes by. Defaults to zero-shot classification over the names.
        validation_forget, validation_retain, test_forget, test_retain (*optional*): Sets of their own for search and report.
        names (`Sequence[str]` or `Mapping[str, Sequence[str]]`, *optional*):
            What images are classified among; a mapping gives each its own prompts. Defaults to all that occur in the data.
        template (`str` or `Sequence[str]`, *optional*, defaults to `"a photo of {}"`): How a name is said.
        fa_at (`int`, *optional*): FA@1 or FA@5 is the target. Defaults to 5, or 1 where there are under 50 names.
        target (`float`, *optional*): Forgotten means FA at or below this. Defaults to 0.
        steps (`int`, *optional*, defaults to 10): Trials per layer.
        front_only (`bool`, *optional*, defaults to `False`): Search the first front only, even if it has under 5 layers.
        norms (`bool`, *optional*, defaults to `False`): Layer norms are candidates, too.
        epsilon (`float`, *optional*, defaults to 0.03): Damping of the whitened direction.
        rank (`int`, *optional*): Restrict the delta to this rank and store its factors: a smaller patch.
        trajectory (`str`, *optional*, defaults to `"best"`):
            Retained accuracy is measured at the `"best"` step of each layer; for pictures also at every step of the `"chosen"`
            layer, or at `"all"`.
        batch_size (`int`, *optional*, defaults to 64): Images per forward pass.
        retain_batch_size (`int`, *optional*):
            Pairs contrasted with each other in the retain loss, which depends on it. Defaults to `batch_size`, at least 64.
        retain_gradients (`Mapping[str, torch.Tensor]`, *optional*):
            Those of an earlier result for the same model and retain set, to save computing them again.
        image_column, text_column, name_column (`str`, *optional*): Columns of the data.
        seed (`int`, *optional*, defaults to 0): Seed of the split.

    Returns:
        [`UnlearningResult`]

    Raises:
        UnsupportedModelError: If the model is not a `CLIPModel` with plain weights.
        EmptyDatasetError: If there is nothing to forget or nothing to keep, or too little to split.
        ConceptTooLongError: If the concept's text would be truncated.
        UnknownNameError: If an evaluation image shows something that is not among the names.

    Example:

        ```py
        >>> from transformers import CLIPModel, CLIPProcessor
        >>> from hf_slug import unlearn

        >>> model = CLIPModel.from_pretrained("openai/clip-vit-base-patch32")
        >>> processor = CLIPProcessor.from_pretrained("openai/clip-vit-base-patch32")
        >>> result = unlearn(model, processor, forget="faces/mira", retain="faces/others", concept="mira")
        >>> result.patch.save_pretrained("forget-mira")
        ```
    """
    check_clip_model(model)
    templates = check_templates(template)
    _check_settings(direction, trajectory, steps, epsilon, rank, batch_size, retain_batch_size)
    layers = candidate_layers(model, tower, granularity, norms)
    columns = {"image_column": image_column, "text_column": text_column, "name_column": name_column}
    parts = load_parts("forget", forget, validation_forget, test_forget, seed, columns)
    parts |= load_parts("retain", retain, validation_retain, test_retain, seed, columns)

    concept = common_concept(parts["forget"], templates) if concept is None else concept
    if not concept.strip():
        raise ValueError("The concept is blank. Give the name of what is to be forgotten.")
    own = names.get(concept) if isinstance(names, Mapping) else None
    prompts = list(own or say(concept, templates))  # what is unlearned is what is judged
    check_prompts(model, processor, prompts)
    concept_name = name_in(concept, [t for t in templates if t != "{}"]) or concept
    if names is None:
        names = collect_names([parts[key] for key in ("retain", "validation_retain", "test_retain")], templates)
    evaluators = {
        part: ZeroShotEvaluator(
            processor,
            parts[f"{part}_forget"],
            parts[f"{part}_retain"],
            concept_name,
            names,
            templates,
            fa_at,
            batch_size,
        )
        for part in ("validation", "test")
    }
    for part, evaluator in evaluators.items():
        if not len(evaluator.retain):
            raise EmptyDatasetError(
                f"The {part} part of the retain set shows nothing but the concept {concept_name!r}."
            )
    if overlap := count_overlap(parts):
        logger.warning(
            f"{overlap} images of the test sets are also in the sets that the gradient or the search sees. What is measured on "
            f"them says little of unseen data: remove duplicates first."
        )
    shown = sum(name_of(pair, templates).casefold() == concept_name.casefold() for pair in parts["retain"])
    if shown:
        logger.warning(
            f"{shown} of {len(parts['retain'])} pairs of the retain set show the concept {concept_name!r}: the retain loss asks "
            f"for what the forget loss removes. Leave them out of the retain set."
        )
    warn_of_truncation(model, processor, evaluators["test"].prompts, "names")
    truncated = warn_of_truncation(model, processor, parts["retain"].texts, "retain set")

    with eval_mode(model):
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)
        started = time.perf_counter()
        contrast = retain_batch_size or max(batch_size, MIN_CONTRAST)
        weights = {name: weight for layer in layers for name, weight in layer_weights(model, layer).items()}
        if retain_gradients is not None:
            _check_gradients(retain_gradients, weights)
        forget_gradients = compute_forget_gradients(model, processor, layers, parts["forget"], prompts, batch_size)
        if retain_gradients is None:
            retain_gradients = compute_retain_gradients(model, processor, layers, parts["retain"], contrast)
        scores = score_layers(layers, weights, forget_gradients, retain_gradients)
        candidates = [score.layer for score in select_layers(scores, front_only=front_only)]
        moments = None
        if direction == "whitened":
            moments = compute_input_moments(model, processor, candidates, parts["retain"], batch_size)
        directions = compute_directions(forget_gradients, candidates, moments, epsilon, rank)
        gradient_seconds = time.perf_counter() - started

        started = time.perf_counter()
        chooser = evaluate if evaluate is not None else evaluators["validation"]
        found = search(model, candidates, directions, chooser, steps, target, trajectory)
        search_seconds = time.perf_counter() - started

        best, base = found.chosen, describe_model(model)
        config = SlugConfig(
            target_modules=list(best.layer.modules),
            tower=best.layer.tower,
            step_size=best.step_size,
            rank=rank,
            concept=concept,
            granularity=granularity,
            direction=direction,
            base_model_name_or_path=base["name_or_path"] or None,
            revision=base["revision"],
            base_fingerprint=compute_fingerprint(layer_weights(model, best.layer)),
            inference_mode=True,
        )
        deltas = {name: scale_delta(directions[name], best.step_size) for name in best.layer.modules}
        patch = UnlearningPatch.from_deltas(deltas, config)
        changed = patch.new_weights(model, strict=False)
        tester = evaluators["test"]
        patch.report = build_report(
            concept=concept,
            prompts=prompts,
            base_model=base,
            settings={
                "tower": tower,
                "granularity": granularity,
                "direction": direction,
                "rank": rank,
                "steps": steps,
            },
            scores=scores,
            found=found,
            chooser=chooser,
            target=target,
            tester=tester,
            compared=tester.prepare(model).compare(best.layer, changed),
            cost={
                "gradient_s": gradient_seconds,
                "search_s": search_seconds,
                "peak_memory_bytes": peak_memory(model.device),
                "patch_bytes": patch.num_bytes,
            },
            data=describe_data(
                parts, overlap=overlap, retain_batch_size=contrast, batch_size=batch_size, truncated_captions=truncated
            ),
            seed=seed,
        )
    if not found.was_known:
        logger.warning(
            f"There was nothing to forget: without any change, {chooser.primary_metric} on the validation set already reaches "
            f"the target for {concept!r}. The model does not recognise it under these prompts and names ({prompts[0]!r}, …)."
        )
    elif not patch.report["succeeded"]:
        metrics, key = patch.report["metrics"], tester.primary_metric
        logger.warning(
            f"{concept!r} was NOT forgotten: {key} is {metrics['after'][key]:.1%} on {metrics['n_forget']} test images "
            f"({metrics['before'][key]:.1%} before). Try more steps, another tower, or a larger forget set."
        )
    return UnlearningResult(patch, dict(retain_gradients))


def _check_settings(
    direction: str,
    trajectory: str,
    steps: int,
    epsilon: float,
    rank: int | None,
    batch_size: int,
    retain_batch_size: int | None,
) -> None:
    wrong = {
        f"direction={direction!r}: expected one of {', '.join(DIRECTIONS)}": direction not in DIRECTIONS,
        f"trajectory={trajectory!r}: expected best, chosen or all": trajectory not in ("best", "chosen", "all"),
        f"steps={steps}: expected at least 1": steps < 1,
        f"epsilon={epsilon}: expected a positive number": not 0 < epsilon < float("inf"),
        f"rank={rank}: expected at least 1, or None": rank is not None and rank < 1,
        f"batch_size={batch_size}: expected at least 1": batch_size < 1,
        f"retain_batch_size={retain_batch_size}: expected at least 2": (retain_batch_size or 2) < 2,
    }
    found = [message for message, is_wrong in wrong.items() if is_wrong]
    if found:
        raise ValueError(f"Wrong setting: {'; '.join(found)}.")


def _check_gradients(gradients: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    wrong = [
        name for name, weight in weights.items() if name not in gradients or gradients[name].shape != weight.shape
    ]
    if wrong:
        raise ValueError(
            f"retain_gradients are not those of this model and these candidates: {wrong[0]} and {len(wrong) - 1} others are "
            f"missing or of another shape. Leave them out to compute them again."
        )
