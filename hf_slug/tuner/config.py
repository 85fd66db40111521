# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The configuration of an unlearning patch."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Optional, Union, cast

from huggingface_hub.errors import LocalEntryNotFoundError
from peft.config import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME, PeftType

from .. import hub
from ..errors import CorruptPatchError
from ..files import read_json, sha256_of, sha256_of_fields
from .checks import check_announced, find_file, read_announced


# What a config would have to carry to make a loader run code of its own.
_CODE_KEYS = ("auto_map", "custom_code", "trust_remote_code")
_LIKE_CODE = re.compile(r"^_|code|hook|exec|eval|import|auto_map|call|plugin|function|loader|_fn$|^on_")
_CHOICES = {
    "tower": ("vision", "text"),
    "granularity": ("matrix", "attention", "block"),
    "direction": ("whitened", "gradient"),
}


def content_of(fields: dict[str, Any]) -> str:
    """The SHA-256 of a config, apart from the hashes that it holds itself."""
    return sha256_of_fields({key: value for key, value in fields.items() if key != "content_sha256"})


@dataclass
class SlugConfig(PeftConfig):
    """
    This is the configuration class to store the configuration of a [`SlugModel`].

    Args:
        target_modules (`Union[List[str], str]`, *optional*):
            The modules that the patch changes. Canonical names of a `CLIPModel` such as
            `vision_model.encoder.layers.9.self_attn.out_proj` or `text_projection` are found in any model that embeds
            that tower, whatever it calls them. Other names are matched as PEFT does: a list exactly or by the end of
            the name, a string as a regular expression.
        exclude_modules (`Union[List[str], str]`, *optional*):
            Modules not to change although `target_modules` matches them.
        layers_to_transform (`Union[List[int], int]`, *optional*):
            Change only the layers of these indices, among those that `target_modules` matches by the end of the name.
        layers_pattern (`Union[List[str], str]`, *optional*):
            The name of the list of layers, where it is not one that PEFT finds. Needs `layers_to_transform`.
        modules_to_save (`List[str]`, *optional*):
            Modules apart from the changed ones to be saved with the adapter.
        init_weights (`bool`, *optional*, defaults to `True`):
            Start from a delta of zeros. `False` gives a random delta, which only tests want.
        rank (`int`, *optional*):
            The rank of the factors that the delta is stored as. `None` stores the dense delta. A weight of one
            dimension, such as that of a `LayerNorm`, is always stored dense.
        tower (`str`, *optional*):
            The CLIP encoder that is changed, `"vision"` or `"text"`.
        step_size (`float`, *optional*):
            The step size λ that the search chose. It is already part of the delta.
        concept (`str`, *optional*):
            What is forgotten.
        granularity (`str`, *optional*):
            The unit of the update: `"matrix"`, `"attention"` or `"block"`.
        direction (`str`, *optional*):
            The direction of the update: `"whitened"` or `"gradient"`.
        base_fingerprint (`Dict[str, Any]`, *optional*):
            By canonical name, what identifies the weights the patch was computed from. If given, it is checked before
            the model is touched.
        content_sha256 (`Dict[str, str]`, *optional*):
            The SHA-256 of the published `weights`, `report` and `config` (without this field). It is checked when the patch is read
            from a folder or the Hub, and then dropped: what is saved again is another folder.

    Raises:
        ValueError: If a field has a value that is not allowed.
    """

    target_modules: Optional[Union[list[str], str]] = field(
        default=None,
        metadata={
            "help": (
                "List of module names (canonical CLIPModel names, or any that PEFT can match) or regex expression of "
                "the module names to change."
            )
        },
    )
    exclude_modules: Optional[Union[list[str], str]] = field(
        default=None, metadata={"help": "List of module names or regex expression of the module names not to change."}
    )
    layers_to_transform: Optional[Union[list[int], int]] = field(
        default=None, metadata={"help": "The indices of the layers to change, all that match if not given."}
    )
    layers_pattern: Optional[Union[list[str], str]] = field(
        default=None, metadata={"help": "The name of the list of layers, used with `layers_to_transform`."}
    )
    modules_to_save: Optional[list[str]] = field(
        default=None, metadata={"help": "List of modules apart from the changed ones to be saved with the adapter."}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "Start from a delta of zeros; `False` gives a random delta, for tests."}
    )
    rank: Optional[int] = field(
        default=None, metadata={"help": "The rank of the factors of the delta. `None` stores the dense delta."}
    )
    tower: Optional[Literal["vision", "text"]] = field(
        default=None, metadata={"help": "The CLIP encoder that is changed."}
    )
    step_size: Optional[float] = field(
        default=None, metadata={"help": "The step size that the search chose; already part of the delta."}
    )
    concept: Optional[str] = field(default=None, metadata={"help": "What is forgotten."})
    granularity: Optional[Literal["matrix", "attention", "block"]] = field(
        default=None, metadata={"help": "The unit of the update."}
    )
    direction: Optional[Literal["whitened", "gradient"]] = field(
        default=None, metadata={"help": "The direction of the update."}
    )
    base_fingerprint: Optional[dict[str, Any]] = field(
        default=None, metadata={"help": "By canonical name, what identifies the weights the patch was computed from."}
    )

    content_sha256: Optional[dict[str, str]] = field(
        default=None, metadata={"help": "The SHA-256 of the published weights, report and config."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("SLUG")
        # Where the canonical names are in the model that the config was last applied to. Not a field: it is not saved.
        self.live_names: dict[str, str] = {}
        # The folder it was read from, if that holds no weights. Not a field either.
        self.without_weights: Optional[str] = None
        # The local folder in which its weights were found and checked. Neither.
        self.folder: Optional[str] = None
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if value is None or isinstance(value, str):
                continue
            if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(v, str) for v in value):
                raise ValueError(f"`{name}` must be a list of module names or a regular expression, got {value!r}.")
            setattr(self, name, set(value))
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError("`layers_to_transform` can't be used when `target_modules` is a str; give it a list.")
        if isinstance(self.target_modules, str) and self.layers_pattern is not None:
            raise ValueError("`layers_pattern` can't be used when `target_modules` is a str; give it a list.")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("`layers_pattern` says where the layers are; give `layers_to_transform` as well.")
        if self.rank is not None and (type(self.rank) is not int or self.rank < 1):
            raise ValueError(
                f"`rank` must be a whole number of at least 1, or None for a dense delta, got {self.rank!r}."
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in (None, *choices):
                raise ValueError(f"`{name}` must be one of {', '.join(choices)} or None, got {getattr(self, name)!r}.")
        number = isinstance(self.step_size, (int, float)) and not isinstance(self.step_size, bool)
        if self.step_size is not None and not (number and math.isfinite(self.step_size)):
            raise ValueError(f"`step_size` must be a finite number or None, got {self.step_size!r}.")
        for name in ("concept", "base_model_name_or_path", "revision"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (str, os.PathLike)):
                raise ValueError(f"`{name}` must be a string or None, got {value!r}.")
        mapping = self.auto_mapping
        if mapping is not None and not (
            isinstance(mapping, dict)
            and mapping.keys() <= {"base_model_class", "parent_library"}
            and all(isinstance(value, str) for value in mapping.values())
        ):
            raise ValueError(
                f"`auto_mapping` must hold the names of a class and its library, got {str(mapping)[:80]!r}."
            )
        for name in ("base_fingerprint", "content_sha256"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, dict):
                raise ValueError(f"`{name}` must be a dictionary, got {type(value).__name__}.")

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary; sets as sorted lists, so that the same config always gives the same file."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}

    @classmethod
    def check_kwargs(cls, **kwargs: Any) -> dict[str, Any]:
        """Refuse a config that asks for code to be run."""
        known = {field.name for field in fields(cls)}
        found = sorted(
            key
            for key, value in kwargs.items()
            if value and key not in known and (key in _CODE_KEYS or _LIKE_CODE.search(key))
        )
        if found:
            raise ValueError(
                f"The adapter config asks for code to be run ({', '.join(found)}). A patch is data only: don't load "
                "it unless you know who made it, and then remove these keys from adapter_config.json."
            )
        return super().check_kwargs(**kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: Optional[str] = None, **kwargs: Any
    ) -> SlugConfig:
        """
        Load the configuration, and look at the weights beside it.

        PEFT reads the weights only after it has changed the model. A file that is damaged is found here, before that.

        Args:
            pretrained_model_name_or_path (`str`):
                The folder or the Hub repository id of the patch.
            subfolder (`str`, *optional*):
                A folder inside it.
            kwargs (additional keyword arguments, *optional*):
                Passed on to [`~huggingface_hub.hf_hub_download`].

        Returns:
            [`SlugConfig`]: The configuration.

        Raises:
            ValueError: If there is no configuration, if it is not valid, or if the weights are damaged.
        """
        options, _, _ = cls._split_kwargs(kwargs)

        def find(name: str) -> Any:
            return find_file(pretrained_model_name_or_path, name, subfolder=subfolder, **options)

        found: list[Any] = []
        try:
            return cls._read(pretrained_model_name_or_path, find, found, kwargs)
        except ValueError:
            if not hub.is_offline(bool(options.get("local_files_only"))):
                hub.discard(path for path in found if path is not None)
            raise

    @classmethod
    def _read(cls, source: str, find: Any, found: list[Any], kwargs: dict[str, Any]) -> SlugConfig:
        path = find(CONFIG_NAME)
        found.append(path)
        if path is None:
            raise ValueError(f"Can't find '{CONFIG_NAME}' at '{source}'")
        written = read_json(path)  # before PEFT does, which takes anything
        if not isinstance(written.get("peft_type", "SLUG"), str) or written.get("peft_type", "SLUG") not in list(
            PeftType
        ):
            raise CorruptPatchError(f"{path} is of the unknown method {written['peft_type']!r}, expected 'SLUG'.")
        config = super().from_pretrained(str(path.parent), **kwargs)
        try:
            weights = find(SAFETENSORS_WEIGHTS_NAME) or find(WEIGHTS_NAME)
        except LocalEntryNotFoundError:  # offline, where nothing tells which of the two there is
            weights = find(WEIGHTS_NAME)
        found.append(weights)
        if not isinstance(config, SlugConfig):  # PEFT reads any method's
            return config
        if weights is None:
            config.without_weights = str(source)  # to read is fine, to attach is not
        else:
            config.folder = str(weights.parent)
            announced = read_announced(weights)
            check_announced(announced, config.rank, weights)
            config.name_modules(announced)
        config.check_content(config=content_of(written), weights=None if weights is None else sha256_of(weights))
        config.content_sha256 = None
        return config

    def name_modules(self, keys: Iterable[str]) -> None:
        """
        Put the modules that a file has deltas for in place of regular expressions: those of a stranger may run for ever.

        Args:
            keys (`Iterable[str]`): The keys of the file.

        Raises:
            CorruptPatchError: If there is a fingerprint, and it says nothing of one of them.
        """
        found = {key.removeprefix("base_model.model.").rpartition(".")[0] for key in keys if ".slug_" in key}
        known = dict.fromkeys(found) if self.base_fingerprint is None else self.base_fingerprint
        unknown = sorted(found - known.keys())
        if unknown:
            raise CorruptPatchError(
                f"The fingerprint of the base in the patch's config says nothing of {', '.join(unknown)}, which the patch "
                "changes. Nothing was loaded; get it again from its author."
            )
        patterns = (self.target_modules, self.exclude_modules, self.layers_pattern)
        if found and any(isinstance(pattern, str) for pattern in patterns):
            self.target_modules, self.exclude_modules = cast(Any, found), None
            self.layers_to_transform = self.layers_pattern = None

    def check_content(self, **found: Optional[str]) -> None:
        """
        Hold the files of a patch against the hashes that were published with it, if there are any.

        Args:
            found (`str`, *optional*):
                The SHA-256 of `config`, `weights` or `report`; `None` for a file that is missing.

        Raises:
            CorruptPatchError: If one is another.
        """
        known = self.content_sha256 or {}
        wrong = [name for name, sha256 in found.items() if name in known and known[name] != sha256]
        if wrong:
            raise CorruptPatchError(
                f"The patch is not as it was published: the hash of its {' and '.join(wrong)} differs from the one in its "
                "config. It was damaged or edited since. Nothing was changed; get it again from its author."
            )
