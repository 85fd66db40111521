# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A retain set that is known by its statistics alone: computing them once, and unlearning by them."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from .data import Pairs, load_pairs
from .direction import Direction
from .errors import CorruptPatchError
from .fingerprint import compute_fingerprint
from .gradient_mean import Gradients
from .gradients import eval_mode
from .names import DEFAULT_TEMPLATE, check_templates, collect_names
from .objectives import ContrastiveObjective, Objective, contrasted
from .processes import Processes
from .report import describe_data, describe_model, describe_software
from .retain_statistics import ABOUT, RetainStatistics
from .streams import PairStream
from .target import check_untouched
from .towers import Layer, candidate_layers, check_clip_model, layer_weights


class _OnDevice(Mapping[str, torch.Tensor]):
    """Tensors of statistics, each looked at and brought to a device when it is asked for."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], device: torch.device):
        self.tensors, self.device = tensors, device

    def __getitem__(self, name: str) -> torch.Tensor:
        found = self.tensors[name]
        if not bool(torch.isfinite(found).all()):
            raise CorruptPatchError(f"The retain statistics of {name} are not finite. Compute them again.")
        return found.to(self.device)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


class KnownRetain:
    """
    An objective whose retain side was computed before.

    Args:
        goal ([`Objective`]): Says what the forget set costs.
        statistics ([`RetainStatistics`]): Say the rest.
    """

    def __init__(self, goal: Objective, statistics: RetainStatistics):
        self.module, self.goal, self.statistics = goal.module, goal, statistics

    def forget_gradients(self, layers: Sequence[Layer]) -> Gradients:
        """Those of the objective."""
        return self.goal.forget_gradients(layers)

    def retain_gradients(self, layers: Sequence[Layer]) -> Mapping[str, torch.Tensor]:
        """Those of the statistics, each read when a layer is scored."""
        return _OnDevice(self.statistics.gradients, next(self.module.parameters()).device)

    def input_moments(self, layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
        """Those of the statistics."""
        known = _OnDevice(self.statistics.moments, next(self.module.parameters()).device)
        return {name: known[name] for layer in layers for name in layer.modules if name in known}


def compute_retain_statistics(
    model: PreTrainedModel,
    processor: Any,
    retain: Any,
    *,
    tower: Literal["vision", "text", "both"] = "both",
    direction: Direction = "whitened",
    norms: bool = False,
    batch_size: int = 64,
    retain_batch_size: int | None = None,
    template: str | Sequence[str] = DEFAULT_TEMPLATE,
    accelerator: Any = None,
    **columns: Any,
) -> RetainStatistics:
    """
    Computes the statistics of a retain set: one gradient of CLIP's contrastive loss, and one pass for the inputs of all layers.

    Args:
        model (`CLIPModel`): The model, unchanged by this.
        processor (`CLIPProcessor`): Its processor.
        retain (dataset, list, path, Hub id or [`PairStream`]):
            Image-text pairs to keep; all of them are used. Anything that [`load_pairs`] reads; a stream is never in memory as a whole.
        tower (`str`, *optional*, defaults to `"both"`): Whose layers.
        direction (`str`, *optional*, defaults to `"whitened"`): `"gradient"` leaves the input moments out.
        norms (`bool`, *optional*, defaults to `False`): Layer norms, too.
        batch_size, retain_batch_size, template, accelerator: As in [`unlearn`].
        columns (additional keyword arguments, *optional*): `image_column`, `text_column` and `name_column`.

    Returns:
        [`RetainStatistics`]

    Raises:
        UnsupportedModelError: If the model is no `CLIPModel` with plain weights, or under a patch.
        GradientError: If the gradient is not finite.
    """
    check_clip_model(model)
    check_untouched(model)
    pairs = retain if isinstance(retain, PairStream) else load_pairs(retain, what="retain set", **columns)
    layers = candidate_layers(model, tower, "matrix", norms)
    contrast = contrasted(batch_size, retain_batch_size)
    processes = Processes(accelerator)
    goal = ContrastiveObjective(model, processor, Pairs([], ""), pairs, [], batch_size, contrast, processes)
    with eval_mode(model):
        gradients = goal.retain_gradients(layers)
        moments = goal.input_moments(layers) if direction == "whitened" else {}
    weights = {name: weight for layer in layers for name, weight in layer_weights(model, layer).items()}
    about = {
        "base_model": describe_model(model),
        "base_fingerprint": compute_fingerprint(weights),
        "objective": "clip",
        "retain": describe_data({"retain": pairs})["retain"],
        "retain_batch_size": contrast,
        "names": _names(pairs, check_templates(template)),
        "software": describe_software(),
    }
    return RetainStatistics(gradients, moments, about)


def _names(pairs: Pairs | PairStream, templates: Sequence[str]) -> list[str]:
    """The names of a set; of a stream those of its name column alone."""
    return sorted(pairs.seen_names) if isinstance(pairs, PairStream) else list(collect_names([pairs], templates))


def check_known(known: bool, objective: str, retain_gradients: Any) -> None:
    """
    Checks what retain statistics, or a stream that they are computed of, can stand for.

    Raises:
        ValueError: If the objective is the host's, or gradients are given twice.
    """
    if known and objective == "host":
        raise ValueError(
            "Retain statistics are those of CLIP's own loss, and objective='host' has another. Use objective='clip', or give the retain set."
        )
    if known and retain_gradients is not None:
        raise ValueError(
            "Retain statistics hold the retain set's gradients; found retain_gradients, too. Give one of them."
        )


def as_statistics(retain: Any) -> RetainStatistics | None:
    """The statistics, where statistics or a local folder of them are given as a retain set."""
    if isinstance(retain, RetainStatistics):
        return retain
    if isinstance(retain, (str, Path)) and (Path(retain) / ABOUT).is_file():
        return RetainStatistics.from_pretrained(retain)
    return None


def statistics_of(
    args: argparse.Namespace,
    model: PreTrainedModel,
    processor: Any,
    source: Any,
    accelerator: Any = None,
    tower: Any = None,
) -> RetainStatistics:
    """Computes the statistics of a source with the settings of a command; of a tower, where it is not the command's."""
    from .request import columns_of, templates_of

    return compute_retain_statistics(
        model,
        processor,
        source,
        tower=tower or args.tower,
        direction=args.direction,
        batch_size=args.batch_size,
        retain_batch_size=args.retain_batch_size,
        template=templates_of(args),
        accelerator=accelerator,
        **columns_of(args),
    )


def run(args: argparse.Namespace, accelerator: Any = None) -> int:
    """`hf-slug retain-stats`: computes the statistics of a retain set; saves or publishes them."""
    from .loading import load_clip
    from .output import check_output
    from .request import columns_of

    if args.output is None and args.push is None:
        raise ValueError("Give --output DIR, --push REPO or both: else the statistics would be lost.")
    if args.output is not None:
        check_output(args.output)
    model, processor = load_clip(args.model, args.dtype, args.device, args.revision)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    source = PairStream(args.retain, **columns_of(args)) if args.streaming else args.retain
    statistics = statistics_of(args, model, processor, source, accelerator)

    def save() -> int:
        print(statistics)
        if args.output is not None:
            statistics.save_pretrained(args.output)
            print(f"Saved: {args.output}")
        if args.push is not None:
            print(f"Published: {statistics.push_to_hub(args.push, private=args.private or None)}")
        return 0

    return Processes(accelerator).exit_code(save)
