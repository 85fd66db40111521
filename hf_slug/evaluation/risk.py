# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""How likely another picture of the concept is to be recognised still, judged by how narrowly those at hand are not."""

import math

import torch


# Of the risk that is allowed, what is aimed at where that costs nothing: the estimate rests on few pictures, and in a stack of five at
# the allowed risk each every fourth photograph may be somebody's who comes back. Settled on people whom no table reports.
AIM = 0.1
# So much of the retained accuracy it may cost, which is less than one of a name's few images.
HARDLY = 0.005


def estimate_risk(margins: torch.Tensor) -> float:
    """
    Estimates the share of further pictures of a concept that would still be recognised.

    A step that is just large enough for two pictures is often too small for a third. So the margins are taken as a sample of a
    normal distribution, of which another one is negative with the probability `T_{n-1}(-mean / (s·√(1 + 1/n)))`, `T` being
    Student's distribution function (the predictive distribution of a normal sample, Geisser 1993, section 2.2.4).

    Args:
        margins (`torch.Tensor`):
            Of each picture, how far the concept's own score is below the one that it would have to beat to count as recognised. Shape
            (n,).

    Returns:
        `float`: That probability, or the share of margins at hand that are not positive if it is larger; 1 if one is not finite.
    """
    values, n = margins.double(), len(margins)
    if not bool(torch.isfinite(values).all()):
        return 1.0
    share = float((values <= 0).double().mean())
    spread = float(values.std()) if n > 1 else 0.0
    if spread == 0:
        return share
    return max(share, student_cdf(-float(values.mean()) / (spread * math.sqrt(1 + 1 / n)), n - 1))


def student_cdf(t: float, degrees: int) -> float:
    """
    The distribution function of Student's t for a whole number of degrees of freedom (Abramowitz & Stegun, 26.7.3 and 26.7.4).

    Args:
        t (`float`): Where.
        degrees (`int`): Degrees of freedom, at least 1.
    """
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for i in range(2 + odd, degrees - 1, 2):
        term *= math.cos(angle) ** 2 * (i - 1) / i
        total += term
    inside = math.sin(angle) * total
    return 0.5 + (angle + inside) / math.pi if odd else 0.5 + inside / 2
