# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Make SLUG a member of PEFT's closed enumeration of methods."""

from __future__ import annotations

import warnings
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method


NAME = "SLUG"


def _add_member() -> None:
    # PEFT, transformers and diffusers read `.value` of the type and use it as a dictionary key, so a plain string will
    # not do. An `Enum` with members can't be subclassed: the member is made the way `EnumType.__new__` makes one.
    member: Any = str.__new__(PeftType, NAME)
    member._name_ = NAME
    member._value_ = NAME
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType.__members__)
    # `EnumType.__setattr__` refuses to set a member, `type.__setattr__` does not.
    type.__setattr__(PeftType, NAME, member)
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member
    hashable = getattr(PeftType, "_hashable_values_", None)  # Python 3.13 and later
    if hashable is not None:
        hashable.append(NAME)


def register(config_cls: type, model_cls: type) -> None:
    """
    Register the method with PEFT. Calling it again changes nothing.

    Args:
        config_cls (`type`):
            The configuration class, [`SlugConfig`].
        model_cls (`type`):
            The tuner class, [`SlugModel`].
    """
    known = PeftType.__members__.get(NAME)
    if known is None:
        _add_member()
    else:
        owner = PEFT_TYPE_TO_CONFIG_MAPPING.get(known)
        if owner is not None and owner.__module__ == config_cls.__module__:
            return
        if owner is not None:
            warnings.warn(
                f"PEFT already has a method called {NAME} ({owner.__module__}.{owner.__qualname__}), so hf_slug "
                "registers nothing: `PeftModel` will load patches with PEFT's own class. `load_unlearning` is not "
                "affected.",
                stacklevel=2,
            )
            return
    # Not "mixed compatible": `PeftMixedModel` knows its methods by a fixed list and would fail later and less clearly.
    register_peft_method(name=NAME.lower(), config_cls=config_cls, model_cls=model_cls, is_mixed_compatible=False)
