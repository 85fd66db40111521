# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
What several processes make of a tiny CLIP, and of the zoo's hosts, together; run by `torchrun`, and alone.

    python shared_work.py MODEL OUTPUT

The first process writes OUTPUT: gradients, moments and results of whole runs. Numbers of pairs, batches and layers are such that shares are
uneven, and some have nothing to do.
"""

import sys
from pathlib import Path

import torch
from conftest import NAMES, completed_looks, noise_pairs
from test_search import search_behaviour
from transformers import CLIPModel, CLIPProcessor

from hf_slug import unlearn, zoo
from hf_slug.direction import compute_input_moments
from hf_slug.encoders import find_encoders
from hf_slug.evaluation import ZeroShotEvaluator
from hf_slug.gradients import compute_forget_gradients, compute_retain_gradients
from hf_slug.objectives import AnswerObjective, DenoisingObjective
from hf_slug.processes import Processes, launched
from hf_slug.search import search
from hf_slug.streams import PairStream
from hf_slug.towers import candidate_layers


def main(folder: str, output: str) -> None:
    state = launched("cpu")
    processes = Processes(state)
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    found: dict[str, object] = {"count": processes.count}
    forget, retain = noise_pairs(13, names=["three"]), noise_pairs(18, seed=1)
    for tower in ("vision", "text", "both"):
        layers = candidate_layers(model, tower)
        for size in (3, 64):  # of 64 one has it all
            found[f"forget {tower} {size}"] = compute_forget_gradients(
                model, processor, layers, forget, ["a three", "three"], size, processes
            )
        for contrast, size in ((7, 3), (4, 4), (18, 64)):  # batches shared out, groups shared out, one group
            found[f"retain {tower} {contrast} {size}"] = compute_retain_gradients(
                model, processor, layers, retain, contrast, size, processes
            )
        found[f"moments {tower}"] = compute_input_moments(model, processor, layers, retain, 5, processes)
    rows = [{"image": pair.image, "text": pair.text, "name": pair.text.split()[-1]} for pair in retain]
    stream = compute_retain_gradients(
        model, processor, candidate_layers(model), PairStream(rows), 4, processes=processes
    )
    found["retain of a stream"] = stream
    found["what differs"] = found["what is missing"] = ""
    try:
        shuffled = PairStream(rows if processes.is_main else rows[::-1])
        compute_retain_gradients(model, processor, candidate_layers(model, "text"), shuffled, 4, processes=processes)
    except RuntimeError as error:
        found["what differs"] = str(error)
    try:
        shorter = PairStream(rows if processes.is_main else rows[:9])
        compute_retain_gradients(model, processor, candidate_layers(model, "text"), shorter, 7, 3, processes)
    except RuntimeError as error:
        found["what is missing"] = str(error)
    block = "vision_model.encoder.layers.0."
    named = [f"{block}self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")] + [f"{block}mlp.fc1"]
    for prices, first, early in (
        ([0.5, 0.015, 0.009, 0.0, 0.0], 2, False),  # the third is the first that will do
        ([0.0, 0.5, 0.0, 0.0, 0.0], 3, False),
        ([0.5, 0.009, 0.0, 0.0, 0.0], 3, True),
        ([0.5, 0.5, 0.5, 0.5, 0.4], 1, True),
    ):
        searched, _, _ = search_behaviour(
            model, dict(zip(named, prices)), first, early_stopping=early, processes=processes
        )
        tried = [[trial.layer.name, trial.step_size, trial.metrics] for trial in searched.trials]
        found[f"search {prices} {first} {early}"] = [*tried, searched.chosen.layer.name, searched.was_known]
    concept = noise_pairs(40, seed=1, names=["three"])
    each = [ZeroShotEvaluator(processor, concept, noise_pairs(14, seed=2), name, NAMES) for name in NAMES]
    evaluator = max(each, key=lambda zero_shot: zero_shot(model)["fa1"])
    layers = candidate_layers(model, "vision")[::5]
    directions = compute_forget_gradients(model, processor, layers, concept, [evaluator.prompts[evaluator.concept]])
    # no step is large enough: looks that stopped early are completed, each where its layer was looked at
    with completed_looks() as completed:
        searched = search(model, layers, directions, evaluator, steps=1, risk=1.0, processes=processes)
    found["completed"] = len(completed)
    tried = [[trial.layer.name, trial.step_size, trial.metrics] for trial in searched.trials]
    found["search in vain"] = [*tried, searched.chosen.layer.name, searched.succeeded]
    llava, llava_processor = zoo.load_llava()
    (encoder,) = find_encoders(llava)
    for batch_size in (4, 32):  # of 32 one process has it all
        answers = AnswerObjective(
            llava, llava_processor, encoder, forget, retain, ["Digit?", "Which digit is this?"], batch_size, processes
        )
        layers = [layer for layer in candidate_layers(encoder.module, "vision") if layer.block == 1]
        found[f"forget of LLaVA {batch_size}"] = answers.forget_gradients(layers)
        found[f"moments of LLaVA {batch_size}"] = answers.input_moments(layers)
    pipe = zoo.load_stable_diffusion()
    (encoder,) = find_encoders(pipe)
    denoising = DenoisingObjective(pipe, encoder, forget, retain, 2, 5, processes=processes)
    layers = [layer for layer in candidate_layers(encoder.module, "text") if layer.block == 0]
    found["forget of Stable Diffusion"] = denoising.forget_gradients(layers)
    found["retain of Stable Diffusion"] = denoising.retain_gradients(layers)
    found["moments of Stable Diffusion"] = denoising.input_moments(layers)
    for settings in ({"direction": "gradient", "tower": "text"}, {"trajectory": "all", "retain_batch_size": 70}):
        result = unlearn(
            model, processor, noise_pairs(30, names=["three"]), noise_pairs(60, seed=2), concept="three", names=NAMES,
            template="{}", steps=3, batch_size=8, accelerator=state, **settings,
        )  # fmt: skip
        report = result.report
        found[f"unlearn {settings}"] = {
            "scores": torch.tensor([[row["importance"], row["alignment"]] for row in report["layers"]]),
            "weights": torch.cat([delta.flatten() for delta in result.patch.deltas.values()]),
            "chosen": report["chosen"],
            "search": [[row["layer"], row["step_size"], row["fa1"]] for row in report["search"]],
            "metrics": report["metrics"],
            "processes": report["cost"]["processes"],
        }
    if processes.is_main:
        torch.save(found, Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
