# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
SLUG's procedure as published, in plain steps: what it computes and keeps, whether it is needed or not.

Every parameter of both towers has a gradient of both losses, texts are padded to their full length and run as often as they occur, and each step of
the search copies the model and evaluates all of it, from the image files on. Their decisions are ours, so that both find the same layer and the same step: gradients
are zeroed between sets, and scores, fronts and the search for a step are the library's.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import CLIPModel

from hf_slug.data import Pairs
from hf_slug.evaluation import ZeroShotEvaluator, estimate_risk
from hf_slug.losses import forget_loss, normalize, retain_loss
from hf_slug.scores import score_layers, select_layers
from hf_slug.search import Search, search
from hf_slug.towers import candidate_layers, layer_weights


Parts = dict[str, Pairs]


def unlearn_as_published(
    model: CLIPModel,
    processor: Any,
    parts: Parts,
    prompt: str,
    names: Sequence[str],
    tower: str = "both",
    steps: int = 10,
    batch_size: int = 64,
) -> Search:
    """
    Forgets a concept.

    Args:
        model (`CLIPModel`): The model.
        processor (`CLIPProcessor`): Its processor.
        parts (`dict[str, Pairs]`): `forget`, `retain`, `validation_forget` and `validation_retain`.
        prompt (`str`): The text of the concept.
        names (`Sequence[str]`): What images are classified among, the concept first.
        tower (`str`, *optional*, defaults to `"both"`): Whose layers compete. Gradients are of both all the same.
        steps (`int`, *optional*, defaults to 10): Trials per layer, all of them always.
        batch_size (`int`, *optional*, defaults to 64): Pairs per forward pass, which are contrasted with each other.

    Returns:
        `Search`: What was tried, and chosen.
    """
    forget = full_gradients(model, processor, parts["forget"], prompt, batch_size)
    retain = full_gradients(model, processor, parts["retain"], None, batch_size)
    layers = candidate_layers(model, tower)
    weights = {name: weight for layer in layers for name, weight in layer_weights(model, layer).items()}
    own, kept = ({name: found[f"{name}.weight"] for name in weights} for found in (forget, retain))
    front = [score.layer for score in select_layers(score_layers(layers, weights, own, kept))]
    evaluator = WholeEvaluator(processor, parts, names, batch_size)
    return search(model, front, own, evaluator, steps, tolerance=0.0, risk=1.0)


def full_gradients(
    model: CLIPModel, processor: Any, pairs: Pairs, prompt: str | None, batch_size: int
) -> dict[str, torch.Tensor]:
    """The mean gradient of every parameter: of the forget loss against a prompt, or of the contrastive loss."""
    model.zero_grad()
    model.requires_grad_(True)
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        texts = batch.texts if prompt is None else [prompt] * len(batch)
        images, said = model.get_image_features(**_images(model, processor, batch)), _texts(model, processor, texts)
        said = model.get_text_features(**said).pooler_output
        loss = retain_loss(images.pooler_output, said, model.logit_scale) if prompt is None else None
        loss = forget_loss(images.pooler_output, said) if loss is None else loss
        (loss * len(batch) / len(pairs)).backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return found


class WholeEvaluator:
    """
    Evaluates all of a copy of the model, from the pixels and from the texts of all names, at each step. The first look, at the original
    weights, is what later ones are compared with.
    """

    greater_is_better = False

    def __init__(self, processor: Any, parts: Parts, names: Sequence[str], batch_size: int):
        own = (parts["validation_forget"], parts["validation_retain"], names[0], names)
        self.zero_shot = ZeroShotEvaluator(processor, *own, batch_size=batch_size)
        self.primary_metric = self.zero_shot.primary_metric
        self.processor, self.batch_size = processor, batch_size
        self.untouched: tuple[torch.Tensor, torch.Tensor] | None = None

    @torch.no_grad()
    def __call__(self, model: CLIPModel) -> dict[str, float]:
        """Returns FA@1, FA@5 and TA."""
        model = copy.deepcopy(model)
        judge = self.zero_shot
        said = [
            model.get_text_features(
                **_texts(model, self.processor, judge.prompts[i : i + self.batch_size])
            ).pooler_output
            for i in range(0, len(judge.prompts), self.batch_size)
        ]
        classes = normalize(torch.cat(said))
        forget, retain = (self._embed(model, pairs) for pairs in (judge.forget, judge.retain))
        if self.untouched is None:
            self.untouched = retain, classes
        among_equals = {
            "risk": estimate_risk(judge.margins(forget, classes)),
            "risk_n": len(forget),
            "kl": judge.divergence(self.untouched, (retain, classes), float(model.logit_scale.exp())),
        }
        return judge.forgotten(forget, classes) | judge.retained(retain, classes, []) | among_equals

    def _embed(self, model: CLIPModel, pairs: Pairs) -> torch.Tensor:
        parts = [pairs[i : i + self.batch_size] for i in range(0, len(pairs), self.batch_size)]
        return torch.cat(
            [model.get_image_features(**_images(model, self.processor, part)).pooler_output for part in parts]
        )


def _images(model: CLIPModel, processor: Any, pairs: Pairs) -> dict[str, torch.Tensor]:
    pixels = processor.image_processor(pairs.images(), return_tensors="pt")["pixel_values"]
    return {"pixel_values": pixels.to(model.device, model.dtype)}


def _texts(model: CLIPModel, processor: Any, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    length = model.config.text_config.max_position_embeddings
    tokens = processor.tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    return {key: tokens[key].to(model.device) for key in ("input_ids", "attention_mask")}
