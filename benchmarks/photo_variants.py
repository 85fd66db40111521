# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What `photo_ablations.py` changes, one thing at a time, and what was made of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """
    One way to do it; the defaults are `unlearn`'s, but for the tower: text layers are the ones chosen here, and ten times as quick.

    Args:
        name (`str`): What the table calls it.
        direction (`str`): `"whitened"`, `"gradient"`, `"two-sided"` (output gradients whitened, too) or `"projected"` (whitened, off the
            retain gradient).
        epsilon (`float`): Damping ε.
        inputs (`int`, *optional*): Retain pairs that C is taken over. Defaults to all.
        choose (`str`): `"front"`, `"signed"` (the front by alignment with its sign), `"importance"` (no front), `"whitened"` (the front by
            the whitened gradients).
        minimum (`int`): Layers that a front is filled up to.
        tower, granularity, steps, rank, risk: As in [`unlearn`].
        seen (`bool`): Whether the risk goes by the gradient's photographs, too.
        validation (`int`, *optional*): Photographs of the concept to validate on. Defaults to all.
        smallest (`bool`): Whether the chosen layer's smallest forgetting step is taken.
        by_accuracy (`bool`): Whether retained accuracy alone, to the last digit, decides among layers, as in the paper.
    """

    name: str
    direction: str = "whitened"
    epsilon: float = 0.03
    inputs: int | None = None
    choose: str = "front"
    minimum: int = 5
    tower: str = "text"
    granularity: str = "matrix"
    steps: int = 10
    rank: int | None = None
    risk: float = 0.05
    seen: bool = True
    validation: int | None = None
    smallest: bool = False
    by_accuracy: bool = False


BASE = Variant("default")
GROUPS: dict[str, tuple[Variant, ...]] = {
    "Direction": (
        Variant("the paper's gradient", direction="gradient"),
        *(Variant(f"ε = {e}", epsilon=e) for e in (0.003, 0.01, 0.1, 0.3)),
        Variant("two-sided", direction="two-sided"),
        Variant("off the retain gradient", direction="projected"),
    ),
    "Retain pairs that C is taken over": tuple(Variant(f"{n} pairs", inputs=n) for n in (20, 50, 150)),
    "Which layers are searched": (
        Variant("front alone", minimum=1),
        Variant("front filled up to 3", minimum=3),
        Variant("front filled up to 8", minimum=8),
        Variant("front by signed alignment", choose="signed"),
        Variant("front of the whitened gradients", choose="whitened"),
        Variant("the 5 most important", choose="importance"),
    ),
    "Which of them wins": (Variant("the best retained accuracy alone", by_accuracy=True),),
    "Tower": (Variant("both", tower="both"), Variant("vision", tower="vision")),
    "Granularity": (Variant("attention", granularity="attention"), Variant("block", granularity="block")),
    "Steps K": (Variant("5", steps=5), Variant("20", steps=20)),
    "Risk": (
        Variant("1: validation alone, as in the paper", risk=1.0, seen=False),
        Variant("0.2", risk=0.2),
        Variant("0.01", risk=0.01),
        Variant("0.05, without the gradient's photographs", seen=False),
        Variant("0.05, the smallest step at that", smallest=True),
    ),
    "Photographs to validate on": (Variant("one", validation=1),),
    "Rank": tuple(Variant(str(r), rank=r) for r in (1, 2, 4, 8)),
}
# What was made of it, and why; no numbers, these are in the tables.
WHY = {
    "Direction": (
        "Whitened stays the default: the plain gradient pushes wherever the concept's own inputs point, also where what is kept does. Between its "
        "extremes ε decides little; large values lean towards the plain gradient. Two variants did not become options. Whitening the outputs, "
        "too, does as well and no better that these runs could show, for a second moment and another pass. A step off the retain gradient differs hardly from the whitened one: where what is kept feeds the layer nothing, its "
        "gradient has nothing either."
    ),
    "Retain pairs that C is taken over": (
        "All of the retain set. C has as many directions as the layer reads; far fewer pairs than that leave some of what is kept unseen."
    ),
    "Which layers are searched": (
        "The front by |alignment|, filled up to five layers. Once steps are whitened most layers of the text tower will do, so how they are chosen "
        "matters less than in the paper; five layers cost little, and a front of one leaves no choice. Choosing by the whitened gradients does as well."
    ),
    "Which of them wins": (
        "Of layers that keep as much, to a point, the one that moves least what kept photographs are taken for (KL). Accuracies that differ by a "
        "photograph or two say nothing; alone either choice does, but patches that hardly move anything else get less in each other's way "
        "when they are stacked. A change of many times the weight hardly moves anything either, as long as the layer's inputs are what they "
        "were; below it another patch shifts them. So such changes come last among what keeps as much."
    ),
    "Tower": (
        "Both compete by default. In the vision tower a whole kind must be told apart less well: people suffer for a person, and objects, "
        "most of all, for an object; in the text tower a single name moves."
    ),
    "Granularity": "Single matrices: attentions and blocks forget as well, and change all of theirs for it.",
    "Steps K": "Ten. Bisection ends at a third of the step, so more are hardly ever taken.",
    "Risk": (
        "At most 5 %, by validation and the gradient's photographs. A step that just satisfies two photographs does not satisfy a third; for layers of "
        "the text tower the gradient's photographs say as much of the concept as any, and without them two are too few for an estimate. Where a larger step of the same layer brings it to a tenth at hardly any cost, that is taken: held to a tenth "
        "outright, some layers that keep all would be passed over for others that don't."
    ),
    "Photographs to validate on": "All there are; with the gradient's photographs beside them even one does.",
    "Rank": "Dense by default, as the paper's; the step lies in a few directions, so low ranks store less at no loss.",
}
VARIANTS = (BASE, *(variant for group in GROUPS.values() for variant in group))
PUBLISHED = Variant("as published", direction="gradient", minimum=1, risk=1.0, seen=False, by_accuracy=True)
