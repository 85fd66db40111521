# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Whether a patch does what its card says: its numbers, measured again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .beside import Beside, Sources, read_beside
from .evaluation import BehaviourEvaluator, ZeroShotEvaluator
from .hosts import delete_unlearning, load_unlearning
from .patch import UnlearningPatch
from .patch_files import understood
from .report import wilson_interval
from .tables import TITLES


@dataclass
class Verification:
    """
    What was measured again.

    Args:
        rows (`list[dict[str, Any]]`):
            For every metric that both have: `metric`, `title`, `card` and `found` (after), `card_before` and `found_before`, and
            whether they `agree`.
        same_data (`bool`): Whether the data are those of the card, by their hash.
        n_forget, n_retain (`int`): How many images, pictures or answers there were now.
    """

    rows: list[dict[str, Any]]
    same_data: bool
    n_forget: int
    n_retain: int

    @property
    def confirmed(self) -> bool:
        """Whether every number agrees."""
        return all(row["agree"] for row in self.rows)


def verify_patch(
    patch: UnlearningPatch,
    host: Any,
    evaluator: ZeroShotEvaluator | BehaviourEvaluator,
    beside: Sources | Beside = None,
) -> Verification:
    """
    Measures a host with and without a patch, and compares that with the patch's report.

    On the very data of the card the numbers must be the same, but for one image of each kind: another machine or dtype may decide a
    close call otherwise. On other data their 95 % intervals (Wilson) must meet.

    Args:
        patch ([`UnlearningPatch`]): The patch.
        host (`DiffusionPipeline` or `PreTrainedModel`): What it is loaded onto; as before afterwards.
        evaluator ([`ZeroShotEvaluator`] or [`BehaviourEvaluator`]): What measures it.
        beside (`Sequence` of [`UnlearningPatch`], `str` or `Path`, *optional*): The patches that it was made beside; they are on all the while.

    Returns:
        [`Verification`]

    Raises:
        ValueError: If the report has no numbers, or they were measured by another kind of evaluator, or beside other patches than are given.
        WrongBaseError: If the host is not what the patch was made from.
    """
    metrics = patch.report.get("metrics")
    if not metrics:
        raise ValueError("The patch has no report with numbers, so there is nothing to verify.")
    kind = metrics.get("evaluator", "ZeroShotEvaluator")
    if type(evaluator).__name__ != kind:
        raise ValueError(
            f"The numbers of the card come from a {kind}, and these would come from a {type(evaluator).__name__}: they can't be "
            f"compared. {_ADVICE.get(kind, '')}".rstrip()
        )

    others = read_beside(beside)
    with understood(patch.report):
        made = patch.report.get("beside") or []
        differs, wanted = others.differs_from(made), _say(made)
    if differs:
        raise ValueError(
            f"The numbers of the card were measured beside {wanted}, and these would be beside {_say(others.describe())}. Give the very patches "
            f"that this one was made beside (`beside=`, --beside)."
        )

    def measure() -> dict[str, float]:
        return evaluator(host) if near is None else cast(ZeroShotEvaluator, evaluator).measure(host, near)

    with others.loaded(host):
        near = evaluator.find_neighbors(host) if isinstance(evaluator, ZeroShotEvaluator) else None
        before = measure()
        name = load_unlearning(host, patch, "to be verified")
        try:
            after = measure()
        finally:
            delete_unlearning(host, name)
    data = patch.report.get("data", {})
    same = isinstance(evaluator, ZeroShotEvaluator) and all(
        data.get(part, {}).get("sha256") == pairs.fingerprint()
        for part, pairs in (("test_forget", evaluator.forget), ("test_retain", evaluator.given_retain))
    )
    rows = []
    for key in metrics["after"]:
        if key not in after or key not in TITLES:
            continue
        of = "n_forget" if key.startswith("fa") or key == "cra_forget" else "n_retain"
        card, found = metrics["after"][key], after[key]
        n, now = metrics[of], getattr(evaluator, of)
        (low, high), (least, most) = wilson_interval(card * n, n), wilson_interval(found * now, now)
        agree = abs(card - found) <= 1 / now + 1e-9 if same else low <= most and least <= high
        rows.append(
            {
                "metric": key,
                "title": TITLES[key],
                "card_before": metrics["before"][key],
                "found_before": before[key],
                "card": card,
                "found": found,
                "agree": bool(agree),
            }
        )
    return Verification(rows, same, evaluator.n_forget, evaluator.n_retain)


def _say(described: Sequence[Mapping[str, Any]]) -> str:
    said = [f"{row['concept']!r}" + (f" ({row['source']})" if row.get("source") else "") for row in described]
    return f"the patches of {', '.join(said)}" if said else "no patch"


_ADVICE = {
    "GenerationEvaluator": "Give --host stable-diffusion and the --judge.",
    "VqaEvaluator": "Give --host llava.",
    "ZeroShotEvaluator": "Leave --host out.",
}
