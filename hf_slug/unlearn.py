# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The whole method: one gradient, one layer, one patch."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from .beside import Beside, Sources, check_beside, read_beside
from .direction import Direction
from .encoders import Encoder, host_modules
from .evaluation import Evaluator, prepare, warn_of_zero_shot, zero_shot_evaluators
from .fingerprint import compute_fingerprint
from .front import Front
from .gradients import eval_mode
from .inputs import check_prompts, warn_of_truncation
from .known_retain import KnownRetain, as_statistics, check_known
from .loading import find_processor
from .low_rank import stored_rank
from .names import DEFAULT_TEMPLATE, bare_name, check_templates, collect_names, say, with_names
from .objectives import (
    DEFAULT_QUESTIONS,
    AnswerObjective,
    ContrastiveObjective,
    DenoisingObjective,
    Objective,
    contrasted,
    default_objective,
    host_objective,
)
from .parts import common_concept, load_parts, warn_of_overlap
from .patch import UnlearningPatch
from .processes import Processes
from .report import (
    Comparison,
    build_report,
    describe_data,
    describe_gradients,
    describe_host,
    describe_model,
    peak_memory,
    warn_of_failure,
)
from .result import UnlearningResult
from .search import search
from .settings import check_combination, check_settings
from .stack import start_of
from .steps import TOLERANCE, new_weights, scale_delta
from .streams import PairStream
from .subject import find_subject
from .towers import Granularity
from .tuner import SlugConfig


def unlearn(
    model: PreTrainedModel | None,
    processor: Any,
    forget: Any,
    retain: Any,
    *,
    concept: str | None = None,
    host: Any = None,
    objective: Literal["clip", "host"] | None = None,
    component: str | None = None,
    host_processor: Any = None,
    beside: Sources | Beside = None,
    questions: Sequence[str] = DEFAULT_QUESTIONS,
    draws: int = 4,
    tower: Literal["vision", "text", "both"] = "both",
    granularity: Granularity = "matrix",
    direction: Direction = "whitened",
    evaluate: Evaluator | None = None,
    test_evaluate: Evaluator | None = None,
    validation_forget: Any = None,
    validation_retain: Any = None,
    test_forget: Any = None,
    test_retain: Any = None,
    names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    template: str | Sequence[str] = DEFAULT_TEMPLATE,
    fa_at: Literal[1, 5] | None = None,
    target: float | None = None,
    risk: float = 0.05,
    steps: int = 10,
    tolerance: float = TOLERANCE,
    front_only: bool = False,
    early_stopping: bool = False,
    norms: bool = False,
    epsilon: float = 0.03,
    rank: int | Literal["auto"] | None = None,
    trajectory: Literal["best", "chosen", "all"] = "best",
    batch_size: int = 64,
    retain_batch_size: int | None = None,
    retain_gradients: Mapping[str, torch.Tensor] | None = None,
    image_column: str = "image",
    text_column: str = "text",
    name_column: str = "name",
    accelerator: Any = None,
    seed: int = 0,
) -> UnlearningResult:
    """
    Removes a concept from a `CLIPModel`, or from a host that embeds one of its towers, with one gradient and one layer (SLUG),
    and returns it as a patch.

    The forget loss `1 - cos(v, t)` and CLIP's retain loss, or the host's own loss, are differentiated once, at the original weights. Layers are scored by
    importance `‖∇L_forget‖/‖W‖` and alignment `cos(∇L_forget, ∇L_retain)`; those of the Pareto front are each stepped along
    the ascent of the forget loss until a validation set no longer shows the concept; the layer that keeps most wins. Metrics are
    reported on a test set that neither the gradient nor the search has seen.

    Args:
        model (`CLIPModel`):
            In float32, bfloat16 or float16, on any device. Left as it is. Its `gradient_checkpointing_enable()` is honoured. `None` if there is only a host: then the objective is
            the host's, and `evaluate` and `test_evaluate` must be given.
        processor (`CLIPProcessor`): Its processor.
        forget, retain (dataset, list, path or Hub id):
            Image-text pairs of the concept, and pairs to keep; anything that [`load_pairs`] reads. Without validation and test
            sets they are split 60/20/20 by the seed; a set that is given takes nothing from them. [`RetainStatistics`] (or a local
            folder of them) in place of the pairs to keep save their gradient and their inputs, and a [`PairStream`] the memory they take;
            then validation and test sets must be given.
        concept (`str`, *optional*):
            The concept's name (or a full prompt): `t` in the forget loss, for the forget set only. Defaults to the one name
            or text that all of the forget set shares.
        host (`DiffusionPipeline` or `PreTrainedModel`, *optional*):
            What the patch is for: a pipeline with CLIP text encoders or a model of the LLaVA family. Only layers that reach its
            output compete. Left as it is.
        objective (`str`, *optional*):
            What is differentiated: `"clip"`, the paper's losses, or `"host"`, the host's own: what the pairs' texts save of the
            denoising loss of their images ([`DenoisingObjective`]), or the language loss of their names as answers. Defaults to
            `"host"` for a pipeline with a UNet and for a LLaVA with a processor, else to `"clip"`: on the zoo's LLaVA that keeps more,
            on its Stable Diffusion there is hardly a difference (`benchmarks/results/zoo_hosts.md`).
        component (`str`, *optional*): Which encoder of the host, where there are several, e.g. `"text_encoder_2"`.
        host_processor (`ProcessorMixin`, *optional*):
            The processor of a LLaVA, for its own objective. Defaults to the one that lies where the model was loaded from.
        beside (`Sequence` or `Mapping` of [`UnlearningPatch`], `str` or `Path`, *optional*):
            Patches of the same base (or folders or Hub ids of them) that this one will be loaded with: they are on, at weight 1, while the
            gradient, the search and the report are made. Pairs whose name is of what they forget are left out of what is kept (their
            number is in the report; captions that show it under no name are not). The patch is a step from the original weights all the same.
        questions (`Sequence[str]`, *optional*): What a LLaVA is asked; names are the answers.
        draws (`int`, *optional*, defaults to 4): How often a forget image is noised in the denoising loss; retain images a quarter
            as often.
        tower (`str`, *optional*, defaults to `"both"`): `"vision"`, `"text"` or `"both"`: whose layers compete.
        granularity (`str`, *optional*, defaults to `"matrix"`): `"matrix"`, `"attention"` or `"block"`.
        direction (`str`, *optional*, defaults to `"whitened"`): `"whitened"`, or the paper's `"gradient"`.
        evaluate ([`Evaluator`], *optional*):
            What the search goes by. Defaults to zero-shot classification over the names, by the CLIPModel. It is called with the
            host, if there is one: see [`GenerationEvaluator`] and [`VqaEvaluator`].
        test_evaluate ([`BehaviourEvaluator`], *optional*):
            What the report goes by; must use other images, seeds or questions. Defaults to zero-shot classification.
        validation_forget, validation_retain, test_forget, test_retain (*optional*): Sets of their own for search and report.
        names (`Sequence[str]` or `Mapping[str, Sequence[str]]`, *optional*):
            What images are classified among; a mapping gives each its own prompts. Defaults to all that occur in the data.
        template (`str` or `Sequence[str]`, *optional*, defaults to `"a photo of {}"`): How a name is said.
        fa_at (`int`, *optional*): FA@1 or FA@5 is the target. Defaults to 5, or 1 where there are under 50 names.
        target (`float`, *optional*): Forgotten means FA at or below this. Defaults to 0.
        risk (`float`, *optional*, defaults to 0.05):
            Zero-shot, forgotten also means that of further images of the concept no more than this share would be recognised, as
            estimated from how narrowly those at hand are not ([`~hf_slug.evaluation.estimate_risk`]); of the chosen layer a larger step at a
            tenth of it is taken, if there is one that keeps as much to half a point and changes the layer by at most 16 times its weight.
            1 leaves the risk out, as the paper does.
        steps (`int`, *optional*, defaults to 10): At most so many trials per layer; of the chosen one as many again for a lower risk.
        tolerance (`float`, *optional*, defaults to 0.34):
            The search of a layer ends once its smallest forgetting step is known to this share of itself; at 0 all steps are taken.
        front_only (`bool`, *optional*, defaults to `False`): Search the first front only, even if it has under 5 layers.
        early_stopping (`bool`, *optional*, defaults to `False`):
            Go by a host's behaviour only until a layer forgets the concept and keeps the rest within a point; each look is dear there. The
            first such layer is not always the best.
        norms (`bool`, *optional*, defaults to `False`): Layer norms are candidates, too.
        epsilon (`float`, *optional*, defaults to 0.03): Damping of the whitened direction.
        rank (`int` or `"auto"`, *optional*):
            Restrict the delta to this rank and store its factors: a smaller patch. `"auto"` loses nothing where the direction has a low rank
            (that of one caption in the text tower), and at most 3 % of it elsewhere ([`~hf_slug.direction.compute_directions`]).
        trajectory (`str`, *optional*, defaults to `"best"`):
            Retained accuracy is measured at the `"best"` step of each layer that forgets (of all, if none does); for pictures also at every step
            of the `"chosen"` layer, or at `"all"`. With `"best"` a step of the vision tower is looked at no further once it is certain not to
            reach the target.
        batch_size (`int`, *optional*, defaults to 64): Images per forward pass.
        retain_batch_size (`int`, *optional*):
            Pairs contrasted with each other in the retain loss, which depends on it; where they are more than `batch_size` their features
            are cached, and each runs twice. Defaults to `batch_size`, at least 64.
        retain_gradients (`Mapping[str, torch.Tensor]`, *optional*):
            Those of an earlier result for the same model and retain set, to save computing them again.
        image_column, text_column, name_column (`str`, *optional*): Columns of the data.
        accelerator (`Accelerator` or `PartialState`, *optional*):
            Shares the gradients and the search among the processes of `accelerate launch`. Each of them must call this alike, with the
            model on its own device, and gets the same result; the report is measured by the first.
        seed (`int`, *optional*, defaults to 0): Seed of the split.

    Returns:
        [`UnlearningResult`]

    Raises:
        UnsupportedModelError: If the model is not a `CLIPModel` with plain weights, or it or the host is under a patch now.
        WrongBaseError: If the host's weights are not the model's, or a patch beside is of another base.
        CorruptPatchError: If a source in `beside` holds anything but a patch.
        ValueError: If what is given does not go together; what, is said.
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
    templates = check_templates(template)
    check_settings(direction, trajectory, steps, tolerance, risk, epsilon, rank, batch_size, retain_batch_size, draws)
    host_processor = host_processor or find_processor(host)
    objective = objective or default_objective(host, model, host_processor)
    check_combination(model, host, objective, evaluate, test_evaluate, early_stopping)
    subject = find_subject(model, host, objective, tower, component, granularity, norms)
    statistics = as_statistics(retain)
    stream = retain if isinstance(retain, PairStream) else None
    known = statistics is not None or stream is not None
    check_known(known, objective, retain_gradients)
    others = read_beside(beside)
    check_beside(others, known or retain_gradients is not None)
    columns = {"image_column": image_column, "text_column": text_column, "name_column": name_column}
    judged = evaluate is not None and test_evaluate is not None  # so that nothing need be split off
    parts = load_parts("forget", forget, validation_forget, test_forget, seed, columns, judged)
    given = None if known else retain
    parts |= load_parts("retain", given, validation_retain, test_retain, seed, columns, judged, known)
    # names that are classified among, though no pair that is kept shows them
    known_names = list(collect_names([pairs for key, pairs in parts.items() if key.endswith("retain")], templates))
    parts, left_out = others.leave_out(parts, templates)

    concept = common_concept(parts["forget"], templates) if concept is None else concept
    if not concept.strip():
        raise ValueError("The concept is blank. Give the name of what is to be forgotten.")
    own = names.get(concept) if isinstance(names, Mapping) else None
    prompts = list(own or say(concept, templates))  # what is unlearned is what is judged
    name = bare_name(concept, templates)
    truncated = 0
    if model is not None:
        check_prompts(model, processor, prompts)
        if "retain" in parts:
            truncated = warn_of_truncation(model, processor, parts["retain"].texts, "retain set")
    processes, contrast = Processes(accelerator), contrasted(batch_size, retain_batch_size)

    modules = nn.ModuleList([m for m in (model, *host_modules(host)) if m is not None])
    on = (model,) if host is None else (host, model)
    with eval_mode(modules), others.loaded(*on):
        if subject.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(subject.device)
        started = time.perf_counter()
        goal: Objective
        if objective == "clip":
            data = parts["forget"], cast(Any, parts.get("retain") if stream is None else stream)
            goal = ContrastiveObjective(cast(Any, model), processor, *data, prompts, batch_size, contrast, processes)
        else:
            goal = host_objective(
                host,
                cast(Encoder, subject.encoder),
                with_names(parts["forget"], templates),
                with_names(parts["retain"], templates),
                processor=host_processor,
                questions=questions,
                draws=draws,
                batch_size=batch_size,
                seed=seed,
                concept=name,
                processes=processes,
            )
        if stream is not None:  # read before its names are known
            retain_gradients = goal.retain_gradients(subject.layers)
        chooser, tester = cast(Any, evaluate), cast(Any, test_evaluate)
        elsewhere = () if statistics is None else statistics.about["names"]
        if stream is not None:
            elsewhere = sorted(stream.seen_names)
        if model is not None and not judged:
            default = zero_shot_evaluators(
                model, processor, parts, name, names, templates, fa_at, batch_size, [*elsewhere, *known_names]
            )
            chooser, tester = chooser or default[0], tester or default[1]
            if host is not None:
                warn_of_zero_shot(host)
        overlap = warn_of_overlap(parts, name, templates, elsewhere)
        if statistics is not None:
            statistics.check(subject.weights, direction == "whitened", retain_batch_size)
            goal, contrast = KnownRetain(goal, statistics), statistics.about["retain_batch_size"]
        front = Front(goal, subject.layers, subject.weights, direction, epsilon, rank, front_only, retain_gradients)
        gradient_seconds = time.perf_counter() - started

        started = time.perf_counter()
        found = search(
            subject.judged_by(chooser),
            front.layers,
            front.directions,
            chooser,
            steps,
            tolerance,
            target,
            trajectory,
            host,
            () if front_only else front.reserve(),
            risk,
            early_stopping,
            processes,
        )
        search_seconds = time.perf_counter() - started

        best, base = found.chosen, describe_model(model if model is not None else host)
        config = SlugConfig(
            target_modules=list(best.layer.modules),
            tower=best.layer.tower,
            step_size=best.step_size,
            rank=stored_rank(rank, [front.directions[name] for name in best.layer.modules]),
            concept=concept,
            granularity=granularity,
            direction=direction,
            base_model_name_or_path=base["name_or_path"] or None,
            revision=base["revision"],
            base_fingerprint=compute_fingerprint(start_of(subject.module, best.layer)[0]),
            inference_mode=True,
        )
        deltas = {name: scale_delta(front.directions[name], best.step_size) for name in best.layer.modules}
        patch = UnlearningPatch.from_deltas(deltas, config)

        def compare() -> Comparison:
            tested = subject.judged_by(tester)
            weights, on_them = start_of(tested, best.layer)
            changed = new_weights(weights, patch.deltas, 1.0, on_them)
            return cast(Any, prepare(tester, tested, host)).compare(best.layer, changed)

        patch.report = build_report(
            concept=concept,
            prompts=prompts,
            base_model=base,
            settings={
                "tower": subject.tower,
                "granularity": granularity,
                "direction": direction,
                "objective": objective,
                "epsilon": epsilon,
                "draws": draws if isinstance(goal, DenoisingObjective) else None,
                "questions": list(questions) if isinstance(goal, AnswerObjective) else None,
                "norms": norms,
                "front_only": front_only,
                "early_stopping": early_stopping,
                "host": None if subject.encoder is None else describe_host(host, subject.encoder),
                "rank": config.rank,
                "beside": others.describe(),
                "left_out": left_out,
                "steps": steps,
                "tolerance": tolerance,
                "risk": risk,
            },
            scores=front.scores,
            found=found,
            chooser=chooser,
            target=target,
            tester=tester,
            compared=processes.from_main(compare),
            cost={
                "gradient_s": gradient_seconds,
                "search_s": search_seconds,
                "processes": processes.count,
                "peak_memory_bytes": peak_memory(subject.device),
                "patch_bytes": patch.num_bytes,
            },
            data=({} if statistics is None else {"retain": statistics.about["retain"]})
            | describe_data(
                parts if stream is None else {**parts, "retain": stream},
                overlap=overlap,
                retain_batch_size=contrast,
                batch_size=batch_size,
                truncated_captions=truncated,
            ),
            retain_statistics=describe_gradients({name: front.retain_gradients[name] for name in best.layer.modules}),
            seed=seed,
        )
    if processes.is_main:
        warn_of_failure(patch.report, tester.primary_metric)
    # those beside other patches are no later run's
    return UnlearningResult(patch, {} if others.patches else front.retain_gradients)
