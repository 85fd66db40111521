# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""CLIP's contrastive loss of more pairs than fit into a graph, or into one process (GradCache, Gao et al. 2021)."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from .data import Pairs
from .embedding import embed
from .inputs import CaptionEmbedder, image_batches, text_batch, unique_texts
from .losses import retain_loss
from .processes import Processes
from .towers import TOWERS, Tower


Term = tuple[Tower, torch.Tensor, float]
_MOST_TEXTS = 1024  # different captions that are held before they are run


class Contrast:
    """
    The contrastive loss of groups of pairs, in terms of one tower with a factor each: the gradients of the terms, times their factors, add up
    to that of the loss times the number of pairs.

    A caption met in many groups, each no more than a batch, is not differentiated in each: by the chain rule what matters is `Σ ∂L/∂t` over
    all of them, so that is summed up, and `⟨Σ ∂L/∂t, t⟩` differentiated at the end (or whenever there are many). Where the text tower is
    differentiated alone, a caption is where it is met first, and if it is met again once more: most captions are met once.

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
        self._pulls: dict[str, torch.Tensor] = {}  # Σ ∂L/∂t of the captions that are still to be run

    def whole(self, pairs: Pairs, images: dict[str, torch.Tensor]) -> Iterator[Term]:
        """
        Yields the terms of pairs that are no more than a batch: of the vision tower, with the captions' embeddings held fixed; of the text tower,
        alone, captions that were not met before, and what else is due of all groups up to now (`rest` yields the others). `images` are theirs,
        preprocessed.
        """
        with torch.set_grad_enabled("vision" in self.towers):
            seen = embed(self.model, "vision", images)
        texts, rows = unique_texts(pairs.texts)
        fresh: list[tuple[list[str], torch.Tensor]] = []

        def say(new: list[str]) -> torch.Tensor:
            fresh.append((new, self._say(new)))
            return fresh[-1][1]

        # alone, with no other graph in memory, those not met are run in one, and not once more for it
        said = self.captions(texts, say if self.towers == ["text"] else None)
        if "vision" in self.towers:
            yield "vision", retain_loss(seen, said[rows], self.scale), len(pairs)
            seen = seen.detach()
        if "text" in self.towers:
            with torch.enable_grad():
                said = said.to(torch.promote_types(said.dtype, torch.float32)).requires_grad_()
                loss = retain_loss(seen, said[rows], self.scale.detach())
            (gradient,) = torch.autograd.grad(loss, said)
            pulls = dict(zip(texts, len(pairs) * gradient, strict=True))
            while fresh:
                new, found = fresh.pop()
                yield _pulled(found, [pulls.pop(text) for text in new])
                del found  # float16 keeps its graph
            for text, pull in pulls.items():
                # a row of its own from the first on: `pull` holds on to all of a group
                self._pulls[text] = self._pulls.get(text, 0) + pull
            if len(self._pulls) > _MOST_TEXTS:
                yield from self.rest()

    def rest(self) -> Iterator[Term]:
        """Yields the terms of the captions that have not been run."""
        texts = list(self._pulls)
        for start in range(0, len(texts), self.batch_size):
            part = texts[start : start + self.batch_size]
            yield _pulled(self._say(part), [self._pulls.pop(text) for text in part])

    def _say(self, texts: Sequence[str]) -> torch.Tensor:
        return embed(self.model, "text", text_batch(self.model, self.processor, texts))

    def cached(self, pairs: Pairs) -> Iterator[Term]:
        """
        Takes the gradient of the loss by the embeddings first, `g = ∂L/∂v`, and yields the terms batch by batch, `⟨g, v⟩`, whose gradient is the same
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
                yield tower, (found.to(gradient.dtype) * gradient[start : start + len(found)]).sum(), len(pairs)
                del found

    def _images(self, pairs: Pairs) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        return image_batches(self.model, self.processor, pairs, self.batch_size, processes=self.processes)

    def _texts(self, texts: Sequence[str]) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        for _, start in self.processes.mine(range(0, len(texts), self.batch_size)):
            yield start, text_batch(self.model, self.processor, texts[start : start + self.batch_size])


def _pulled(said: torch.Tensor, pulls: Sequence[torch.Tensor]) -> Term:
    """The term `⟨Σ ∂L/∂t, t⟩` of some captions."""
    together = torch.stack(list(pulls))
    # a power of two, so that nothing is rounded: a caption that is everywhere would overflow float16
    factor = 2.0 ** math.frexp(float(together.abs().max()))[1]
    return "text", (said.to(together.dtype) * (together / factor)).sum(), factor
