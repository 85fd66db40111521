# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The published artefact: one delta, its config, its report and its card, in a folder that PEFT reads."""

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from . import hub
from .arithmetic import compose, expand_factors
from .card import render_card
from .direction import factorize
from .errors import CorruptPatchError, NoSuchFolderError, UnsupportedModelError
from .fingerprint import verify_fingerprint
from .towers import PROJECTION, Tower, resolve_modules
from .tuner import SlugConfig


WEIGHTS, CONFIG, REPORT, CARD = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "unlearning_report.json",
    "README.md",
)
_PREFIX = "base_model.model."
_DENSE, _UP, _DOWN = "slug_delta", "slug_up", "slug_down"


@dataclass
class UnlearningPatch:
    """
    An unlearning patch: `W' = W + weight·Δ` for the modules of one layer.

    Args:
        config ([`SlugConfig`]): Which modules, of which base model, and how the delta was found.
        tensors (`dict[str, torch.Tensor]`):
            What `adapter_model.safetensors` holds, float32, keyed as PEFT does: `base_model.model.{module}.slug_delta` for a
            dense delta, or `.slug_up` (out, rank) and `.slug_down` (rank, in) for its factors. Module names are canonical.
        report (`dict`, *optional*): What `unlearning_report.json` holds.

    Raises:
        CorruptPatchError: If keys, dtypes or values are not those of a patch with this config.
    """

    config: SlugConfig
    tensors: dict[str, torch.Tensor]
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check("The patch")

    @classmethod
    def from_deltas(
        cls, deltas: Mapping[str, torch.Tensor], config: SlugConfig, report: dict[str, Any] | None = None
    ) -> "UnlearningPatch":
        """Makes a patch from dense deltas by canonical module name; with `config.rank`, matrices are stored as factors."""
        tensors = {}
        for name, delta in deltas.items():
            delta = delta.detach().float().cpu().contiguous()
            if config.rank is None or delta.ndim != 2:
                tensors[f"{_PREFIX}{name}.{_DENSE}"] = delta
            else:
                up, down = factorize(delta, config.rank)
                tensors |= {
                    f"{_PREFIX}{name}.{_UP}": up.float().contiguous(),
                    f"{_PREFIX}{name}.{_DOWN}": down.float().contiguous(),
                }
        return cls(config, tensors, report or {})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], config: SlugConfig | None = None) -> "UnlearningPatch":
        """Makes a patch of what `adapter_model.safetensors` holds; without a config nothing is known of its base."""
        if config is None:
            ups = [
                tensor.shape[1:]
                for key, tensor in tensors.items()
                if str(key).endswith(f".{_UP}") and hasattr(tensor, "shape")
            ]
            config = SlugConfig(
                target_modules=sorted({str(key).removeprefix(_PREFIX).rpartition(".")[0] for key in tensors}),
                rank=ups[0].numel() if ups else None,
                inference_mode=True,
            )
        return cls(config, dict(tensors))

    @property
    def modules(self) -> list[str]:
        """Canonical names of the modules that the patch changes, sorted."""
        return sorted({key.removeprefix(_PREFIX).rpartition(".")[0] for key in self.tensors})

    @property
    def deltas(self) -> dict[str, torch.Tensor]:
        """The dense deltas by canonical module name, float32."""
        result = {}
        for name in self.modules:
            dense = self.tensors.get(f"{_PREFIX}{name}.{_DENSE}")
            if dense is None:
                up, down = self.tensors[f"{_PREFIX}{name}.{_UP}"], self.tensors[f"{_PREFIX}{name}.{_DOWN}"]
                dense = expand_factors(up, down, (up.shape[0], down.shape[1]))
            result[name] = dense
        return result

    @property
    def tower(self) -> Tower:
        """The tower that the patch changes."""
        vision = all(name == PROJECTION["vision"] or name.startswith("vision_model.") for name in self.modules)
        return "vision" if vision else "text"

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def save_pretrained(self, save_directory: str | Path) -> None:
        """
        Saves the patch as a folder of four files. Written aside first and moved in: a failure leaves no half a patch.

        Args:
            save_directory (`str` or `Path`): The folder; made if it does not exist.
        """
        target = Path(save_directory)
        if target.is_file():
            raise NotADirectoryError(f"{target} is a file. Give a folder for the patch to be saved in.")
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".patch-") as folder:
            self.config.save_pretrained(folder)
            save_file(self.tensors, Path(folder) / WEIGHTS, metadata={"format": "pt"})
            (Path(folder) / REPORT).write_text(
                json.dumps(self.report, indent=2, allow_nan=False) + "\n", encoding="utf-8"
            )
            (Path(folder) / CARD).write_text(render_card(self.config, self.report), encoding="utf-8")
            for name in (WEIGHTS, CONFIG, REPORT, CARD):
                shutil.move(Path(folder) / name, target / name)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
    ) -> str:
        """
        Publishes the patch on the Hub: its four files in one commit, so that an interrupted push leaves nothing.

        Args:
            repo_id (`str`): Repository id, `"user/name"`; made if it does not exist.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str` or `bool`, *optional*): Token for the Hub.
            commit_message (`str`, *optional*): Defaults to one that names the concept.
            create_pr (`bool`, *optional*, defaults to `False`): Open a pull request instead of committing.
            revision (`str`, *optional*): Branch to commit to.

        Returns:
            `str`: The commit's address.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            message = commit_message or f"Upload an unlearning patch for {self.config.concept!r}"
            return hub.upload(folder, repo_id, message, private, token, create_pr, revision)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, subfolder: str | None = None, revision: str | None = None, **hub_kwargs: Any
    ) -> "UnlearningPatch":
        """
        Loads a patch from a local folder (without any network) or from the Hub.

        Args:
            source (`str` or `Path`): A folder, a `.safetensors` file of a patch, or a repository id of the Hub.
            subfolder (`str`, *optional*): A folder inside it.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            hub_kwargs (additional keyword arguments, *optional*):
                `token`, `cache_dir`, `force_download`, `local_files_only`: as in [`~huggingface_hub.hf_hub_download`].

        Raises:
            CorruptPatchError: If a file is missing, damaged, or holds anything but a patch.
        """
        if Path(source).is_file():
            return cls._from_file(Path(source))
        folder = Path(source) / (subfolder or "")
        if not Path(source).is_dir():
            if str(source).startswith(("/", ".", "~")):
                raise NoSuchFolderError(str(source), "a patch")
            folder = hub.download(str(source), (WEIGHTS, CONFIG, REPORT, CARD), subfolder, revision, **hub_kwargs)
        if not (folder / WEIGHTS).is_file():
            pickles = [
                path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")
            ]
            found = f"only {', '.join(pickles)}, which may run code when read" if pickles else "no such file"
            raise CorruptPatchError(f"{folder} holds {found}. A patch is loaded from {WEIGHTS} alone.")
        config = _read_config(folder)
        tensors = _read_tensors(folder / WEIGHTS)
        report = {}
        if (folder / REPORT).is_file():
            try:
                report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            except ValueError as error:
                raise CorruptPatchError(f"{folder / REPORT} is not valid JSON ({error}).") from error
            if not isinstance(report, dict):
                raise CorruptPatchError(f"{folder / REPORT} holds a {type(report).__name__}, not a report.")
        return cls(config, tensors, report)

    @classmethod
    def _from_file(cls, file: Path) -> "UnlearningPatch":
        if file.suffix != ".safetensors":
            raise CorruptPatchError(f"{file} is not a .safetensors file. A patch is loaded from {WEIGHTS} alone.")
        if (file.parent / CONFIG).is_file() and file.name == WEIGHTS:
            return cls.from_pretrained(file.parent)
        return cls.from_tensors(_read_tensors(file))

    def new_weights(self, model: nn.Module, weight: float = 1.0, strict: bool = True) -> dict[str, torch.Tensor]:
        """
        Computes the weights that the patch would give a model, which is left as it is.

        Args:
            model (`nn.Module`): A `CLIPModel`, or a model of the patch's tower.
            weight (`float`, *optional*, defaults to 1.0): How much of the patch; 1.0 is the searched step.
            strict (`bool`, *optional*, defaults to `True`): Refuse a base whose weights are not those of the fingerprint.

        Returns:
            `dict[str, torch.Tensor]`: New weights by the live module's path, in the model's dtype.

        Raises:
            UnsupportedModelError: If the model lacks one of the modules.
            WrongBaseError: If the weights are not those the patch was computed from.
        """
        live = resolve_modules(model, self.modules)
        missing = [name for name in self.modules if name not in live]
        if missing:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no {', '.join(missing)}, which the patch changes."
            )
        originals = {n: cast(torch.Tensor, model.get_submodule(live[n]).weight).detach() for n in self.modules}
        if strict and self.config.base_fingerprint:
            verify_fingerprint(originals, self.config.base_fingerprint, base_name=self.config.base_model_name_or_path)
        return {
            live[n]: compose(originals[n], {"patch": delta}, {"patch": weight}) for n, delta in self.deltas.items()
        }

    def to_peft(self, model: nn.Module, adapter_name: str = "default") -> PeftModel:
        """Attaches the patch to a model in memory, as [`~peft.PeftModel.from_pretrained`] does from a folder."""
        # PEFT writes the live model's name into the config it is given
        peft_model = get_peft_model(model, copy.deepcopy(self.config), adapter_name=adapter_name)
        set_peft_model_state_dict(peft_model, self.tensors, adapter_name=adapter_name)
        peft_model.eval()
        return peft_model

    def _check(self, what: str) -> None:
        parts: dict[str, set[str]] = {}
        for key, tensor in self.tensors.items():
            name, _, part = str(key).removeprefix(_PREFIX).rpartition(".")
            if not str(key).startswith(_PREFIX) or part not in (_DENSE, _UP, _DOWN):
                raise CorruptPatchError(f"{what} holds the unknown key {key!r}. Expected {_PREFIX}<module>.{_DENSE}.")
            is_float = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
            # a finite sum has finite terms, and is found much sooner
            if not is_float or not (tensor.sum().isfinite() or torch.isfinite(tensor).all()):
                raise CorruptPatchError(f"{what} holds NaN or infinite values, or no floating-point ones, at {key!r}.")
            parts.setdefault(name, set()).add(part)
        wanted = self.config.target_modules
        if not parts or (isinstance(wanted, (set, list)) and set(parts) != set(wanted)):
            expected = ", ".join(sorted(wanted)) if isinstance(wanted, (set, list)) else str(wanted)
            raise CorruptPatchError(
                f"{what} holds deltas for {', '.join(sorted(parts)) or 'nothing'}; its config names {expected}."
            )
        for name, found in parts.items():
            if found not in ({_DENSE}, {_UP, _DOWN}):
                raise CorruptPatchError(
                    f"{what} holds {', '.join(sorted(found))} for {name}: expected {_DENSE}, or both factors."
                )
            if _UP in found:
                up, down = (self.tensors[f"{_PREFIX}{name}.{part}"] for part in (_UP, _DOWN))
                if not up.shape[1:] == down.shape[:1] == (self.config.rank,):
                    raise CorruptPatchError(
                        f"{what} holds factors of shape {tuple(up.shape)} and {tuple(down.shape)} for {name}; its config says "
                        f"rank {self.config.rank}."
                    )


def _read_config(folder: Path) -> SlugConfig:
    config = SlugConfig.from_pretrained(str(folder))
    if not isinstance(config, SlugConfig):
        raise CorruptPatchError(f"{folder} holds a {config.peft_type} adapter, not an unlearning patch (SLUG).")
    return config


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except Exception as error:
        raise CorruptPatchError(f"{file} can't be read ({error}). Save or download it again.") from error
