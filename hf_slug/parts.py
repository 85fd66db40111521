# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The parts of the data: what the gradient sees, what the search sees, and what only the report sees."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers.utils import logging

from .data import Pairs, load_pairs
from .errors import EmptyDatasetError
from .images import content
from .names import collect_names, name_of


logger = logging.get_logger(__name__)


def load_parts(
    what: Literal["forget", "retain"],
    given: Any,
    validation: Any,
    test: Any,
    seed: int,
    columns: Mapping[str, Any],
    whole: bool = False,
    known: bool = False,
) -> dict[str, Pairs]:
    """
    Loads a set, and splits off its parts for validation (20 %) and test (20 %) unless they are given.

    Args:
        what (`str`): `"forget"` or `"retain"`.
        given, validation, test (dataset, list, path or Hub id): The sets; the last two may be `None`.
        seed (`int`): Seed of the split.
        columns (`Mapping[str, str]`): `image_column`, `text_column` and `name_column` for [`load_pairs`].
        whole (`bool`, *optional*, defaults to `False`): Split nothing off: the gradient sees all, and no other part is needed.
        known (`bool`, *optional*, defaults to `False`):
            The gradient is known without the set: only parts that are given are loaded, and nothing can be split off for the others.

    Returns:
        `dict[str, Pairs]`: `{what}` for the gradient, `validation_{what}` for the search and `test_{what}` for the report.

    Raises:
        EmptyDatasetError: If there is none, or too little to be split.
    """
    keys = (what, f"validation_{what}", f"test_{what}")
    lacking = [key for key, source in zip(keys[1:], (validation, test), strict=True) if source is None]
    if known and lacking and not whole:
        raise EmptyDatasetError(
            f"Retain statistics hold no pairs to search by or to report from. Give {' and '.join(lacking)}, too, with pairs that the "
            f"statistics have not seen."
        )
    if given is None and not known:
        raise EmptyDatasetError(
            f"No {what} set was given. A step without a retain set would cost everything that is not the concept: give some "
            f"hundred image-text pairs of what is to be kept."
            if what == "retain"
            else "No forget set was given. Give image-text pairs of the concept."
        )
    loaded = {
        key: load_pairs(source, what=f"{part} {what} set", **columns)
        for key, part, source in zip(keys[1:], ("validation", "test"), (validation, test), strict=True)
        if source is not None
    }
    if known:
        return loaded
    pairs = load_pairs(given, what=f"{what} set", **columns)
    if whole:
        return {what: pairs, **loaded}
    shares = [0.6] + [0.2 * (key not in loaded) for key in keys[1:]]
    fractions = [share / sum(shares) for share in shares]
    pieces = pairs.split(fractions, seed) if len(loaded) < 2 else (pairs, pairs, pairs)
    result = {key: loaded.get(key, piece) for key, piece in zip(keys, pieces, strict=True)}
    for key, piece in result.items():
        if not len(piece):
            raise EmptyDatasetError(
                f"The {what} set of {len(pairs)} pairs is too small to be split 60/20/20: nothing is left for {key!r}. Give at "
                f"least 5 pairs, or validation and test sets of their own."
            )
    return result


def count_overlap(parts: Mapping[str, Pairs]) -> int:
    """Counts the test images that occur, byte for byte, in a part that the gradient or the search sees."""
    images = {part: [content(pair.encoded) for pair in pairs] for part, pairs in parts.items()}
    seen = {image for part, own in images.items() if not part.startswith("test_") for image in own}
    return sum(image in seen for part, own in images.items() if part.startswith("test_") for image in own)


def warn_of_overlap(
    parts: Mapping[str, Pairs], concept: str, templates: Sequence[str], known: Sequence[str] = ()
) -> int:
    """
    Warns if test images were seen before, or if the retain set shows the concept; `known` are the names in retain statistics.

    Returns:
        `int`: The number of the former.
    """
    overlap = count_overlap(parts)
    if overlap:
        logger.warning(
            f"{overlap} images of the test sets are also in the sets that the gradient or the search sees. What is measured on "
            f"them says little of unseen data: remove duplicates first."
        )
    shown = sum(name_of(pair, templates).casefold() == concept.casefold() for pair in parts.get("retain", ()))
    if shown:
        logger.warning(
            f"{shown} of {len(parts['retain'])} pairs of the retain set show the concept {concept!r}: the retain loss asks "
            f"for what the forget loss removes. Leave them out of the retain set."
        )
    if concept.casefold() in (name.casefold() for name in known):
        logger.warning(
            f"The retain statistics were computed with pairs that show the concept {concept!r}: the retain loss asks for what the forget "
            f"loss removes. Compute them without such pairs."
        )
    return overlap


def common_concept(pairs: Pairs, templates: Sequence[str]) -> str:
    """
    Returns the one name, or text, that all of a forget set shares.

    Raises:
        ValueError: If it shows several.
    """
    found = list(collect_names([pairs], templates))
    if len(found) != 1:
        raise ValueError(
            f"The forget set shows {len(found)} different names ({', '.join(map(repr, found[:4]))}, …), so the concept can't be "
            f"told from it. Pass concept=... (--concept)."
        )
    return found[0]
