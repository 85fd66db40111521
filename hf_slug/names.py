# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Names, templates and prompts: what a pair shows, and how a name is said to the text tower."""

from collections.abc import Sequence
from dataclasses import replace

from .data import Pair, Pairs
from .errors import UnknownNameError


DEFAULT_TEMPLATE = "a photo of {}"


def check_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """
    Normalises one or more templates to a tuple.

    Raises:
        ValueError: If there is none, or one has not exactly one `{}`.
    """
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise ValueError(
            f"Expected templates with exactly one {{}} for the name, such as 'a photo of {{}}'; found {templates}."
        )
    return templates


def name_in(text: str, templates: Sequence[str]) -> str | None:
    """Returns the name from which one of the templates makes `text`, or `None`."""
    for template in templates:
        before, _, after = template.partition("{}")
        if text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after):
            return text[len(before) : len(text) - len(after)]
    return None


def bare_name(concept: str, templates: Sequence[str]) -> str:
    """Returns the name in a concept that is a whole prompt; any other concept is its own name."""
    return name_in(concept, [t for t in templates if t != "{}"]) or concept


def say(name: str, templates: Sequence[str]) -> list[str]:
    """Makes the prompts of a name: one a template, or the name alone if it is itself what a template makes."""
    return [name] if bare_name(name, templates) != name else [t.format(name) for t in templates]


def name_of(pair: Pair, templates: Sequence[str]) -> str:
    """Returns the class of a pair: its `name`, or the name whose template gives its text, or else its whole text."""
    return pair.name or name_in(pair.text, templates) or pair.text


def with_names(pairs: Pairs, templates: Sequence[str]) -> Pairs:
    """Gives each pair without a name the one whose template gives its text, if there is one."""
    named = [replace(pair, name=pair.name or name_in(pair.text, templates)) for pair in pairs]
    return Pairs(named, pairs.source, pairs.skipped, pairs.captionless)


def collect_names(parts: Sequence[Pairs], templates: Sequence[str]) -> dict[str, list[str]]:
    """
    Collects the classes of pairs, sorted, with their prompts. A class that is a whole text is its own prompt; of names that
    differ in case alone the first is taken.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for pair in (pair for pairs in parts for pair in pairs):
        name = name_of(pair, templates)
        is_text = pair.name is None and name == pair.text
        found.setdefault(name.casefold(), (name, [name] if is_text else say(name, templates)))
    return dict(sorted(found.values()))


def label(pairs: Pairs, names: Sequence[str], templates: Sequence[str], what: str) -> list[int]:
    """
    Returns the index in `names` of every pair's class.

    Raises:
        UnknownNameError: If a pair's class is not among the names.
    """
    index = {name.casefold(): i for i, name in enumerate(names)}
    labels: list[int] = []
    unknown: dict[str, int] = {}
    for pair in pairs:
        name = name_of(pair, templates)
        labels.append(index.get(name.casefold(), -1))
        if labels[-1] < 0:
            unknown[name] = unknown.get(name, 0) + 1
    if unknown:
        shown = ", ".join(repr(name[:40]) for name in list(unknown)[:5])
        raise UnknownNameError(
            f"{sum(unknown.values())} of {len(pairs)} pairs of the {what} show something that is not among the {len(names)} "
            f"names: {shown}. Add a `name` column, add these to the names, or give the template that made the texts "
            f"(now: {', '.join(map(repr, templates))})."
        )
    return labels
