# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Questions and answers in batches: what is asked, which tokens are the answer, and that a batch is as good as one by one."""

from types import SimpleNamespace

import pytest
import torch
from conftest import noise_rows

from hf_slug import zoo
from hf_slug.chat import answer, ask
from hf_slug.zoo.data import load_pairs
from hf_slug.zoo.questions import UNSEEN_QUESTIONS


ROWS = load_pairs("test", seed=3, limit_per_digit=1)[:12]
IMAGES = [row["image"] for row in ROWS]
QUESTIONS = [UNSEEN_QUESTIONS[kind][i] for i in range(6) for kind in ("digit", "style")]  # of many lengths


@pytest.fixture(scope="module")
def llava():
    return zoo.load_llava()


def test_answers_are_those_of_one_by_one_in_the_same_order(llava):
    alone = [answer(*llava, [image], [question])[0] for image, question in zip(IMAGES, QUESTIONS)]
    for batch_size in (64, 5, 1):
        assert answer(*llava, IMAGES, QUESTIONS, batch_size, description="questions") == alone
    backwards = answer(*llava, IMAGES[::-1], QUESTIONS[::-1])
    assert backwards[::-1] == alone
    right = [row[kind] in text for row, kind, text in zip(ROWS, ("digit", "style") * 6, alone)]
    assert sum(right) >= 11 and len(set(alone)) > 6
    assert answer(*llava, [], []) == []


def test_an_answer_is_no_longer_than_asked_for(llava):
    questions = ["Describe the picture."] * 3
    whole, short = (answer(*llava, IMAGES[:3], questions, max_new_tokens=n) for n in (12, 1))
    assert all(text.startswith(first) and len(text) > len(first) for text, first in zip(whole, short))


def test_a_batch_says_the_same_as_its_parts(llava):
    model, processor = llava
    inputs = ask(model, processor, IMAGES, QUESTIONS)
    assert "labels" not in inputs and len(inputs["attention_mask"].sum(1).unique()) > 2
    assert torch.equal(inputs["attention_mask"].sort(1).values, inputs["attention_mask"])  # padded on the left
    with torch.no_grad():
        together = model(**inputs).logits[:, -1]
        for i, last in enumerate(together):
            alone = model(**ask(model, processor, IMAGES[i : i + 1], QUESTIONS[i : i + 1])).logits[0, -1]
            torch.testing.assert_close(last, alone, rtol=1e-4, atol=1e-4)


def read_labels(processor, inputs):
    """What the labels spell, and what stands before them."""
    texts = []
    for ids, labels, mask in zip(inputs["input_ids"], inputs["labels"], inputs["attention_mask"]):
        own = labels != -100
        assert torch.equal(ids[own], labels[own]) and own.any()
        assert torch.equal(own.sort().values, own) and mask[own].all()  # one stretch at the end
        texts.append([processor.tokenizer.decode(part) for part in (ids[own], ids[mask.bool() & ~own])])
    return texts


def test_labels_are_the_answer_and_its_end_and_nothing_else(llava):
    _, processor = llava
    answers = ["seven", "a seven in neon style", "two"]
    inputs = ask(*llava, IMAGES[:3], QUESTIONS[:3], answers)
    for (labels, rest), question, expected in zip(read_labels(processor, inputs), QUESTIONS, answers):
        assert labels.replace(" ", "") == f"{expected}{processor.tokenizer.eos_token}".replace(" ", "")
        assert rest.count("<image>") == 64
        asked = "".join(rest.split("<image>")[-1].casefold().split())
        assert asked == f"{question}assistant:".casefold().replace(" ", "")


@pytest.mark.parametrize(
    "ending, space", [("ASSISTANT:", " "), ("ASSISTANT: ", " "), ("ASSISTANT\n", ""), ("[/INST]", " ")]
)
def test_an_answer_follows_what_the_template_ends_in(llava, ending, space):
    """A line break belongs to the template and stays; a blank belongs to the answer's first token and is one."""
    model, processor = llava
    seen = []

    def tokenize(images, text, **options):
        seen.append(text)
        return processor(images=images, text=text, **options)

    class Other:
        chat_template, tokenizer = "of its own", processor.tokenizer

        def apply_chat_template(self, chat, add_generation_prompt):
            (turn,) = chat
            assert add_generation_prompt and turn["role"] == "user" and turn["content"][0] == {"type": "image"}
            return f"<image>{turn['content'][1]['text']} {ending}"

        def __call__(self, **inputs):
            return tokenize(**inputs)

    (labels, _), (other, _) = read_labels(
        processor, ask(model, Other(), IMAGES[:2], ["Digit?", "So?"], ["seven", "two"])
    )
    assert seen[-1] == [
        f"<image>{q} {ending.rstrip(' ')}{space}{a}</s>" for q, a in (("Digit?", "seven"), ("So?", "two"))
    ]
    assert (labels.replace(" ", ""), other.replace(" ", "")) == ("seven</s>", "two</s>")


def test_without_a_chat_template_the_format_of_llava_is_used(llava):
    _, processor = llava
    with_template = ask(*llava, IMAGES[:2], QUESTIONS[:2])
    bare = zoo.load_llava()[1]
    bare.chat_template = None
    without = ask(llava[0], bare, IMAGES[:2], QUESTIONS[:2])
    spoken = [
        processor.tokenizer.batch_decode(part["input_ids"], skip_special_tokens=True)
        for part in (with_template, without)
    ]
    plain = [[" ".join(text.split()) for text in texts] for texts in spoken]
    assert plain[0] == plain[1]


def test_inputs_have_the_models_dtype():
    model, processor = zoo.load_llava(torch.bfloat16)
    inputs = ask(model, processor, [noise_rows(1)[0]["image"]], ["What?"], ["seven"])
    assert inputs["pixel_values"].dtype == torch.bfloat16 and inputs["labels"].dtype == torch.long
    assert answer(model, processor, IMAGES[:1], QUESTIONS[:1])[0]


def test_a_tokenizer_without_an_end_token_has_answers_without_an_end(llava):
    model, processor = llava
    other = zoo.load_llava()[1]
    other.tokenizer.eos_token = None
    inputs = ask(model, other, IMAGES[:1], ["Digit?"], ["seven"])
    ((labels, _),) = read_labels(SimpleNamespace(tokenizer=processor.tokenizer), inputs)
    assert labels.strip() == "seven"
