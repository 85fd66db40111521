# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The published artefact: one delta, its config, its report and its card, in a folder that PEFT reads."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging

from . import hub
from .arithmetic import compose, expand_factors
from .card import render_card
from .errors import CorruptPatchError, MissingDependencyError, NoSuchFolderError, UnsupportedModelError
from .files import read_json, read_tensors, sha256_of, sha256_of_fields, write_json, written_aside
from .fingerprint import verify_fingerprint
from .lora import LoraExport, factorize_to
from .low_rank import factorize
from .patch_files import (
    CARD,
    CONFIG,
    DENSE,
    DOWN,
    PREFIX,
    REPORT,
    UP,
    WEIGHTS,
    check_contents,
    read_folder,
    understood,
)
from .towers import PROJECTION, Tower, resolve_modules
from .tuner import SlugConfig, SlugModel
from .tuner.config import content_of


logger = logging.get_logger(__name__)


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
        check_contents(self.config, self.tensors)

    @classmethod
    def from_deltas(
        cls, deltas: Mapping[str, torch.Tensor], config: SlugConfig, report: dict[str, Any] | None = None
    ) -> "UnlearningPatch":
        """Makes a patch from dense deltas by canonical module name; with `config.rank`, matrices are stored as factors."""
        tensors = {}
        for name, delta in deltas.items():
            delta = delta.detach().float().cpu().contiguous()
            if config.rank is None or delta.ndim != 2:
                tensors[f"{PREFIX}{name}.{DENSE}"] = delta
            else:
                up, down = factorize(delta, config.rank)
                tensors |= {
                    f"{PREFIX}{name}.{UP}": up.float().contiguous(),
                    f"{PREFIX}{name}.{DOWN}": down.float().contiguous(),
                }
        return cls(config, tensors, report or {})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], config: SlugConfig | None = None) -> "UnlearningPatch":
        """Makes a patch of what `adapter_model.safetensors` holds; without a config nothing is known of its base."""
        if config is None:
            ups = [
                tensor.shape[1:]
                for key, tensor in tensors.items()
                if str(key).endswith(f".{UP}") and hasattr(tensor, "shape")
            ]
            config = SlugConfig(
                target_modules=sorted({str(key).removeprefix(PREFIX).rpartition(".")[0] for key in tensors}),
                rank=ups[0].numel() if ups else None,
                inference_mode=True,
            )
        return cls(config, dict(tensors))

    @classmethod
    def from_peft(cls, model: PeftModel | SlugModel, adapter_name: str | None = None) -> "UnlearningPatch":
        """
        Takes a patch from a model that PEFT has put it on; its report, which PEFT does not keep, is empty.

        Args:
            model (`PeftModel` or [`SlugModel`]): The model.
            adapter_name (`str`, *optional*): Which adapter. May be left out where one is active.

        Raises:
            ValueError: If there is no such adapter, or several are active.
        """
        tuner = model.base_model if isinstance(model, PeftModel) else model
        if not isinstance(tuner, SlugModel):
            raise ValueError(f"Expected a model with unlearning patches, found adapters of {type(tuner).__name__}.")
        name = adapter_name if adapter_name is not None else ", ".join(tuner.active_adapters)
        if name not in tuner.peft_config:
            raise ValueError(f"There is no one adapter {name!r}. Name one of {', '.join(tuner.peft_config)}.")
        config = copy.deepcopy(tuner.peft_config[name])
        config.inference_mode = True
        return cls(config, {key: tensor.cpu().clone() for key, tensor in tuner.adapter_tensors(name).items()})

    @property
    def modules(self) -> list[str]:
        """Canonical names of the modules that the patch changes, sorted."""
        return sorted({key.removeprefix(PREFIX).rpartition(".")[0] for key in self.tensors})

    @property
    def deltas(self) -> dict[str, torch.Tensor]:
        """The dense deltas by canonical module name, float32."""
        result = {}
        for name in self.modules:
            dense = self.tensors.get(f"{PREFIX}{name}.{DENSE}")
            if dense is None:
                up, down = self.tensors[f"{PREFIX}{name}.{UP}"], self.tensors[f"{PREFIX}{name}.{DOWN}"]
                dense = expand_factors(up, down, (up.shape[0], down.shape[1]))
            result[name] = dense
        return result

    @property
    def modules_by_tower(self) -> dict[Tower, list[str]]:
        """Canonical names of the modules that the patch changes by their tower; a patch that was composed may change both."""
        found: dict[Tower, list[str]] = {}
        for name in self.modules:
            is_vision = name == PROJECTION["vision"] or name.startswith("vision_model.")
            found.setdefault("vision" if is_vision else "text", []).append(name)
        return found

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def save_pretrained(self, save_directory: str | Path, plots: Sequence[str] = ()) -> None:
        """
        Saves the patch as a folder of four files. Written aside first and moved in: a failure leaves no half a patch.

        Args:
            save_directory (`str` or `Path`): The folder; made if it does not exist.
            plots (`Sequence[str]`, *optional*): File names of pictures that lie in the folder and belong on the card.
        """
        with written_aside(save_directory, (WEIGHTS, CONFIG, REPORT, CARD), "the patch") as folder:
            self._write(folder, source=str(save_directory), plots=plots)

    def _write(self, folder: Path, **card: Any) -> None:
        self.config.save_pretrained(str(folder))
        save_file(self.tensors, folder / WEIGHTS, metadata={"format": "pt"})
        write_json(folder / REPORT, self.report)
        fields = read_json(folder / CONFIG)
        # not of the card, which people edit on the Hub
        fields["content_sha256"] = {
            "weights": sha256_of(folder / WEIGHTS),
            "report": sha256_of_fields(self.report),
            "config": content_of(fields),
        }
        write_json(folder / CONFIG, fields)
        deltas = self.deltas
        shapes = {name: tuple(delta.shape) for name, delta in deltas.items()}
        norms = {name: float(delta.double().norm()) for name, delta in deltas.items()}
        with understood(self.report):
            text = render_card(self.config, self.report, shapes=shapes, norms=norms, **card)
        (folder / CARD).write_text(text, encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        license: str | None = None,
    ) -> str:
        """
        Publishes the patch on the Hub: its four files in one commit, so that an interrupted push leaves nothing. Where matplotlib
        (extra `plots`) is installed and there is a report, its pictures are on the card.

        Args:
            repo_id (`str`): Repository id, `"user/name"`; made if it does not exist.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str` or `bool`, *optional*): Token for the Hub.
            commit_message (`str`, *optional*): Defaults to one that names the concept.
            create_pr (`bool`, *optional*, defaults to `False`): Open a pull request instead of committing.
            revision (`str`, *optional*): Branch to commit to.
            subfolder (`str`, *optional*): A folder of the repository, where that holds several patches.
            license (`str`, *optional*): The licence of the delta, by an identifier that the Hub knows, e.g. `"apache-2.0"`.

        Returns:
            `str`: The address of the commit, or of the pull request.

        Raises:
            HubConnectionError: If the connection breaks. The repository is as it was then.
        """
        with tempfile.TemporaryDirectory() as folder:
            # before the whole name is known: where no owner is named it is one's own
            hub.check_subfolder(subfolder)
            repo_id = hub.find_repository(repo_id, private, token)
            plots = draw_plots(self.report, Path(folder))
            self._write(Path(folder), source=repo_id, subfolder=subfolder, licence=license, plots=plots)
            message = commit_message or f"Upload an unlearning patch for {self.config.concept!r}"
            return hub.upload(folder, repo_id, message, token, create_pr, revision, subfolder)

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
        if Path(source).is_dir():
            return cls(*read_folder(Path(source) / (subfolder or "")))
        if str(source).startswith(("/", ".", "~")):
            raise NoSuchFolderError(str(source), "a patch")
        files = (WEIGHTS, CONFIG, REPORT, CARD)
        folder = hub.download(str(source), files, subfolder, revision, **hub_kwargs)
        if not (folder / WEIGHTS).exists():
            where = "".join(
                f", {what} {value!r}" for what, value in (("revision", revision), ("folder", subfolder)) if value
            )
            raise CorruptPatchError(
                f"{source}{where} holds no {WEIGHTS}: there is no patch, or it is not in the cache."
            )
        try:
            return cls(*read_folder(folder))
        except ValueError:
            if not hub.is_offline(hub_kwargs.get("local_files_only", False)):
                hub.discard(folder / name for name in files)  # or it would be found in the cache for ever
            raise

    @classmethod
    def _from_file(cls, file: Path) -> "UnlearningPatch":
        if file.suffix != ".safetensors":
            raise CorruptPatchError(f"{file} is not a .safetensors file. A patch is loaded from {WEIGHTS} alone.")
        if (file.parent / CONFIG).is_file() and file.name == WEIGHTS:
            return cls.from_pretrained(file.parent)
        return cls.from_tensors(read_tensors(file))

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

    def to_lora(self, rank: int | None = None, tol: float = 1e-4) -> LoraExport:
        """
        Turns the patch into a standard LoRA, which tools without this package can load: `Δ ≈ up·down`.

        Args:
            rank (`int`, *optional*): The rank. Defaults to the smallest that leaves `tol` of every delta at most.
            tol (`float`, *optional*, defaults to 1e-4): The largest `‖Δ − up·down‖ / ‖Δ‖`; with `rank`, beyond it there is a warning.

        Returns:
            [`LoraExport`]: With the rank, the residual, and `save_pretrained(folder, format="peft" | "diffusers" | "kohya")`.

        Raises:
            UnsupportedModelError: If the patch changes anything but matrices.
        """
        ups, downs, rank, residual = factorize_to(self.deltas, rank, tol)
        if max(residual.values()) > tol:
            logger.warning(
                f"Rank {rank} leaves {max(residual.values()):.2%} of the delta out (tol={tol:g}): the concept may come back. Without "
                f"`rank` the smallest sufficient one is taken."
            )
        return LoraExport(ups, downs, rank, residual, self.config.concept, self.config.base_model_name_or_path)


def draw_plots(report: dict[str, Any], folder: Path) -> list[str]:
    """Draws the pictures of a report into a folder, where there is a report and matplotlib is installed; returns their names."""
    from . import plots

    try:
        return [path.name for path in plots.save_plots(report, folder)] if "layers" in report else []
    except MissingDependencyError:
        return []
