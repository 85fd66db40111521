# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What a run gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .patch import UnlearningPatch


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class UnlearningResult:
    """
    What [`unlearn`] returns. The model it was computed on is unchanged.

    Args:
        patch ([`UnlearningPatch`]): The patch, with its report.
        retain_gradients (`dict[str, torch.Tensor]`): Gradients of the retain loss; pass them on for the next concept. None of a run beside other
            patches, whose gradients are no other run's.
    """

    patch: UnlearningPatch
    retain_gradients: Mapping[str, torch.Tensor] = field(repr=False)

    @property
    def report(self) -> dict[str, Any]:
        """The report, as saved in `unlearning_report.json`."""
        return self.patch.report

    @property
    def succeeded(self) -> bool:
        """Whether the concept was forgotten on the validation set, and the test set does not contradict it."""
        return bool(self.report["succeeded"])

    def plot_front(self) -> "Figure":
        """Plots importance against alignment of all candidates, the front labelled (Fig. 2a/b of the paper)."""
        from .plots import plot_front

        return plot_front(self.report)

    def plot_trajectory(self) -> "Figure":
        """Plots FA and TA against the step size for every layer searched (Fig. 2c/d of the paper)."""
        from .plots import plot_trajectory

        return plot_trajectory(self.report)

    def plot_similarity(self) -> "Figure":
        """Plots the image-text cosines before and after (Fig. 3 of the paper)."""
        from .plots import plot_similarity

        return plot_similarity(self.report)
