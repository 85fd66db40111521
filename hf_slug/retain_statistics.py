# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What unlearning needs of a retain set, computed once for all concepts: the gradient of its loss, and what it feeds each layer."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from . import hub
from .errors import CorruptPatchError, NoSuchFolderError
from .files import MOST_REPORT, StoredTensors, check_file, read_json, write_json, written_aside
from .fingerprint import verify_fingerprint


TENSORS, ABOUT, CARD = "retain_statistics.safetensors", "retain_statistics.json", "README.md"
_MOST_BYTES = 2**36  # gradients and moments of both towers of the largest CLIP in use take some 20 GB
_KEYS = {
    "base_model",
    "base_fingerprint",
    "objective",
    "retain",
    "retain_batch_size",
    "names",
    "same_input",
    "software",
}


class RetainStatistics:
    """
    The statistics of a retain set on one model. Give them to [`unlearn`] as `retain`: then a further concept costs its own gradient alone.

    Args:
        gradients (`Mapping[str, torch.Tensor]`): Of the retain loss, in float32, by canonical module name.
        moments (`Mapping[str, torch.Tensor]`):
            `C = E[x xᵀ]` of each Linear module's inputs, for the whitened direction; none for the plain one.
        about (`dict[str, Any]`): Of which model and data: `base_model`, `base_fingerprint`, `objective`, `retain` (source, number, hash),
            `retain_batch_size`, `names`, `software`.
    """

    def __init__(
        self, gradients: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor], about: Mapping[str, Any]
    ):
        self.gradients, self.moments, self.about = gradients, moments, dict(about)

    def __repr__(self) -> str:
        retain = self.about["retain"]
        return f"RetainStatistics({len(self.gradients)} modules, {retain['n']} pairs of {retain['source']!r})"

    def check(self, weights: Mapping[str, torch.Tensor], whitened: bool, retain_batch_size: int | None = None) -> None:
        """
        Checks that the statistics are those of these weights.

        Args:
            weights (`Mapping[str, torch.Tensor]`): Of the candidates, by canonical module name.
            whitened (`bool`): Whether the moments of Linear modules are needed.
            retain_batch_size (`int`, *optional*): How many pairs are to be contrasted with each other, if that was asked for.

        Raises:
            WrongBaseError: If the weights are others than the statistics were computed on.
            ValueError: If a module is missing, or has no moment where one is needed, or other numbers of pairs were contrasted.
            CorruptPatchError: If a shape is wrong, or the fingerprint of a module is missing.
        """
        missing = [name for name in weights if name not in self.gradients]
        if missing:
            raise ValueError(
                f"The retain statistics hold nothing of {missing[0]} and {len(missing) - 1} others. Compute them for all towers (and "
                f"norms) that are searched."
            )
        bare = [name for name, weight in weights.items() if whitened and weight.ndim == 2 and name not in self.moments]
        if bare:
            raise ValueError(
                f"The retain statistics hold no input moment of {bare[0]} and {len(bare) - 1} others, which direction='whitened' needs. "
                f"Compute them with it, or use direction='gradient'."
            )
        made_with = self.about["retain_batch_size"]
        if retain_batch_size not in (None, made_with):
            raise ValueError(
                f"The retain statistics are of {made_with} pairs contrasted with each other, and retain_batch_size={retain_batch_size} was asked "
                f"for. Leave it out, or compute them again with it."
            )
        name, fingerprint = self.about["base_model"].get("name_or_path"), self.about["base_fingerprint"]
        verify_fingerprint(weights, fingerprint, base_name=name or None, what="file of retain statistics")
        for name, weight in weights.items():
            found = {"gradient": _shape(self.gradients, name)}
            expected = {"gradient": tuple(weight.shape)}
            if whitened and weight.ndim == 2:
                found["moment"], expected["moment"] = _shape(self.moments, name), (weight.shape[1],) * 2
            if found != expected or name not in fingerprint:
                raise CorruptPatchError(
                    f"The retain statistics of {name} are damaged: found shapes {found}, expected {expected}"
                    f"{'' if name in fingerprint else ', and no fingerprint of the weight'}. Compute them again."
                )

    def save_pretrained(self, save_directory: str | Path) -> None:
        """
        Saves the statistics as a folder. Written aside first and moved in: a failure leaves nothing half.

        Args:
            save_directory (`str` or `Path`): The folder; made if it does not exist.
        """
        with written_aside(save_directory, (TENSORS, ABOUT, CARD), "the statistics") as folder:
            self._write(folder)

    def _write(self, folder: Path) -> None:
        tensors = {f"gradient.{name}": value.float().cpu().contiguous() for name, value in self.gradients.items()}
        stored = self.moments.places if isinstance(self.moments, StoredTensors) else None
        first: dict[str | int, str] = {}
        same: dict[str, str] = {}
        for name in self.moments:
            one = first.setdefault(stored[name] if stored is not None else id(self.moments[name]), name)
            if one == name:
                tensors[f"moment.{name}"] = self.moments[name].float().cpu().contiguous()
            else:  # several modules read the same
                same[name] = one
        save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
        write_json(folder / ABOUT, self.about | {"same_input": same})
        (folder / CARD).write_text(self._card(), encoding="utf-8")

    def _card(self) -> str:
        retain, base = self.about["retain"], self.about["base_model"].get("name_or_path") or "a CLIP model"
        return (
            f"---\nlibrary_name: hf-slug\ntags: [slug, unlearning, retain-statistics]\n---\n\n# Retain statistics of {base}\n\n"
            f"The gradient of CLIP's contrastive loss over {retain['n']:,} pairs ({retain['source']}), and the second moment of what they feed "
            f"each layer: what [SLUG](https://arxiv.org/abs/2407.11867) needs of a retain set. With them a concept is unlearned from its own "
            f"pairs alone:\n\n```python\nfrom hf_slug import RetainStatistics, unlearn\n\n"
            f"unlearn(model, processor, forget, RetainStatistics.from_pretrained(…), validation_retain=…, test_retain=…)\n```\n"
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
    ) -> str:
        """
        Publishes the statistics on the Hub, in one commit.

        Args:
            repo_id (`str`): Repository id, `"user/name"`; made if it does not exist.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str` or `bool`, *optional*): Token for the Hub.
            revision (`str`, *optional*): Branch to commit to.

        Returns:
            `str`: The address of the commit.

        Raises:
            HubConnectionError: If the connection breaks. The repository is as it was then.
        """
        with tempfile.TemporaryDirectory() as folder:
            repo_id = hub.find_repository(repo_id, private, token)
            self._write(Path(folder))
            return hub.upload(folder, repo_id, "Upload retain statistics", token, revision=revision)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, **hub_kwargs: Any
    ) -> "RetainStatistics":
        """
        Loads statistics from a local folder (without any network) or from the Hub. Tensors are read when they are needed.

        Args:
            source (`str` or `Path`): A folder, or a repository id of the Hub.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            hub_kwargs (additional keyword arguments, *optional*): As in [`~huggingface_hub.hf_hub_download`].

        Raises:
            CorruptPatchError: If a file is missing, damaged, or holds anything else.
        """
        folder = Path(source)
        if not folder.is_dir():
            if str(source).startswith(("/", ".", "~")):
                raise NoSuchFolderError(str(source), "retain statistics")
            folder = hub.download(str(source), (TENSORS, ABOUT), None, revision, **hub_kwargs)
        missing = [name for name in (TENSORS, ABOUT) if not (folder / name).is_file()]
        if missing:
            raise CorruptPatchError(f"{source} holds no {' and no '.join(missing)}: there are no retain statistics.")
        about = read_json(folder / ABOUT, MOST_REPORT)
        lacking = sorted(_KEYS - about.keys())
        if lacking or not isinstance(about["same_input"], dict):
            raise CorruptPatchError(
                f"{folder / ABOUT} is no description of retain statistics ({', '.join(lacking)} missing)."
            )
        check_file(folder / TENSORS, _MOST_BYTES)
        try:
            same = about.pop("same_input")
            gradients = StoredTensors(folder / TENSORS, "gradient.")
            moments = StoredTensors(folder / TENSORS, "moment.", same)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise CorruptPatchError(f"{folder / TENSORS} can't be read ({error}). Download it again.") from error
        return cls(gradients, moments, about)


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    return tensors.shape(name) if isinstance(tensors, StoredTensors) else tuple(tensors[name].shape)
