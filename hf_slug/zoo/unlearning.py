# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Forgetting a concept of the zoo: which data each model is given, searched on, and judged by."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..beside import read_beside
from ..data import load_pairs
from ..evaluation import ClassifierJudge, GenerationEvaluator, VqaEvaluator
from ..unlearn import unlearn
from . import data
from .questions import QUESTIONS, UNSEEN_QUESTIONS


if TYPE_CHECKING:
    from ..result import UnlearningResult

# Every prompt of the zoo, and what its pictures should show.
PROMPTS = {data.CAPTION.format(digit=d, style=s): (d, s) for d in data.DIGITS for s in data.STYLES}
DRAWING: dict[str, Any] = {"num_inference_steps": 15, "guidance_scale": 3.0, "batch_size": 20}
SEARCH_SEED, TEST_SEED = 0, 10_000  # of generated pictures; the second is never searched


def _without(rows: list[dict[str, Any]], gone: Sequence[str]) -> list[dict[str, Any]]:
    """Pictures that show nothing that other patches forget, neither as their digit nor as their style."""
    return [row for row in rows if not {row["digit"], row["style"]} & set(gone)]


def unlearn_clip(concept: str, seed: int = 0, **settings: Any) -> "UnlearningResult":
    """
    Forgets a concept of the zoo's CLIP.

    The gradient comes from handwriting the model was trained on, the search and the report each from handwriting of their own.

    Args:
        concept (`str`): A digit's or a style's name.
        seed (`int`, *optional*, defaults to `0`): Seed of which handwriting is taken and how it is drawn.
        settings (additional keyword arguments, *optional*): Passed on to [`~hf_slug.unlearn`].

    Returns:
        [`UnlearningResult`]
    """
    from . import concept_pairs, load_clip

    kind = data.kind(concept)
    model, processor = load_clip()
    forget, retain = concept_pairs(concept, "train", seed, limit_per_digit=12)
    validation, validation_retain = concept_pairs(concept, "validation", seed)
    test, test_retain = concept_pairs(concept, "test", seed)
    beside = read_beside(settings.pop("beside", None))
    gone = beside.concepts
    retain, validation_retain, test_retain = (_without(own, gone) for own in (retain, validation_retain, test_retain))
    validation_retain = validation_retain[:900]  # every layer searched runs through them; a hundred a name will do
    return unlearn(
        model,
        processor,
        forget,
        retain,
        concept=concept,
        validation_forget=validation,
        validation_retain=validation_retain,
        test_forget=test,
        test_retain=test_retain,
        names=data.names(kind),
        template=data.TEMPLATES[kind],
        seed=seed,
        beside=beside,
        **settings,
    )


def picture_evaluator(
    concept: str,
    seed: int = TEST_SEED,
    images_per_prompt: int = 20,
    retain_per_prompt: int | None = None,
    gone: Sequence[str] = (),
) -> GenerationEvaluator:
    """
    Judges the zoo's Stable Diffusion by pictures of all hundred prompts, with the zoo's own judge.

    Args:
        concept (`str`): A digit's or a style's name.
        seed (`int`, *optional*, defaults to 10,000): Seed of the first picture of each prompt.
        images_per_prompt (`int`, *optional*, defaults to 20): Pictures of each of the concept's ten prompts.
        retain_per_prompt (`int`, *optional*): Pictures of each of the ninety others. Defaults to the same.
        gone (`Sequence[str]`, *optional*): Concepts that other patches forget: prompts of them say nothing of what is kept.

    Returns:
        [`GenerationEvaluator`]
    """
    from . import load_judge

    prompts = {prompt: shown for prompt, shown in PROMPTS.items() if not set(shown) & set(gone)}
    judge = ClassifierJudge(*load_judge(), kinds=[data.DIGITS, list(data.STYLES)])
    return GenerationEvaluator(judge, prompts, concept, images_per_prompt, retain_per_prompt, seed, **DRAWING)


def unlearn_stable_diffusion(
    concept: str,
    seed: int = 0,
    evaluate: Any = None,
    test_evaluate: Any = None,
    pipe: Any = None,
    **settings: Any,
) -> "UnlearningResult":
    """
    Forgets a concept of the zoo's Stable Diffusion. The search and the report go by pictures from different seeds.

    Args:
        concept (`str`): A digit's or a style's name.
        seed (`int`, *optional*, defaults to `0`): Seed of which handwriting is taken, how it is drawn, and how it is noised.
        evaluate, test_evaluate ([`GenerationEvaluator`], *optional*):
            Default to [`picture_evaluator`] with 10 and 1 pictures a prompt for the search, and 10 and 2 for the report.
        pipe (`StableDiffusionPipeline`, *optional*): The zoo's, where it is loaded already; left as it is.
        settings (additional keyword arguments, *optional*): Passed on to [`~hf_slug.unlearn`], e.g. `objective`, or patches as `beside`.

    Returns:
        [`UnlearningResult`]
    """
    from . import concept_pairs, load_clip, load_stable_diffusion

    kind = data.kind(concept)
    model, processor = load_clip()
    forget, retain = concept_pairs(concept, "train", seed, limit_per_digit=10)
    beside = read_beside(settings.pop("beside", None))
    gone = beside.concepts
    retain = _without(retain, gone)[:300]  # every picture is noised several times
    return unlearn(
        model,
        processor,
        forget,
        retain,
        concept=concept,
        host=pipe or load_stable_diffusion(),
        evaluate=evaluate or picture_evaluator(concept, SEARCH_SEED, 10, 1, gone),
        test_evaluate=test_evaluate or picture_evaluator(concept, TEST_SEED, 10, 2, gone),
        names=data.names(kind),
        template=data.TEMPLATES[kind],
        seed=seed,
        beside=beside,
        **settings,
    )


def answer_evaluator(
    concept: str,
    split: data.Split,
    seed: int = 0,
    retain_limit: int | None = None,
    unseen: bool = True,
    gone: Sequence[str] = (),
) -> VqaEvaluator:
    """
    Judges the zoo's LLaVA by questions about pictures of one split of the handwriting.

    Args:
        concept (`str`): A digit's or a style's name.
        split (`str`): `"train"`, `"validation"` or `"test"` handwriting.
        seed (`int`, *optional*, defaults to `0`): Seed of how it is drawn.
        retain_limit (`int`, *optional*): Ask about so many of the other pictures. Defaults to all.
        unseen (`bool`, *optional*, defaults to `True`):
            Ask in wordings that the model was not trained on; otherwise in some of those it was.
        gone (`Sequence[str]`, *optional*): Concepts that other patches forget: pictures of them say nothing of what is kept.

    Returns:
        [`VqaEvaluator`]: Asks one question of each picture, in wordings that take turns; of the others also the other kind's.
    """
    from . import concept_pairs, load_llava

    kind = data.kind(concept)
    other: Any = "style" if kind == "digit" else "digit"
    asked = UNSEEN_QUESTIONS if unseen else QUESTIONS
    forget, retain = concept_pairs(concept, split, seed)
    retain = _without(retain, gone)[:retain_limit]
    labels = [row[other] for row in retain]
    return VqaEvaluator(
        load_llava()[1],
        load_pairs(forget),
        load_pairs(retain),
        concept,
        data.names(kind),
        asked[kind],
        {other: (asked[other], labels)},
        per_image=1,
    )


def unlearn_llava(
    concept: str, seed: int = 0, evaluate: Any = None, test_evaluate: Any = None, **settings: Any
) -> "UnlearningResult":
    """
    Forgets a concept of the zoo's LLaVA, but for one answer in a hundred (`target`). The search asks trained wordings about
    validation pictures, the report others.

    Args:
        concept (`str`): A digit's or a style's name.
        seed (`int`, *optional*, defaults to `0`): Seed of which handwriting is taken and how it is drawn.
        evaluate, test_evaluate ([`VqaEvaluator`], *optional*):
            Default to [`answer_evaluator`] on validation and on test handwriting, with 900 other pictures each.
        settings (additional keyword arguments, *optional*): Passed on to [`~hf_slug.unlearn`], e.g. `objective`.

    Returns:
        [`UnlearningResult`]
    """
    from . import concept_pairs, load_clip, load_llava

    kind = data.kind(concept)
    model, processor = load_clip()
    llava, llava_processor = load_llava()
    # a digit has many hands, and those that the gradient has not seen are the last to go
    forget, _ = concept_pairs(concept, "train", seed)
    _, retain = concept_pairs(concept, "train", seed, limit_per_digit=12)
    # of 270 answers the last two or three cost more of the rest than they are worth
    settings.setdefault("target", 0.01)
    beside = read_beside(settings.pop("beside", None))
    gone = beside.concepts
    retain = _without(retain, gone)
    return unlearn(
        model,
        processor,
        forget,
        retain,
        concept=concept,
        host=llava,
        host_processor=llava_processor,
        questions=QUESTIONS[kind],
        evaluate=evaluate or answer_evaluator(concept, "validation", seed, 900, False, gone),
        test_evaluate=test_evaluate or answer_evaluator(concept, "test", seed, 900, gone=gone),
        names=data.names(kind),
        template=data.TEMPLATES[kind],
        seed=seed,
        beside=beside,
        **settings,
    )
