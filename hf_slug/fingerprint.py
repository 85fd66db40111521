# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The fingerprint of the weights a patch was computed from, so that it is not put on others of the same shape."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from .errors import CorruptPatchError, WrongBaseError


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SAMPLES = 32  # values kept for the one comparison that hashes can't make (bfloat16 against float16)


def _digest(weight: torch.Tensor, dtype: str) -> str:
    values = weight.detach().to("cpu", _DTYPES[dtype]).contiguous()
    return hashlib.sha256(values.view(torch.uint8).flatten().numpy().data).hexdigest()


def _sample(weight: torch.Tensor) -> list[float]:
    flat = weight.detach().flatten()
    places = torch.linspace(0, flat.numel() - 1, min(_SAMPLES, flat.numel())).long()
    return [float(value) for value in flat[places.to(flat.device)].float().cpu()]


def _name(dtype: torch.dtype) -> str:
    # float64 bases are compared as float32, which every checkpoint is stored in at most
    return next((name for name, known in _DTYPES.items() if known == dtype), "float32")


def compute_fingerprint(weights: Mapping[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """
    Describes weights so that they can be recognised in any of the usual dtypes.

    Args:
        weights (`Mapping[str, torch.Tensor]`): Canonical module name to its weight.

    Returns:
        `dict`: For each name `shape`, `norm` (Frobenius), `dtype` it was read in, `sha256` per dtype, and a few values.
    """
    return {
        name: {
            "shape": list(weight.shape),
            "norm": float(weight.detach().double().norm()),
            "dtype": _name(weight.dtype),
            "sha256": {dtype: _digest(weight, dtype) for dtype in _DTYPES},
            "sample": _sample(weight),
        }
        for name, weight in weights.items()
    }


def _matches(weight: torch.Tensor, known: Mapping[str, Any]) -> bool:
    made, live = known["dtype"], _name(weight.dtype)
    if made == "float32" or made == live:
        return _digest(weight, live) == known["sha256"][live]
    if live == "float32":  # made on a rounded copy: round the same way
        return _digest(weight, made) == known["sha256"][made]
    # float16 against bfloat16: both were rounded from a common original, which neither can give back
    sample, stored = torch.tensor(_sample(weight)), torch.tensor(known["sample"])
    norm = float(weight.detach().double().norm())
    same_norm = abs(norm - known["norm"]) <= 2e-4 * known["norm"]  # rounding errors cancel out in a norm
    return same_norm and torch.allclose(sample, stored, rtol=2**-7, atol=2**-14)


def check_fingerprint(fingerprint: Any) -> None:
    """
    Refuses what is no fingerprint.

    Raises:
        CorruptPatchError: If a part is missing or of another kind.
    """
    for name, known in fingerprint.items():
        try:
            right = (
                all(isinstance(size, int) for size in known["shape"])
                and isinstance(known["norm"], (int, float))
                and known["dtype"] in _DTYPES
                and all(isinstance(known["sha256"][dtype], str) for dtype in _DTYPES)
                and all(isinstance(value, (int, float)) for value in known["sample"])
            )
        except (TypeError, KeyError):
            right = False
        if not right:
            raise CorruptPatchError(
                f"The fingerprint of {name} in the patch's config is damaged: {str(known)[:60]!r}. Nothing was changed; get the "
                f"patch again from its author."
            )


def _say(apart: float) -> str:
    return f"{apart:.1%} apart" if apart >= 0.001 else "nearly the same: trained further, or another revision?"


def verify_fingerprint(
    weights: Mapping[str, torch.Tensor],
    fingerprint: Mapping[str, Mapping[str, Any]],
    *,
    base_name: str | None = None,
    what: str = "patch",
) -> None:
    """
    Checks that weights are those a patch was computed from.

    Weights that can't be read (quantised, on the meta device) are passed over.

    Args:
        weights (`Mapping[str, torch.Tensor]`): Canonical module name to the live weight.
        fingerprint (`Mapping`): What [`compute_fingerprint`] returned for the patch's base.
        base_name (`str`, *optional*): Name of the patch's base model, for the message.
        what (`str`, *optional*, defaults to `"patch"`): What was computed from them, for the message.

    Raises:
        WrongBaseError: If a shape or a hash differs.
        CorruptPatchError: If the fingerprint is damaged.
    """
    differing: list[str] = []
    others = 0
    for name, weight in weights.items():
        known = fingerprint.get(name)
        if known is None or weight.is_meta or not weight.is_floating_point():
            continue
        check_fingerprint({name: known})
        if list(weight.shape) != list(known["shape"]):
            differing.append(
                f"{name}.weight: found shape {tuple(weight.shape)}; expected shape {tuple(known['shape'])}"
            )
        elif not _matches(weight, known):
            norm = float(weight.detach().double().norm())
            apart = abs(norm - known["norm"]) / max(known["norm"], 1e-300)
            differing.append(
                f"{name}.weight: found norm {norm:.6g}, sha256 {_digest(weight, _name(weight.dtype))[:12]}…; expected norm "
                f"{known['norm']:.6g} ({_say(apart)}), sha256 {known['sha256'][_name(weight.dtype)][:12]}… ({_name(weight.dtype)})"
            )
        else:
            others += 1
    if differing:
        alike = f"\n  ({others} others are the same)" if others else ""
        raise WrongBaseError(
            f"The {what} was computed from {base_name or 'another base model'}, and this model has other weights:\n  "
            + "\n  ".join(differing)
            + f"{alike}\nA {what} only fits the very weights it was computed from: load it on {base_name or 'its base model'} at the "
            f"revision it names. Nothing was changed."
        )
