# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Zero-shot classification over a list of names: the default evaluator, and the cheap one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ..data import Pairs
from ..inputs import embed_images, image_batches, text_batch
from ..losses import normalize
from ..names import DEFAULT_TEMPLATE, check_templates, label, say
from ..replay import Recording, changed_weights, record_below, run_above
from ..towers import Layer, embed
from .risk import estimate_risk


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

    def embed_concept(self, model: PreTrainedModel) -> torch.Tensor:
        """Returns the embeddings of the concept's images, those of `forget` before those of `seen`: (images, d)."""
        parts = [part for part in (self.forget, self.seen) if len(part)]
        return torch.cat([embed_images(model, self.processor, part, self.batch_size) for part in parts])

    def embed_names(self, model: PreTrainedModel) -> torch.Tensor:
        """Returns the mean embedding of each name's prompts: (names, d), unit rows."""
        return self._classes(model, None)

    def prepare(self, model: PreTrainedModel) -> "PreparedZeroShot":
        """Embeds once, at the original weights, what a change of one layer can't change."""
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


class PreparedZeroShot:
    """
    A [`ZeroShotEvaluator`] for one model and many small changes: runs only what lies above the changed layer.

    Args:
        evaluator (`ZeroShotEvaluator`): The evaluator.
        model (`CLIPModel`): The model, at its original weights.
    """

    def __init__(self, evaluator: ZeroShotEvaluator, model: PreTrainedModel):
        self.evaluator, self.model = evaluator, model
        self.classes = evaluator.embed_names(model)
        self.near = evaluator.neighbors(self.classes)
        self._images: torch.Tensor | None = None

    def probe(self, layer: Layer) -> Callable[[Mapping[str, torch.Tensor]], Metrics]:
        """
        Returns a function, quick to call again and again, from weights of `layer` to `fa1`, `fa5`, `risk`, and `risk_n`, the number of
        images that the risk rests on.
        """
        evaluator, model = self.evaluator, self.model
        looked_at = [evaluator.forget] if layer.tower == "vision" else [evaluator.forget, evaluator.seen]
        batches = (
            batch
            for pairs in looked_at
            for batch in image_batches(model, evaluator.processor, pairs, evaluator.batch_size)
        )

        def score(images: torch.Tensor, classes: torch.Tensor) -> Metrics:
            risk = estimate_risk(evaluator.margins(images, classes))
            found = evaluator.forgotten(images[: evaluator.n_forget], classes)
            return found | {"risk": risk, "risk_n": len(images)}

        if layer.tower == "vision":
            recordings = [record_below(model, [layer], batch)[1][0] for _, batch in batches]

            def measure(weights: Mapping[str, torch.Tensor]) -> Metrics:
                with changed_weights(model, layer, weights):
                    images = torch.cat([run_above(model, layer, recording) for recording in recordings])
                return score(images, self.classes)

        else:
            if self._images is None:
                with torch.no_grad():
                    self._images = torch.cat([embed(model, "vision", batch) for _, batch in batches])
            images = self._images
            prompts = evaluator.record_classes(model, layer)

            def measure(weights: Mapping[str, torch.Tensor]) -> Metrics:
                with changed_weights(model, layer, weights):
                    classes = evaluator._classes(model, (layer, prompts))
                return score(images, classes)

        return measure

    def retained(self, changes: Sequence[tuple[Layer, Mapping[str, torch.Tensor]]]) -> list[Metrics]:
        """Measures `ta` and `ta_neighbors` of several changes, each alone, in one pass over the retain images."""
        embedded = self._embed(self.evaluator.retain, changes, "retained accuracy")
        return [self.evaluator.retained(*pair, self.near) for pair in embedded[1:]]

    def compare(self, layer: Layer, weights: Mapping[str, torch.Tensor]) -> tuple[Metrics, Metrics, dict[str, Any]]:
        """
        Measures everything before and after one change.

        Returns:
            `tuple[dict, dict, dict]`: Metrics before, metrics after, and for a picture the mean cosine of the images of some
            names with the texts of the same: `names`, `before` and `after` (lists of rows; the concept comes first), and
            `neighbors`, the names that `ta_neighbors` is taken over, and `neighbor_accuracy`, that of each (before, after).
        """
        evaluator, change = self.evaluator, [(layer, weights)]
        forget = self._embed(evaluator.forget, change, "forget accuracy")
        retain = self._embed(evaluator.retain, change, "retained accuracy")
        metrics, cosines, by_name = [], [], []
        shown = [own for own in self.near if bool((evaluator.labels == own).any())]
        others = [int(own) for own in evaluator.labels.unique() if int(own) not in shown]
        shown = [evaluator.concept, *(shown + others)[:9]]
        for (gone, classes), (kept, _) in zip(forget, retain, strict=True):
            metrics.append(evaluator.forgotten(gone, classes) | evaluator.retained(kept, classes, self.near))
            by_name.append(evaluator.accuracies(kept, classes))
            parts = [gone if own == evaluator.concept else kept[evaluator.labels == own] for own in shown]
            rows = torch.stack([(normalize(part) @ classes[shown].T).mean(0) for part in parts])
            cosines.append(rows.nan_to_num().tolist())
        picture: dict[str, Any] = {
            "names": [evaluator.names[i] for i in shown],
            "before": cosines[0],
            "after": cosines[1],
        }
        picture["neighbors"] = [evaluator.names[i] for i in self.near]
        picture["neighbor_accuracy"] = {
            evaluator.names[i]: [found[i] for found in by_name] for i in self.near if i in by_name[0]
        }
        return metrics[0], metrics[1], picture

    def _embed(
        self, pairs: Pairs, changes: Sequence[tuple[Layer, Mapping[str, torch.Tensor]]], description: str
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Embeds images and names at the original weights and under each change, as (images, classes)."""
        evaluator, model = self.evaluator, self.model
        seeing = [i for i, (layer, _) in enumerate(changes) if layer.tower == "vision"]
        original: list[torch.Tensor] = []
        changed: dict[int, list[torch.Tensor]] = {i: [] for i in seeing}
        # many steps of one layer share its recording
        layers = list(dict.fromkeys(changes[i][0] for i in seeing))
        for _, batch in image_batches(model, evaluator.processor, pairs, evaluator.batch_size, description):
            if layers:
                embeddings, recordings = record_below(model, layers, batch)
            else:
                with torch.no_grad():
                    embeddings, recordings = embed(model, "vision", batch), []
            original.append(embeddings)
            for i in seeing:
                layer, weights = changes[i]
                with changed_weights(model, layer, weights):
                    changed[i].append(run_above(model, layer, recordings[layers.index(layer)]))
        images = torch.cat(original)
        result = [(images, self.classes)]
        for i, (layer, weights) in enumerate(changes):
            if layer.tower == "vision":
                result.append((torch.cat(changed[i]), self.classes))
            else:
                prompts = evaluator.record_classes(model, layer)
                with changed_weights(model, layer, weights):
                    result.append((images, evaluator._classes(model, (layer, prompts))))
        return result
