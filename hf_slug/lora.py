# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A patch as a standard LoRA, for tools that don't have this package."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig
from safetensors.torch import save_file

from .errors import UnsupportedModelError
from .low_rank import residuals


LoraFormat = Literal["peft", "diffusers", "kohya"]
FORMATS = ("peft", "diffusers", "kohya")
# What other tools call the text encoders of a pipeline.
_KOHYA = {"text_encoder": "lora_te", "text_encoder_1": "lora_te1", "text_encoder_2": "lora_te2"}


@dataclass
class LoraExport:
    """
    The best factors of a patch's delta: `Δ ≈ up·down` (truncated SVD, which no other factors of the rank come nearer than).

    What is lost against the patch: the fingerprint, so any base is accepted; `unload` to the bit and `W' = cast(W + Δ)` in half
    precision, since a LoRA that is fused is rounded twice, and one that is not is added to the layer's output; stacking in any order to
    the bit; and the part of the delta beyond the rank, `residual`.

    Attributes:
        up, down (`dict[str, torch.Tensor]`): By canonical module name, (out, rank) and (rank, in), float32.
        rank (`int`): The rank of all factors.
        residual (`dict[str, float]`): By module, `‖Δ − up·down‖ / ‖Δ‖` as it was before rounding to float32.
        concept (`str`, *optional*): What is forgotten.
        base (`str`, *optional*): The base model.
    """

    up: dict[str, torch.Tensor]
    down: dict[str, torch.Tensor]
    rank: int
    residual: dict[str, float]
    concept: str | None = None
    base: str | None = None

    @property
    def report(self) -> dict[str, Any]:
        """What is written beside the weights."""
        return {"concept": self.concept, "base_model": self.base, "rank": self.rank, "residual": self.residual}

    def tensors(self, format: LoraFormat = "peft", component: str = "text_encoder") -> dict[str, torch.Tensor]:
        """
        Returns the tensors by the keys of a format.

        Args:
            format (`str`, *optional*, defaults to `"peft"`):
                `"peft"` (an adapter of the CLIPModel), `"diffusers"` (for `pipe.load_lora_weights`) or `"kohya"` (A1111, ComfyUI).
            component (`str`, *optional*, defaults to `"text_encoder"`):
                Which text encoder of a pipeline, `"text_encoder_2"` for the second one of SDXL. Not read by `"peft"`.

        Raises:
            ValueError: If there is no such format, or it has no words for such an encoder.
            UnsupportedModelError: If the patch is one of a vision tower, which pipelines don't have.
        """
        if format not in FORMATS:
            raise ValueError(f"Unknown format {format!r}. Expected one of {', '.join(FORMATS)}.")
        if format != "peft" and not all(name.startswith("text_model.encoder.") for name in self.up):
            raise UnsupportedModelError(
                f"The patch changes {', '.join(self.up)}, and {format} LoRAs know the blocks of a text encoder only. Export it with "
                f"format='peft', or load the patch itself."
            )
        if format == "kohya" and component not in _KOHYA:
            raise ValueError(f"Unknown component {component!r} for kohya. Expected one of {', '.join(_KOHYA)}.")
        found: dict[str, torch.Tensor] = {}
        for name, up in self.up.items():
            down = self.down[name]
            if format == "kohya":
                key = f"{_KOHYA[component]}_{name.replace('.', '_')}"
                alpha = torch.tensor(float(self.rank))
                found |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": alpha}
            else:
                key = f"base_model.model.{name}" if format == "peft" else f"{component}.{name}"
                found |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
        return found | (self._signature(component) if format == "kohya" else {})

    def _signature(self, component: str) -> dict[str, torch.Tensor]:
        """
        Diffusers knows kohya's keys of an attention by its output projection, as all of it is trained usually; where that is unchanged,
        factors of zero stand for it: of the same rank, as diffusers mixes up kohya's ranks and alphas where they differ.
        """
        attention = next((name for name in self.up if "self_attn" in name), None)
        if attention is None or any(name.endswith("out_proj") for name in self.up):
            return {}
        block = attention.rpartition(".")[0].replace(".", "_")
        key = f"{_KOHYA[component]}_{block}_out_proj"
        inside, outside = self.up[attention].shape[0], self.down[attention].shape[1]
        return {
            f"{key}.lora_down.weight": torch.zeros(self.rank, inside),
            f"{key}.lora_up.weight": torch.zeros(outside, self.rank),
            f"{key}.alpha": torch.tensor(float(self.rank)),
        }

    def save_pretrained(
        self, save_directory: str | Path, format: LoraFormat = "peft", component: str = "text_encoder"
    ) -> Path:
        """
        Saves it as a folder.

        Args:
            save_directory (`str` or `Path`): The folder; made if it does not exist.
            format, component (`str`, *optional*): As in [`LoraExport.tensors`].

        Returns:
            `Path`: The file of the weights. `lora_report.json` beside it says rank and residual.
        """
        tensors, folder = self.tensors(format, component), Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if format == "peft":
            LoraConfig(
                r=self.rank,
                lora_alpha=self.rank,
                target_modules=sorted(self.up),
                base_model_name_or_path=self.base,
                inference_mode=True,
            ).save_pretrained(str(folder))
        name = "adapter_model.safetensors" if format == "peft" else "pytorch_lora_weights.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name, {"format": "pt"})
        text = json.dumps(self.report | {"format": format}, indent=2)
        (folder / "lora_report.json").write_text(text + "\n", encoding="utf-8")
        return folder / name


def factorize_to(
    deltas: dict[str, torch.Tensor], rank: int | None, tol: float
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], int, dict[str, float]]:
    """
    Finds the factors of several deltas, all of one rank.

    Args:
        deltas (`dict[str, torch.Tensor]`): Dense deltas by module name.
        rank (`int`, *optional*): The rank. Defaults to the smallest that leaves `tol` of every delta at most.
        tol (`float`): The largest residual, relative to the delta's Frobenius norm.

    Returns:
        `tuple`: Up factors, down factors, the rank, and the residual of each delta.

    Raises:
        UnsupportedModelError: If a delta is no matrix.
        ValueError: If the rank or `tol` is none.
    """
    flat = [name for name, delta in deltas.items() if delta.ndim != 2]
    if flat:
        raise UnsupportedModelError(
            f"The patch changes {', '.join(flat)}, which is no matrix: a LoRA can't say that. Load the patch itself."
        )
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ValueError(f"Expected a rank of at least 1, or None, found {rank!r}.")
    if not 0 <= tol < 1:
        raise ValueError(f"Expected 0 <= tol < 1, found {tol!r}.")
    parts = {name: torch.linalg.svd(delta.double(), full_matrices=False) for name, delta in deltas.items()}
    # what is left beyond each rank, from rank 0 on
    rests = {name: residuals(values) for name, (_, values, _) in parts.items()}
    if rank is None:
        rank = max(1, *(int((rest <= tol).nonzero()[0, 0]) for rest in rests.values()))
    ups, downs, residual = {}, {}, {}
    for name, (u, values, vh) in parts.items():
        root = values[:rank].sqrt()
        up, down = u[:, :rank] * root, root[:, None] * vh[:rank]
        short = rank - len(root)  # a matrix may be smaller than the rank of the others
        ups[name] = torch.nn.functional.pad(up, (0, short)).float().contiguous()
        downs[name] = torch.nn.functional.pad(down, (0, 0, 0, short)).float().contiguous()
        residual[name] = float(rests[name][min(rank, len(root))])
    return ups, downs, rank, residual
