# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The layers worth searching, and the direction of each: one gradient of each loss, scores, fronts (SLUG, sections 3.1 and 3.2)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch

from .direction import Direction, compute_directions
from .objectives import Objective
from .scores import score_layers, select_layers
from .settings import check_gradients
from .towers import Layer


class Front:
    """
    Differentiates an objective once, scores its layers, and finds the directions of those that will be searched.

    Args:
        goal ([`Objective`]): The forget and the retain loss.
        layers (`Sequence[Layer]`): The candidates.
        weights (`Mapping[str, torch.Tensor]`): Their weights by canonical module name.
        direction (`str`): `"whitened"` or `"gradient"`.
        epsilon (`float`): Damping of the whitened direction.
        rank (`int` or `"auto"`, *optional*): See [`~hf_slug.direction.compute_directions`].
        front_only (`bool`, *optional*, defaults to `False`): Take the first front alone.
        retain_gradients (`Mapping[str, torch.Tensor]`, *optional*): Known from before.

    Attributes:
        scores (`list[LayerScore]`): Of all candidates.
        layers (`list[Layer]`): Those to be searched.
        directions (`dict[str, torch.Tensor]`): Theirs, by canonical module name; grows while `reserve` is iterated over.

    Raises:
        ValueError: If `retain_gradients` are not those of these weights.
    """

    def __init__(
        self,
        goal: Objective,
        layers: Sequence[Layer],
        weights: Mapping[str, torch.Tensor],
        direction: Direction,
        epsilon: float,
        rank: int | Literal["auto"] | None,
        front_only: bool = False,
        retain_gradients: Mapping[str, torch.Tensor] | None = None,
    ):
        if retain_gradients is not None:
            check_gradients(retain_gradients, weights)
        self.goal, self.direction, self.epsilon, self.rank = goal, direction, epsilon, rank
        # in this order, as the forget loss holds one tower's gradient at a time beside what is there already
        self.retain_gradients = goal.retain_gradients(layers) if retain_gradients is None else retain_gradients
        self.forget_gradients = goal.forget_gradients(layers)
        self.scores = score_layers(layers, weights, self.forget_gradients, self.retain_gradients)
        self.layers = [score.layer for score in select_layers(self.scores, front_only=front_only)]
        self.directions = self._directions_of(self.layers)

    def reserve(self) -> Iterator[Layer]:
        """Yields the layers of the next fronts; moments are as large as weights, so only those of a few at a time."""
        ordered = [score.layer for score in select_layers(self.scores, minimum=len(self.scores))]
        rest = [layer for layer in ordered if layer not in self.layers]
        for start in range(0, len(rest), len(self.layers)):
            part = rest[start : start + len(self.layers)]
            self.directions.update(self._directions_of(part))
            yield from part

    def _directions_of(self, layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
        moments = self.goal.input_moments(layers) if self.direction == "whitened" else None
        return compute_directions(self.forget_gradients, layers, moments, self.epsilon, self.rank)
