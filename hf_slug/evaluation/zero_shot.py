# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Zero-shot classification over a list of names: the default evaluator, and the cheap one."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..data import Pairs
from ..embedding import embed
from ..inputs import embed_images, text_batch
from ..losses import normalize
from ..names import DEFAULT_TEMPLATE, check_templates, label, say
from ..replay import Recording, record_below, run_above
from ..towers import Layer


if TYPE_CHECKING:
    from .prepared import PreparedZeroShot

Metrics = dict[str, float]
_SMALL_LABEL_SPACE = 50  # below so many names, forgotten means FA@1


class ZeroShotEvaluator:
    """
    Classifies images among names, as CLIP does: by the cosine with the mean embedding of each name's prompts.

    Metrics, in [0, 1]: `fa1` and `fa5`, the share of forget images whose one or five best names include the concept;
    `ta`, top-1 accuracy on the retain images, macro-averaged over names so that many objects don't outvote few faces; and
    `ta_neighbors`, the same over the names that the text tower finds most like the concept. Scores that are not finite
    count as not forgotten and not retained.

    Args:
        processor (`CLIPProcessor`): The model's processor.
        forget (`Pairs`): Images of the concept (their texts are not read).
        retain (`Pairs`): Images of the other names. Those of the concept itself, if any, are left out.
        concept (`str`): The concept's name; added to the names if it is not among them.
        names (`Sequence[str]` or `Mapping[str, Sequence[str]]`):
            What an image is classified among; a mapping gives prompts of their own to each.
        templates (`str` or `Sequence[str]`, *optional*, defaults to `"a photo of {}"`): How a name is said.
        k (`int`, *optional*): 1 or 5, which FA the search goes by. Defaults to 5, or 1 where there are under 50 names.
        batch_size (`int`, *optional*, defaults to 64): Images per forward pass.
        seen (`Pairs`, *optional*):
            More images of the concept, such as those of the gradient. They don't count in FA, but a search also goes by the `risk`
            that a further image is still recognised ([`estimate_risk`]), and few images of `forget` say little about that. To a
            layer of the text tower any image is as good; of a changed vision tower those of the gradient would say too much good.

    Raises:
        UnknownNameError: If a retain image's class is not among the names.
    """

    greater_is_better = False

    def __init__(
        self,
        processor: Any,
        forget: Pairs,
        retain: Pairs,
        concept: str,
        names: Sequence[str] | Mapping[str, Sequence[str]],
        templates: str | Sequence[str] = DEFAULT_TEMPLATE,
        k: int | None = None,
        batch_size: int = 64,
        seen: Pairs | None = None,
    ):
        if k not in (None, 1, 5):
            raise ValueError(f"Expected k (--fa-at) 1 or 5, found {k}.")
        self.processor, self.batch_size = processor, batch_size
        self.templates = check_templates(templates)
        known = {name.casefold() for name in names}
        if len(known) < len(names):
            twice = sorted(name for name in names if sum(name.casefold() == other.casefold() for other in names) > 1)
            raise ValueError(f"Names may differ in more than case only; found {', '.join(map(repr, twice[:6]))}.")
        self.names = [*names, *([] if concept.casefold() in known else [concept])]
        self.concept = [name.casefold() for name in self.names].index(concept.casefold())
        labels = label(retain, self.names, self.templates, "retain set")
        kept = [i for i, own in enumerate(labels) if own != self.concept]
        self.forget, self.retain, self.given_retain = forget, retain.subset(kept), retain
        self.seen = forget.subset([]) if seen is None else seen
        self.n_forget, self.n_retain = len(self.forget), len(self.retain)
        self.labels = torch.tensor([labels[i] for i in kept], dtype=torch.long)
        self.k = k or (1 if len(self.names) < _SMALL_LABEL_SPACE else 5)
        self.primary_metric = f"fa{self.k}"
        prompts = names if isinstance(names, Mapping) else {}
        self._prompts = [list(prompts.get(name) or say(name, self.templates)) for name in self.names]

    def __call__(self, model: PreTrainedModel) -> Metrics:
        """Measures the model as it is."""
        return self.measure(model)

    def measure(self, model: PreTrainedModel, neighbors: Sequence[int] | None = None) -> Metrics:
        """Measures the model as it is; `ta_neighbors` over given names, e.g. those that were near before a change."""
        classes = self.embed_names(model)
        forget = embed_images(model, self.processor, self.forget, self.batch_size, "forget accuracy")
        retain = embed_images(model, self.processor, self.retain, self.batch_size, "retained accuracy")
        near = self.neighbors(classes) if neighbors is None else neighbors
        return self.forgotten(forget, classes) | self.retained(retain, classes, near)

    def find_neighbors(self, model: PreTrainedModel) -> list[int]:
        """Returns the names (their indices) most like the concept to the model as it is."""
        return self.neighbors(self.embed_names(model))

    def embed_concept(self, model: PreTrainedModel, known: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Returns the embeddings of the concept's images, those of `forget` (unless they are known) before those of `seen`: (images, d)."""
        parts = [part for part in ((self.seen,) if known else (self.forget, self.seen)) if len(part)]
        return torch.cat([*known, *(embed_images(model, self.processor, part, self.batch_size) for part in parts)])

    def embed_names(self, model: PreTrainedModel) -> torch.Tensor:
        """Returns the mean embedding of each name's prompts: (names, d), unit rows."""
        return self._classes(model, None)

    def prepare(self, model: PreTrainedModel) -> "PreparedZeroShot":
        """Embeds once, at the original weights, what a change of one layer can't change."""
        from .prepared import PreparedZeroShot

        return PreparedZeroShot(self, model)

    def forgotten(self, images: torch.Tensor, classes: torch.Tensor) -> Metrics:
        """Returns `fa1` and `fa5` of embedded forget images."""
        scores = normalize(images) @ classes.T
        if not torch.isfinite(scores).all():
            return {"fa1": 1.0, "fa5": 1.0}
        rank = (scores > scores[:, self.concept, None]).sum(1)
        return {f"fa{k}": float((rank < k).double().mean()) for k in (1, 5)}

    def margins(self, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Returns how far the concept is from being among the k best names of each embedded image: (images,)."""
        scores = normalize(images) @ classes.T
        others = scores[:, [i for i in range(len(self.names)) if i != self.concept]]
        if others.shape[1] < self.k:
            return scores.new_full((len(scores),), -torch.inf)
        return others.topk(self.k, 1).values[:, -1] - scores[:, self.concept]

    def retained(self, images: torch.Tensor, classes: torch.Tensor, neighbors: Sequence[int]) -> Metrics:
        """Returns `ta` and `ta_neighbors` of embedded retain images."""
        by_name = self.accuracies(images, classes)
        near = [by_name[own] for own in neighbors if own in by_name]
        ta = sum(by_name.values()) / len(by_name)
        return {"ta": ta, "ta_neighbors": sum(near) / len(near) if near else ta}

    def divergence(
        self, before: tuple[torch.Tensor, torch.Tensor], after: tuple[torch.Tensor, torch.Tensor], scale: float
    ) -> float:
        """
        How far a change moves what retain images are taken for: `KL(before ‖ after)` over the names but the concept, macro-averaged.

        Where two changes keep as many images right, the smaller one is further from doing damage, alone or beside other patches.

        Args:
            before, after (`tuple[torch.Tensor, torch.Tensor]`): Embedded retain images (n, d), and names (names, d).
            scale (`float`): The model's temperature, `exp(logit_scale)`.

        Returns:
            `float`: In nats; infinite where scores are not finite.
        """
        others = [i for i in range(len(self.names)) if i != self.concept]
        old, new = (
            F.log_softmax(scale * normalize(images) @ classes[others].T, 1) for images, classes in (before, after)
        )
        moved = F.kl_div(new, old, reduction="none", log_target=True).sum(1).cpu()
        by_name = [moved[self.labels == own].mean() for own in self.labels.unique()]
        found = max(float(torch.stack(by_name).mean()), 0.0)
        # sums of exponentials differ by their last bits from one run to the next
        return float(f"{found:.9g}") if math.isfinite(found) else math.inf

    def accuracies(self, images: torch.Tensor, classes: torch.Tensor, struck: Sequence[int] = ()) -> dict[int, float]:
        """Returns the accuracy of embedded retain images by name (its index), some names struck; 0 where scores are not finite."""
        scores = normalize(images) @ classes.T
        finite = bool(torch.isfinite(scores).all())
        scores[:, list(struck)] = -torch.inf
        right = (scores.argmax(1).cpu() == self.labels).double() * float(finite)
        return {int(own): float(right[self.labels == own].mean()) for own in self.labels.unique()}

    def neighbors(self, classes: torch.Tensor, count: int = 5) -> list[int]:
        """Returns the names (their indices) most like the concept to the text tower."""
        order = (classes @ classes[self.concept]).argsort(descending=True).tolist()
        return [i for i in order if i != self.concept][:count]

    def _classes(self, model: PreTrainedModel, change: tuple[Layer, list[Recording]] | None) -> torch.Tensor:
        """Embeds the names: (names, d), unit rows. With a changed text layer, only what lies above it is run."""
        if change is None:
            with torch.no_grad():
                said = torch.cat([embed(model, "text", batch) for batch in self._prompt_batches(model)])
        else:
            said = torch.cat([run_above(model, change[0], recording) for recording in change[1]])
        parts = normalize(said).split([len(prompts) for prompts in self._prompts])
        return normalize(torch.stack([part.mean(0) for part in parts]))

    def _prompt_batches(self, model: PreTrainedModel) -> list[dict[str, torch.Tensor]]:
        prompts = self.prompts
        return [text_batch(model, self.processor, prompts[i : i + 256]) for i in range(0, len(prompts), 256)]

    @property
    def prompts(self) -> list[str]:
        """The prompts of all names."""
        return [prompt for prompts in self._prompts for prompt in prompts]

    def record_classes(self, model: PreTrainedModel, layer: Layer) -> list[Recording]:
        """Records what lies below a text layer for the prompts of all names."""
        return [record_below(model, [layer], batch)[1][0] for batch in self._prompt_batches(model)]
