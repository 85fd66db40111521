# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Which objective is a host's own."""

from collections.abc import Sequence
from typing import Any, Literal

from transformers import PreTrainedModel

from ..data import Pairs
from ..encoders import Encoder, is_pipeline
from ..errors import UnsupportedModelError
from ..processes import ALONE, Processes
from .answers import AnswerObjective
from .denoising import DenoisingObjective, find_obstacle
from .objective import HostObjective


DEFAULT_QUESTIONS = ("What is this?", "What is shown in this picture?")


def host_objective(
    host: Any,
    encoder: Encoder,
    forget: Pairs,
    retain: Pairs,
    *,
    processor: Any = None,
    questions: Sequence[str] = DEFAULT_QUESTIONS,
    draws: int = 4,
    batch_size: int = 32,
    seed: int = 0,
    concept: str | None = None,
    processes: Processes = ALONE,
) -> HostObjective:
    """
    Makes the objective of a host: the denoising loss of a pipeline, the language loss of a LLaVA.

    Args:
        host (`DiffusionPipeline` or `PreTrainedModel`): The host.
        encoder ([`Encoder`]): The encoder that the loss is differentiated by.
        forget, retain (`Pairs`): The two sets.
        processor, questions (*optional*): See [`AnswerObjective`].
        draws, seed, concept (*optional*): See [`DenoisingObjective`].
        batch_size (`int`, *optional*, defaults to 32): Images per forward pass.
        processes ([`Processes`], *optional*): Those that share the batches.

    Raises:
        ValueError: If a LLaVA comes without its processor.
        UnsupportedModelError: If the host's loss is not known.
    """
    if is_pipeline(host):
        return DenoisingObjective(host, encoder, forget, retain, draws, batch_size, seed, concept, processes)
    if not (isinstance(host, PreTrainedModel) and host.can_generate()):
        raise UnsupportedModelError(
            f"{type(host).__name__} has no loss of its own that is known here: expected a pipeline or a model of the LLaVA family. "
            f"Use objective='clip'."
        )
    if processor is None:
        raise ValueError(f"The language loss of {type(host).__name__} needs its processor. Pass `host_processor=`.")
    return AnswerObjective(host, processor, encoder, forget, retain, questions, batch_size, processes)


def default_objective(host: Any, model: Any, processor: Any = None) -> Literal["clip", "host"]:
    """
    Says which objective is the better one, by `benchmarks/results/zoo_hosts.md`: the host's own, wherever it can be had.

    Args:
        host (`DiffusionPipeline` or `PreTrainedModel`, *optional*): The host.
        model (`CLIPModel`, *optional*): The CLIP. Without it there is no choice.
        processor (`ProcessorMixin`, *optional*): The host's processor, which the language loss of a LLaVA needs.
    """
    if host is not None and model is None:
        return "host"
    known = find_obstacle(host) is None if is_pipeline(host) else processor is not None
    return "host" if known else "clip"
