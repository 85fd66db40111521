# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""CLIP's contrastive loss of more pairs than fit into a graph, or into one process (GradCache, Gao et al. 2021)."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from .data import Pairs
from .inputs import CaptionEmbedder, image_batches, text_batch, unique_texts
from .losses import retain_loss
from .processes import Processes
from .towers import TOWERS, Tower, embed


class Contrast:
    """
    The contrastive loss of groups of pairs, in terms whose gradients add up to its own.

    Args:
        model (`CLIPModel`): The model.
        processor (`CLIPProcessor`): Its processor.
        towers (`set[str]`): Those to be differentiated through.
        batch_size (`int`): Pairs per forward pass.
        processes ([`Processes`]): Those that share the batches of a group.
    """

    def __init__(
        self, model: PreTrainedModel, processor: Any, towers: set[Tower], batch_size: int, processes: Processes
    ):
        self.model, self.processor, self.towers = model, processor, sorted(towers)
        self.batch_size, self.processes = batch_size, processes
        self.scale = cast(torch.Tensor, model.logit_scale)
        self.captions = CaptionEmbedder(model, processor)

    def whole(self, pairs: Pairs, images: dict[str, torch.Tensor]) -> Iterator[torch.Tensor]:
        """
        Yields the loss itself, of pairs that are no more than a batch, once for each tower, the other's embeddings held fixed: the gradients
        add up to its own, and one tower at a time is in a graph. `images` are theirs, preprocessed. Captions run twice, which is
        little beside the images, and those met lately once.
        """
        with torch.set_grad_enabled("vision" in self.towers):
            seen = embed(self.model, "vision", images)
        if "vision" in self.towers:
            yield retain_loss(seen, self.captions(pairs.texts), self.scale)
            seen = seen.detach()
        if "text" in self.towers:
            texts, rows = unique_texts(pairs.texts)
            said = embed(self.model, "text", text_batch(self.model, self.processor, texts))[rows]
            yield retain_loss(seen, said, self.scale)

    def cached(self, pairs: Pairs) -> Iterator[torch.Tensor]:
        """
        Takes the gradient of the loss by the embeddings first, `g = ∂L/∂v`, and yields batch by batch `⟨g, v⟩`, whose gradient is the same
        by the chain rule: no more than a batch is ever in a graph. Embeddings of other processes' batches are theirs; a group that is no
        more than a batch is one process's.
        """
        if len(pairs) <= self.batch_size:
            ((_, images),) = image_batches(self.model, self.processor, pairs, self.batch_size)
            yield from self.whole(pairs, images)
            return
        texts, rows = unique_texts(pairs.texts)
        wide = torch.promote_types(self.model.dtype, torch.float32)
        batches = {"vision": lambda: self._images(pairs), "text": lambda: self._texts(texts)}
        sizes = {"vision": len(pairs), "text": len(texts)}
        leaves: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for tower in TOWERS:
                if tower == "text" and "text" not in self.towers:
                    leaves[tower] = self.captions(texts).to(wide)
                    continue
                own = torch.zeros(sizes[tower], self.model.config.projection_dim, dtype=wide, device=self.model.device)
                for start, batch in batches[tower]():
                    found = embed(self.model, tower, batch)
                    own[start : start + len(found)] = found
                leaves[tower] = self.processes.sum({tower: own})[tower]
        for tower in self.towers:
            leaves[tower].requires_grad_()
        with torch.enable_grad():
            loss = retain_loss(leaves["vision"], leaves["text"][rows], self.scale.detach())
        gradients = torch.autograd.grad(loss, [leaves[tower] for tower in self.towers])
        for tower, gradient in zip(self.towers, gradients, strict=True):
            for start, batch in batches[tower]():
                found = embed(self.model, tower, batch)
                yield (found.to(gradient.dtype) * gradient[start : start + len(found)]).sum()

    def _images(self, pairs: Pairs) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        return image_batches(self.model, self.processor, pairs, self.batch_size, processes=self.processes)

    def _texts(self, texts: Sequence[str]) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        for _, start in self.processes.mine(range(0, len(texts), self.batch_size)):
            yield start, text_batch(self.model, self.processor, texts[start : start + self.batch_size])
