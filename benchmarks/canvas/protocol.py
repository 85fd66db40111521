# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
The protocol of UnlearnCanvas (Zhang et al., arXiv 2402.11846), from the authors' repository github.com/OPTML-Group/UnlearnCanvas (MIT).

- Names, and their order in the classifiers' heads: `machine_unlearning/evaluation/constants/const.py`. Sixty styles are published;
  the benchmark, its checkpoints (`style50`) and classifiers use these fifty, and the photographs as a 51st.
- Prompts, seeds, 100 steps, guidance 9, 512 pixels, and the names of the pictures' files:
  `machine_unlearning/evaluation/sampling_unlearned_models/*.py`. The scripts differ in two things, and this takes one
  of each: all prompts of a seed start from the same noise, drawn on the CPU, as in `uce.py` (which samples by LMS), and pictures are sampled
  by DDIM with eta 0, as in `salun.py` and `esd.py` (which seed once and draw on, so that prompts differ).
- All of these ask for "Seed Images style", while the model was trained on "photo style" (`diffusion_model_finetuning/dataset_preparation.py`).
  So do we, and what that costs is seen beside the untouched model.
- One model for each of the fifty styles and twenty objects, never for the photographs: `machine_unlearning/README.md`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter


_STYLES = """
Abstractionism Artist_Sketch Blossom_Season Bricks Byzantine Cartoon Cold_Warm Color_Fantasy Comic_Etch Crayon Cubism Dadaism Dapple
Defoliation Early_Autumn Expressionism Fauvism French Glowing_Sunset Gorgeous_Love Greenfield Impressionism Ink_Art Joy Liquid_Dreams
Magic_Cube Meta_Physics Meteor_Shower Monet Mosaic Neon_Lines On_Fire Pastel Pencil_Drawing Picasso Pop_Art Red_Blue_Ink Rust Seed_Images
Sketch Sponge_Dabbed Structuralism Superstring Surrealism Ukiyoe Van_Gogh Vibrant_Flow Warm_Love Warm_Smear Watercolor Winter
"""
_OBJECTS = """
Architectures Bears Birds Butterfly Cats Dogs Fishes Flame Flowers Frogs Horses Human Jellyfish Rabbits Sandwiches Sea Statues Towers
Trees Waterfalls
"""
STYLES, OBJECTS = tuple(_STYLES.split()), tuple(_OBJECTS.split())
PHOTO = "Seed_Images"  # the photographs that the stylised pictures were made from
PROMPT = "A {object} image in {style} style."
SEEDS = (188, 288, 588, 688, 888)
STEPS, GUIDANCE = 100, 9.0

Cell = tuple[str, str]  # a style and an object


def said(name: str) -> str:
    """A name as prompts say it."""
    return name.replace("_", " ")


@dataclass(frozen=True)
class Canvas:
    """
    Styles × objects, and how a picture of one of each is asked for.

    Args:
        styles (`Sequence[str]`, *optional*): Names of the styles' folders. Defaults to the official 51.
        objects (`Sequence[str]`, *optional*): Names of the objects' folders. Defaults to the official 20.
        prompt (`str`, *optional*, defaults to `"A {object} image in {style} style."`): The template.

    Raises:
        ValueError: If a name occurs twice, there are fewer than two of a kind, or the template lacks a place.
    """

    styles: Sequence[str] = STYLES
    objects: Sequence[str] = OBJECTS
    prompt: str = PROMPT

    def __post_init__(self) -> None:
        names = [*self.styles, *self.objects]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Found {', '.join(twice)} more than once among styles and objects. Names must differ.")
        if len(self.painted) < 2 or len(self.objects) < 2:
            raise ValueError(
                f"Found {len(self.painted)} styles and {len(self.objects)} objects. To forget one and keep another, give two of each."
            )
        places = sorted(place for _, place, _, _ in Formatter().parse(self.prompt) if place is not None)
        if places != ["object", "style"]:
            raise ValueError(f"Expected a prompt with {{object}} and {{style}} once each, found {self.prompt!r}.")

    @property
    def painted(self) -> list[str]:
        """The styles but for the photographs."""
        return [style for style in self.styles if style != PHOTO]

    @property
    def concepts(self) -> list[str]:
        """What can be forgotten: styles, then objects."""
        return [*self.painted, *self.objects]

    @property
    def cells(self) -> list[Cell]:
        """All pairs of a style and an object."""
        return [(style, thing) for style in self.styles for thing in self.objects]

    def say(self, cell: Cell) -> str:
        """The prompt of a cell."""
        style, thing = cell
        return self.prompt.format(style=said(style), object=said(thing))

    def caption(self, cell: Cell) -> str:
        """
        What the model was trained on for a cell, as the authors' `dataset_preparation.py` writes it for diffusers: without the full stop,
        photographs in "photo" style, and "An Architectures image".
        """
        style, thing = cell
        text = self.say(("photo" if style == PHOTO else style, thing)).removesuffix(".")
        return text.replace("A Architectures", "An Architectures")

    def spread(self, concept: str, shown: bool) -> list[Cell]:
        """
        Cells that show a concept, or those that don't, in an order of which any first few are of all styles and objects alike.

        Args:
            concept (`str`): A style or an object.
            shown (`bool`): Which of the two.

        Returns:
            `list[Cell]`: In steps of one style and one object at once, moved on by one object when all would begin again.
        """
        n, m = len(self.styles), len(self.objects)
        around = math.lcm(n, m)
        order = [(self.styles[k % n], self.objects[(k + k // around) % m]) for k in range(n * m)]
        return [cell for cell in order if (concept in cell) == shown]
