# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Patches as a technique of `eval-unlearn`, a third party's collection of metrics of and attacks on unlearned pipelines.

The entry point `slug` in the group `eval_unlearn.techniques` is all that eval-unlearn needs to find it; nothing of eval-unlearn is
imported here. Its runners ask no more of a technique than to be made from a config's keys and to generate pictures.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from PIL import Image

from .evaluation import generate
from .hosts import get_active_unlearning, load_unlearning
from .loading import load_host


@dataclass(frozen=True)
class SlugTechniqueConfig:
    """
    Which patches on which pipeline.

    Args:
        patch (`str` or `Sequence[str]`): Folders, files or Hub ids of unlearning patches; several are stacked.
        weight (`float` or `Sequence[float]`, *optional*, defaults to 1.0): How much of them: one for all, or one each.
        patch_revision (`str` or `Sequence[str]`, *optional*): Branch, tag or commit of the patches on the Hub.
        subfolder (`str` or `Sequence[str]`, *optional*): A folder inside the source of each.
        model_id (`str`, *optional*, defaults to `"CompVis/stable-diffusion-v1-4"`):
            Folder or Hub id of the pipeline. The default is that of eval-unlearn's own techniques.
        revision (`str`, *optional*, defaults to `"main"`): Revision of the pipeline on the Hub.
        strict (`bool`, *optional*, defaults to `True`): Refuse a pipeline with other weights than a patch was made from.
        device (`str`, *optional*): Defaults to what accelerate finds.
        dtype (`str`, *optional*): `"float32"`, `"bfloat16"` or `"float16"`. Defaults to float16 on a GPU, float32 elsewhere.
        num_inference_steps (`int`, *optional*, defaults to 50): Denoising steps.
        guidance_scale (`float`, *optional*, defaults to 7.5): Classifier-free guidance.
        batch_size (`int`, *optional*, defaults to 4): Pictures made together.
        seed (`int`, *optional*):
            The n-th picture that is asked for without a seed starts from the noise of `seed` + n: eval-unlearn's command line gives none.
            Defaults to chance.
        erase_concept (`str`, *optional*): What eval-unlearn's reports call the concept. Its metric `err` demands `"nudity"`.

    Raises:
        ValueError: If there is no patch, or not one weight, revision or subfolder for each.
    """

    patch: str | Sequence[str]
    weight: float | Sequence[float] = 1.0
    patch_revision: str | Sequence[str] | None = None
    subfolder: str | Sequence[str] | None = None
    model_id: str = "CompVis/stable-diffusion-v1-4"
    revision: str = "main"
    strict: bool = True
    device: str | None = None
    dtype: str | None = None
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    batch_size: int = 4
    seed: int | None = None
    erase_concept: str | None = None

    def __post_init__(self) -> None:
        if not self.patch or not all(isinstance(one, str) and one for one in self.sources):
            raise ValueError(
                f"Expected `patch`, the folder or Hub id of a patch or a list of them, found {self.patch!r}."
            )
        for name in ("weight", "patch_revision", "subfolder"):
            self._each(name)
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f"Unknown dtype {self.dtype!r}. Expected 'float32', 'bfloat16' or 'float16'.")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "SlugTechniqueConfig":
        """
        Makes a config from the keys of a config file.

        Raises:
            ValueError: If a key is unknown or `patch` is missing. A misspelt `weight` would silently be the whole step.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown or "patch" not in data:
            problem = f"knows no {', '.join(map(repr, unknown))}" if unknown else "needs 'patch'"
            raise ValueError(f"The technique 'slug' {problem}. Its keys are: {', '.join(known)}.")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as a plain dictionary, for a report."""
        return asdict(self)

    @property
    def sources(self) -> list[str]:
        """The patches, one or several."""
        return [self.patch] if isinstance(self.patch, str) else list(self.patch)

    def loads(self) -> list[dict[str, Any]]:
        """Returns the arguments of [`load_unlearning`] for each patch."""
        each = (self.sources, self._each("weight"), self._each("patch_revision"), self._each("subfolder"))
        return [
            {"source": source, "weight": weight, "revision": revision, "subfolder": subfolder, "strict": self.strict}
            for source, weight, revision, subfolder in zip(*each, strict=True)
        ]

    def _each(self, name: str) -> list[Any]:
        value, n = getattr(self, name), len(self.sources)
        if value is None or isinstance(value, (str, int, float)):
            return [value] * n
        if len(value) != n:
            raise ValueError(f"Found {len(value)} of `{name}` for {n} patches. Give one for all, or one each.")
        return list(value)


class SlugTechnique:
    """
    A pipeline with unlearning patches on it, as eval-unlearn's runners use it.

    Args:
        config (additional keyword arguments): The fields of [`SlugTechniqueConfig`].

    Raises:
        ValueError: If the config is not one, or a patch does not fit the pipeline.

    Example:

        ```py
        >>> from eval_unlearn.runners import SingleBenchmarkRunner

        >>> technique = {"patch": "user/forget-mickey", "erase_concept": "Mickey Mouse"}
        >>> metric = {"target_prompts_path": "mickey.csv", "retain_prompts_path": "minnie.csv"}
        >>> SingleBenchmarkRunner("slug", "ua_ira", technique, metric, seed=0).run()
        ```
    """

    def __init__(self, **config: Any):
        self.config = SlugTechniqueConfig.from_dict(config)
        dtype = self.config.dtype or ("float16" if _on_gpu(self.config.device) else "float32")
        self.pipe, _ = load_host(
            "stable-diffusion", self.config.model_id, dtype, self.config.device, self.config.revision
        )
        # what it blackens would count as forgotten; eval-unlearn's own `free_run` turns it off, too
        if getattr(self.pipe, "safety_checker", None) is not None:
            self.pipe.safety_checker = None
            self.pipe.register_to_config(requires_safety_checker=False)
        for arguments in self.config.loads():
            load_unlearning(self.pipe, **arguments)
        self._made = 0

    @property
    def adapters(self) -> list[str]:
        """The names of the patches that are on."""
        return get_active_unlearning(self.pipe)

    def generate(self, prompts: Sequence[str], seed: int | None = None, **kwargs: Any) -> list[Image.Image]:
        """
        Makes a picture of each prompt.

        Args:
            prompts (`Sequence[str]`): The prompts.
            seed (`int`, *optional*):
                Picture i starts from the noise of seed + i, on every device. Defaults to the config's `seed`, on from the pictures that
                were made by it, or else to chance.
            kwargs (additional keyword arguments, *optional*): Passed on to the pipeline, e.g. `num_inference_steps`.

        Returns:
            `list[Image.Image]`: In the order of the prompts.
        """
        if seed is not None:
            first = seed
        elif self.config.seed is not None:
            first = self.config.seed + self._made
            self._made += len(prompts)
        else:
            first = int(torch.randint(2**31, ()))
        settings = {
            "num_inference_steps": self.config.num_inference_steps,
            "guidance_scale": self.config.guidance_scale,
            **kwargs,
        }
        wanted = [(prompt, i) for i, prompt in enumerate(prompts)]
        return generate(self.pipe, wanted, first, self.config.batch_size, **settings)


def _on_gpu(device: str | None) -> bool:
    return torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
