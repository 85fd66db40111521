# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Trains the zoo's LLaVA: a real `LlavaForConditionalGeneration` that tells digit and style of the zoo's drawings.

    python examples/train_zoo_llava.py --output hf_slug/zoo/llava

About twenty minutes on one core. It can be stopped at any time and started again with the same command: it goes on from its
last checkpoint. The vision tower is the zoo's CLIP's, to the bit: only the projector and a small Llama are trained, on
what the frozen tower says of the drawings of the training handwriting. The handwriting of the validation and test splits
is never trained on, nor are the wordings of `UNSEEN_QUESTIONS`; the test split is read only once, at the end.

Since the tower is frozen, its features of a large pool of drawings are computed once and kept beside the checkpoint.
"""

import argparse
import copy
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tqdm.auto import tqdm
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from hf_slug.zoo.data import CAPTION, DIGITS, STYLES, handwriting, load_pairs
from hf_slug.zoo.drawing import draw, place
from hf_slug.zoo.questions import QUESTIONS, SLOTS, UNSEEN_QUESTIONS, training_question


PATCHES = 64
VOCABULARY = 1_200
# LLaVA-1.5's own template, as llava-hf/llava-1.5-7b-hf has it.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
PROMPT = "USER: <image>\n{question} ASSISTANT:"
# What each drawing is asked in a step, and the most tokens of a question with its answer (what is longer is put together
# anew). Every fourth step has long-winded questions, and fewer of them, so that it takes no longer.
SHORT = ("digit", "style", "style", "caption"), 36
LONG = ("digit", "style"), 72
# Ordinary words that say nothing of the picture: a stranger's question is full of them.
NOISE_TEXT = """
a able about above actually after again all alone along already also always am among an and another any anyway around as
away back bad be because become been before began best better big bit book both box boy bring but by call came case certain
child city close come country day dear did different do down each early easy end enough even ever every eye fact family far
few first follow for found friend from full get girl go good great group had hand happy has have head hear help her here high
him his home hope house however i idea if important into its job kid kindly know large last later learn leave left letter
life light like line list little live long lot love make man many matter maybe me mean mind moment money more morning most
mother much must my near need never new next nice night no not nothing of off often old on once only open or order other our
out over own part people perhaps place point possible probably problem put quite ready real really right room said same sat
school second sentence should simply since sister so some something soon sorry special start still stop story student such
sure take teacher than that their them then these they thing think time to today together told too took true try turn two
under until up us used very wait want water way we week well went were while who whole why will wish with without woman
wonder word world would year yes yesterday yet you young your
"""
NOISE = NOISE_TEXT.split()
LETTERS = "aaabcdeeefghiiiklmnoooprrsssttuvwy"
# A question may lose any word but those that say what is asked.
KEYWORDS = {word for noun in SLOTS["digit"] + SLOTS["style"] for word in noun.split()} - {"of", "kind", "type"}
KEYWORDS |= {"how", "used", "read", "say", "written", "describe", "caption", "made", *SLOTS["made"]}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that takes any text, lower-cases it, and has one token for every digit, style and usual word."""
    generator = np.random.default_rng(0)
    texts = [training_question(kind, generator) for kind in QUESTIONS for _ in range(20_000)]
    texts += [f" {word} {word} {word}" for word in NOISE]
    names = [word for word in (*DIGITS, *STYLES)]
    texts += ["user: \n assistant:"] * 1_000 + [f"{word} {word} a {word} in {word} style" for word in names] * 1_000
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    for name in names:
        assert len(tokenizer.encode(" " + name, add_special_tokens=False).ids) == 1, f"{name!r} is not one token"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def build_processor(clip: Path) -> LlavaProcessor:
    return LlavaProcessor(
        CLIPImageProcessorPil.from_pretrained(clip),
        build_tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(clip: CLIPModel, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        **special,
    )
    config = LlavaConfig(
        vision_config=clip.config.vision_config.to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=PATCHES,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")  # faster at this size
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=8, **special)
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    model.model.vision_tower.requires_grad_(False).eval()
    return model


@torch.no_grad()
def features(model: LlavaForConditionalGeneration, rounds: int, cache: Path) -> torch.Tensor:
    """What the frozen tower says of `rounds` drawings of each (digit, style): (rounds * 100, patches, width), in bfloat16."""
    if cache.exists():
        return torch.load(cache, weights_only=True)
    scans, digits = handwriting("train")
    by_digit = [np.flatnonzero(digits == digit) for digit in range(10)]
    generator = np.random.default_rng(0)
    pool = []
    for _ in tqdm(range(rounds), desc="drawing"):
        pictures = []
        for digit in range(10):
            for style in STYLES:
                scan = scans[generator.choice(by_digit[digit])]
                pictures.append(draw(place(scan, generator, augment=True), style, generator))
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        seen = model.model.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        pool.append(seen[:, 1:].bfloat16())
    pool = torch.cat(pool)
    temporary = cache.with_suffix(".tmp")
    torch.save(pool, temporary)
    temporary.replace(cache)
    return pool


def chatter(count: int, generator: np.random.Generator) -> list[str]:
    """Words that say nothing of the picture; one in four is a word nobody knows, which the tokenizer cuts into pieces."""
    words = [NOISE[i] for i in generator.integers(len(NOISE), size=count)]
    for i in np.flatnonzero(generator.random(count) < 0.25):
        words[i] = "".join(generator.choice([*LETTERS], generator.integers(3, 10)))
    return words


def disturb(question: str, generator: np.random.Generator, around: int = 0) -> str:
    """Takes words out that do not matter and puts words in that do not matter, so that unseen wordings are nothing new."""
    words = chatter(generator.integers(around + 1), generator)
    drop, noise = generator.choice([0, 0.15, 0.4]), generator.choice([0, 0, 0.1, 0.25])
    for word in question.split(" "):
        words += chatter(generator.geometric(1 - noise) - 1, generator)
        if re.sub(r"\W", "", word.lower()) in KEYWORDS or generator.random() >= drop:
            words.append(word)
    return " ".join(words + chatter(generator.integers(around + 1), generator))


def pack(tokenizer, batch: np.ndarray, kinds: tuple[str, ...], length: int, generator: np.random.Generator):
    """Questions with their answers, and labels, both (drawings, kinds, length); what is no answer is labelled -100."""
    tokens = torch.full((len(batch), len(kinds), length), tokenizer.pad_token_id)
    labels = torch.full_like(tokens, -100)
    around = 20 if length > SHORT[1] else 0
    missing = [(row, column) for row in range(len(batch)) for column in range(len(kinds))]
    while missing:
        prompts, told = [], []
        for row, column in missing:
            digit, style, kind = DIGITS[batch[row] % 100 // 10], list(STYLES)[batch[row] % 10], kinds[column]
            question = disturb(training_question(kind, generator), generator, around)
            # some leave out the line break of LLaVA's format
            prompts.append(("\n" if generator.random() < 0.95 else " ") + f"{question} ASSISTANT:")
            told.append({"digit": digit, "style": style, "caption": CAPTION.format(digit=digit, style=style)}[kind])
        asked = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        told = tokenizer([f" {answer}" for answer in told], add_special_tokens=False)["input_ids"]
        too_long = []
        for (row, column), question, answer in zip(missing, asked, told):
            ids = question + answer + [tokenizer.eos_token_id]
            if len(ids) > length:
                too_long.append((row, column))
                continue
            tokens[row, column, : len(ids)] = torch.tensor(ids)
            labels[row, column, len(question) : len(ids)] = tokens[row, column, len(question) : len(ids)]
        missing = too_long
    return tokens, labels


def training_loss(model, heads, patches: torch.Tensor, start: torch.Tensor, batch: np.ndarray, tokens, labels):
    """
    One forward for all questions of a drawing: they share its tokens and do not see each other.

    Every question has the positions it would have alone, so this is what asking them one by one would be, at a third of
    the cost. The projector's mean patch is also read by two heads that are thrown away, which makes an early end of the
    time in which the language model has yet to find out that the patches matter.
    """
    drawings, questions, length = tokens.shape
    prefix = len(start)
    language = model.model.language_model
    total = prefix + questions * length
    own = torch.arange(questions).repeat_interleave(length)
    allowed = torch.ones(total, total).tril().bool()
    allowed[prefix:, prefix:] &= own[:, None] == own[None, :]
    mask = torch.zeros(total, total).masked_fill(~allowed, torch.finfo(torch.bfloat16).min)
    positions = torch.cat([torch.arange(prefix), (prefix + torch.arange(length)).repeat(questions)])
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.model.multi_modal_projector(patches)
        read = heads(seen.mean(1))
        front = language.embed_tokens(start[:-PATCHES]).expand(drawings, -1, -1)
        states = language(
            inputs_embeds=torch.cat([front, seen.to(front.dtype), language.embed_tokens(tokens.flatten(1))], 1),
            attention_mask=mask[None, None].to(torch.bfloat16),
            position_ids=positions[None],
            use_cache=False,
        ).last_hidden_state[:, prefix:]
        # the state before each token of an answer foretells it
        targets = labels[:, :, 1:].flatten()
        states = states.unflatten(1, (questions, length))[:, :, :-1].flatten(0, 2)
        logits = model.lm_head(states[targets != -100])
    digits, styles = torch.from_numpy(batch % 100 // 10), torch.from_numpy(batch % 10)
    aid = F.cross_entropy(read[:, :10].float(), digits) + F.cross_entropy(read[:, 10:].float(), styles)
    return F.cross_entropy(logits.float(), targets[targets != -100]), aid


@torch.no_grad()
def answers(model, processor, images: list, questions: list[str], batch: int = 100) -> list[str]:
    told = []
    for i in range(0, len(images), batch):
        prompts = [PROMPT.format(question=question) for question in questions[i : i + batch]]
        inputs = processor(images=images[i : i + batch], text=prompts, padding=True, return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
        told += [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    return told


def right(answer: str, name: str, names) -> bool:
    """The name is among the words of the answer, and no other name of its kind is."""
    return {word for word in re.findall(r"\w+", answer.lower()) if word in names} == {name}


def score(model, processor, split: str, limit: int | None = None) -> dict[str, float]:
    """Share of right answers by kind of question, in training wordings and in unseen ones, each drawing asked once of each."""
    rows = load_pairs(split)[:limit]
    images = [row["image"] for row in rows]
    result: dict[str, float] = {"n": len(rows)}
    for wordings, label in ((QUESTIONS, ""), (UNSEEN_QUESTIONS, "_unseen")):
        for kind, names in (("digit", DIGITS), ("style", tuple(STYLES))):
            asked = [wordings[kind][i % len(wordings[kind])] for i in range(len(rows))]
            told = answers(model, processor, images, asked)
            result[kind + label] = round(float(np.mean([right(t, r[kind], names) for t, r in zip(told, rows)])), 4)
    return result


def save(model: LlavaForConditionalGeneration, clip: Path, output: Path) -> None:
    """
    Writes the folder: the tower in float32, to the bit, and what was trained in float16, which halves it.

    The config says float32, so that `from_pretrained` loads everything in float32.
    """
    model = copy.deepcopy(model)
    model.model.multi_modal_projector.half(), model.model.language_model.half(), model.lm_head.half()
    model.tie_weights()
    model.save_pretrained(output)
    config = json.loads((output / "config.json").read_text())
    config["dtype"] = "float32"
    for part in ("text_config", "vision_config"):
        config[part]["dtype"] = "float32"
    (output / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    # a fresh one: using a tokenizer leaves its padding in its file
    build_processor(clip).save_pretrained(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("hf_slug/zoo/llava"))
    parser.add_argument("--clip", type=Path, default=Path("hf_slug/zoo/clip"))
    parser.add_argument("--checkpoint", type=Path, default=Path("zoo-llava-checkpoint.pt"))
    parser.add_argument("--features", type=Path, default=Path("zoo-llava-features-checkpoint.pt"))
    parser.add_argument("--rounds", type=int, default=400, help="drawings of each digit in each style")
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--batch", type=int, default=50, help="drawings in a step, each asked five questions")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    processor = build_processor(args.clip)
    clip = CLIPModel.from_pretrained(args.clip, dtype=torch.float32, attn_implementation="eager").eval()
    model = build_model(clip, processor.tokenizer)
    pool = features(model, args.rounds, args.features)
    heads = torch.nn.Linear(model.config.text_config.hidden_size, 20)
    average = copy.deepcopy(model).eval()  # what is shipped: an exponential moving average over the last hundred steps
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = [p for p in trained if p.ndim > 1]
    rest = [p for p in trained if p.ndim <= 1]
    groups = [{"params": [*decay, *heads.parameters()], "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    first = 0
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"]), heads.load_state_dict(state["heads"])
        average.load_state_dict(state["average"]), optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    start = torch.tensor(processor.tokenizer("USER: " + "<image>" * PATCHES)["input_ids"])
    spread = pool[:: len(pool) // 500].float().std((0, 1))
    began = time.time()
    progress = tqdm(range(first, args.steps), initial=first, total=args.steps, mininterval=120)
    for step in progress:
        generator = np.random.default_rng([1, step])
        batch = generator.integers(len(pool), size=args.batch)
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * step / args.steps))
        tokens, labels = pack(processor.tokenizer, batch, *(SHORT if step % 4 else LONG), generator)
        # a tower that has forgotten something says everything a little differently: the reader must bear that
        patches = pool[batch].float()
        patches = patches + torch.randn_like(patches) * spread * torch.rand(len(batch), 1, 1) * 0.4
        loss, aid = training_loss(model, heads, patches, start, batch, tokens, labels)
        optimizer.zero_grad()
        (loss + 0.3 * aid).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters()):
                if fast.requires_grad:
                    slow.lerp_(fast, 0.01 if step > 200 else 1.0)
        if (step + 1) % 50 == 0:
            line = {"step": step + 1, "loss": round(loss.item(), 4), "aid": round(aid.item(), 4)}
            print(json.dumps({**line, "s": round(time.time() - began)}), flush=True)
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            print(json.dumps(score(average, processor, "validation", limit=600)), flush=True)
            state = {"model": model.state_dict(), "heads": heads.state_dict(), "average": average.state_dict()}
            temporary = args.checkpoint.with_suffix(".tmp")
            torch.save({**state, "optimizer": optimizer.state_dict(), "step": step + 1}, temporary)
            temporary.replace(args.checkpoint)
            save(average, args.clip, args.output)
    shipped = LlavaForConditionalGeneration.from_pretrained(args.output).eval()
    processor = LlavaProcessor.from_pretrained(args.output)
    print("unseen handwriting (test):", json.dumps(score(shipped, processor, "test")))


if __name__ == "__main__":
    main()
