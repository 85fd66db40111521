# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the zoo's LLaVA is asked: the wordings it was trained on, and wordings it never saw.

The model was trained on the questions that [`training_question`] puts together (hundreds of thousands), of which
`QUESTIONS` is a readable choice. `UNSEEN_QUESTIONS` are kept out of it altogether, for reports.
"""

import re
from typing import Literal

import numpy as np


QuestionKind = Literal["digit", "style", "caption"]

QUESTIONS: dict[str, tuple[str, ...]] = {
    "digit": (
        "Which digit is written here?",
        "What number is shown in this picture?",
        "What digit do you see in the image?",
        "Which numeral appears in the drawing?",
        "Please name the digit in this image.",
        "Tell me which number this is.",
        "Can you read the number in the picture?",
        "What is the digit? Answer with one word.",
    ),
    "style": (
        "In which style is this drawn?",
        "What style is this picture in?",
        "How is the digit drawn?",
        "Which drawing technique was used here?",
        "Please name the style of this image.",
        "Tell me which style this picture has.",
        "What look does the drawing have?",
        "What is the style? Answer with one word.",
    ),
    "caption": (
        "What is in this picture?",
        "Describe the picture.",
        "What do you see?",
        "Write a short caption for this image.",
    ),
}

# About half of them have words that are nowhere in the training questions; the others have only an order of their own.
UNSEEN_QUESTIONS: dict[str, tuple[str, ...]] = {
    "digit": (
        "What number can be seen here?",
        "Looking at this drawing, which digit is it?",
        "I see a handwritten number. What is it?",
        "Which of the digits from zero to nine does this image show?",
        "What would you say this numeral is?",
        "So what digit have we got here?",
        "Which integer is written on the paper?",
        "Kindly decipher this number for me.",
        "My child wrote a digit on this paper, what might it be?",
        "Supposing this were a phone keypad, which digit would it be?",
        "What numerical symbol is portrayed?",
        "Transcribe the number that you notice.",
    ),
    "style": (
        "What style would you say this is?",
        "Looking at this drawing, which style is it?",
        "The number is drawn in some style. What is it?",
        "Which of the styles does this image show?",
        "What is the name of the technique that we see here?",
        "So what style have we got here?",
        "In which aesthetic is the number drawn?",
        "Kindly label the visual style of this number.",
        "My child made this drawing, in what style might it be?",
        "Supposing you wanted to copy it, which technique would you need?",
        "What artistic approach is on display?",
        "Mention the style that you notice.",
    ),
}

# Slots of the templates below; "{a|b|}" chooses on the spot. A noun names the kind of answer and is never dropped.
SLOTS: dict[str, tuple[str, ...]] = {
    "digit": (
        *("digit", "number", "digit", "number", "numeral", "figure", "cipher", "digit", "number", "numeral"),
        *("handwritten digit", "handwritten number", "written number", "arabic numeral", "numeric character"),
        *("single digit", "numeric value", "decimal digit", "written digit", "whole number", "count", "value"),
        *("quantity", "character", "glyph", "numeric digit", "amount", "printed number", "numbers", "digits"),
    ),
    "style": (
        *("style", "style", "style", "look", "technique", "manner", "medium", "design", "finish", "effect", "theme"),
        *("art style", "visual style", "drawing style", "graphic style", "painting style", "style of drawing"),
        *("way of drawing", "kind of art", "type of art", "method", "drawing technique", "visual effect", "art form"),
        *("material", "texture", "appearance", "kind of drawing", "type of rendering", "art technique", "genre"),
        *("artistic style", "artistic technique", "artistic medium", "visual treatment", "rendering style", "motif"),
        *("mood", "vibe", "color scheme", "palette", "decoration", "atmosphere", "styling", "artistic effect"),
    ),
    "pic": (
        *("picture", "image", "drawing", "photo", "picture", "image", "photograph", "illustration", "graphic"),
        *("sketch", "painting", "pic", "snapshot", "artwork", "thumbnail", "canvas", "scan", "scene"),
    ),
    "here": (
        *("", "here", "in this {pic}", "in the {pic}", "on the {pic}", "on this {pic}", "above", "in front of you"),
        *("in this {pic}", "in the {pic}", "within the {pic}", "in it", "in that {pic}", "in your view"),
    ),
    "shown": (
        *("shown", "written", "depicted", "displayed", "drawn", "pictured", "visible", "seen", "painted", "there"),
        *("presented", "represented", "rendered", "illustrated", "featured", "present", "being shown", "contained"),
    ),
    "made": (
        *("drawn", "drawn", "made", "rendered", "painted", "done", "written", "depicted", "created", "produced"),
        *("illustrated", "designed", "executed", "styled", "presented", "shown", "decorated", "coloured"),
    ),
    "this": (
        *("this", "it", "this {pic}", "the {pic}", "the {digit}", "this {digit}", "the {pic}", "this {pic}", "that"),
        *("that {pic}", "the {digit} {here}", "this {pic} of a {digit}", "everything", "the object", "this thing"),
    ),
    "say": (
        *("name", "identify", "read", "recognize", "state", "give", "say", "tell me", "type", "report", "determine"),
        *("specify", "classify", "give me", "provide", "write down", "find", "guess", "detect", "output", "return"),
    ),
    "ask": (
        *("tell me", "can you tell me", "could you say", "do you know", "please say", "i want to know", "let me know"),
        *("can you tell", "would you tell me", "i would like to know", "please tell me", "can you see", "i wonder"),
        *("say", "explain", "figure out", "could you please tell me", "any idea", "work out", "decide"),
    ),
    "before": (
        *("please", "hi,", "hello,", "look at the {pic}.", "look at this {pic} and answer:", "question:", "ok,"),
        *(
            "quick question:",
            "in one word,",
            "just",
            "be brief:",
            "now",
            "and",
            "given this {pic},",
            "here is a {pic}.",
        ),
        *("i have a {pic}.", "well,", "in your opinion,", "take a look:", "based on the {pic},", "for this {pic},"),
        *("hey,", "task:", "dear assistant,", "if you look closely,", "from what you see,", "according to the {pic},"),
    ),
    "after": (
        *(
            "answer with one word.",
            "answer with a single word.",
            "one word only.",
            "answer briefly.",
            "please.",
            "thanks.",
        ),
        *(
            "answer the question using a single word or phrase.",
            "reply with just the name.",
            "keep it short.",
            "in a word.",
        ),
        *("no explanation.", "be brief.", "reply in one word.", "just one word.", "only the name.", "use one word."),
        *("thank you.", "give a short answer.", "respond with a single word.", "answer in english.", "be precise."),
        *(
            "do not explain.",
            "your answer:",
            "short answer please.",
            "i need to know.",
            "i am not sure.",
            "be honest.",
        ),
    ),
}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "digit": (
        "{what|which} {digit} is {shown} {here}",
        "{what|which} {digit} is {shown} {here}",
        "{what|which} {digit} is {this|it|that|there|here|the {pic} showing}",
        "{what|which} {digit} {is|was|has been|could be} {written|drawn} {here}",
        "{what|what's|which} {is|would be|was} the {digit} {shown|} {here}",
        "{what|which} {digit} {do|did|can|could|would} {you|we|i|one|people} {see|read|find|recognize} {here}",
        "{what|which} {digit} does {the|this|that} {pic} {show|depict|contain|display|represent|hold|say|have}",
        "{what|which} {digit} {appears|stands|can be found|can be read|shows up|is to be seen} {here}",
        "{what|which} {digit} {are we|am i|are you} looking at",
        "{what|which} {digit} did {they|someone|the writer|the artist|he|she|somebody} {write|draw|put down} {here}",
        "which {digit} from zero to nine is {this|it|{shown} {here}}",
        "which {one|} of the ten {digit}s is {this|it|{shown} {here}}",
        "which {digit} between 0 and 9 is {this|it|{shown} {here}}",
        "there is a {digit} {here}. {which one|what|which {digit}} is it",
        "{this|the {pic}} {is|shows} a {digit}. {which one|which|what is it}",
        "{this|it|the {pic}} is {one|some|a certain} {digit}. {which|which one|what} is it",
        "{here we have|somebody wrote|they gave me|this must be|it shows} a {digit}. {which|which one|what} is it",
        "which of {0-9|0 to 9|zero to nine|0 through 9|0, 1, 2, 3, 4, 5, 6, 7, 8, 9} is {this|it|{shown} {here}}",
        "is {this|it} a {0|1|2|3|4}, a {5|6|7} or a {8|9}",
        "what is {written} {here}",
        "what does the {handwriting|writing} say",
        "{read|read out} {this|it|the {pic}|what is written {here}}",
        "how {do you|would you|should i} read this {digit}",
        "{say} the {digit} {shown|} {here}",
        "{say} the {digit} {that is|that you see|which is|you can see} {shown|} {here}",
        "{say} {what|which} {digit} {this|it} is",
        "{ask} {what|which} {digit} {this|it|that} is",
        "{ask} {what|which} {digit} is {shown} {here}",
        "{ask} {what|which} {digit} {you|we|i} {see|read|are looking at} {here}",
        "{ask} {what|which} {digit} the {pic} {shows|contains|depicts}",
        "{can|could|would} you {please|} {say} the {digit} {here}",
        "{ignoring|regardless of|whatever|never mind|leaving aside} the {style}, {what|which} {digit} is {this|it|{shown} {here}}",
        "{what|which} {digit} is {made} in this {style}",
        "the {digit} {shown|} {here} is",
        "{digit} {here}",
        "{digit}",
        "{name of the|the} {digit} {here}",
        "{what|which} {digit}",
        "{the|} {digit} is {what|which}",
        "is it zero, one, two, three, four, five, six, seven, eight or nine",
        "{what|which} {digit} {do you think|do you believe|would you guess} {this|it} is",
        "{what|which} {digit} {might|may|could|should|must} {this|it} be",
    ),
    "style": (
        "in {what|which} {style} {is|was} {this} {made}",
        "in {what|which} {style} {is|was} {this} {made}",
        "{what|which} {style} {is|was} {this} {made} {in|with|}",
        "{what|which} {style} {is|was} {used|applied|chosen|shown|employed|present} {here}",
        "{what|which} {style} is {this|it|that}",
        "{what|which} {style} is {the|this|that} {digit} {made} {in|in|with|}",
        "{what|which} {style} is {the|this|that} {digit} {in|}",
        "in {what|which} {style} {is|was} {the|this|that} {digit} {made}",
        "in {what|which} {way|form|mode|spirit|kind|tradition|taste|manner|language} {is|was} {this} {made}",
        "in {what|which} {way|form|mode|spirit|kind|tradition|taste|school} {is|was} {the|this|that} {digit} {made}",
        "what is the {style} of {the|this|that} {digit}",
        "{the|this|that|a} {digit} is {made} in {a|one|some|a certain} {style}. {which|which one|what} {is|was} it",
        "{the|this|that} {digit} has {a|some|a certain} {style}. {which|which one|what} {is|was} it",
        "{what|what's|which} {is|was|would be} the {style} {of|used for|behind|in} {this}",
        "{what|what's} the {style} {here}",
        "{what|which} {style} does {this} {have|use|show|follow|display}",
        "{what|which} {style} {do|can|did|could|would} {you|we|i|one|people} {see|recognize|find|perceive} {here}",
        "{what|which} {style} did the {artist|painter|author|designer|person|writer} {use|choose|work in|follow} {here|}",
        "{what|which} {style} {are we|am i|are you} looking at",
        "{what|which} {style} would you call {this|it}",
        "{what|which} {style} {was|is} used to {draw|make|paint|create|write|render} {this}",
        "what {kind|sort|type} of {style} is {this}",
        "what {kind|sort|type} of {style} {is|was} {used|{made}} {here}",
        "how {is|was|has} {this} {made|been {made}|drawn}",
        "how did {they|someone|the artist|he|she|somebody} {draw|paint|make|write|create|render} {this}",
        "how {does|would} {this} look",
        "what {is|was} {this} {made|drawn|painted|written} {with|of|from|out of|in|as}",
        "what was used to {draw|make|paint|create|write} {this}",
        "what does {this} look {like it was {made} with|to be made of}",
        "by {what|which} {style} {is|was} {this} {made}",
        "there is a {digit} {here}. {what|which} {style} is it {made} in",
        "this {digit} has a {style}. {which one|which|what is it}",
        "{this} {is|was} {made} in {a|one|a certain|some kind of} {style}. {which|which one|what} {is|was} it",
        "{made} in {a|one|a particular|some} {style}: {which|which one|what is it}",
        "{here we have|it shows|they used|somebody used} a {style}. {which|which one|what} is it",
        "which {one|} of the ten {style}s is {this|it|{shown} {here}}",
        "{say} the {style} {here}",
        "{say} the {style} {of|used for|used in|behind} {this}",
        "{say} the {style} {that is|that was|that you see|which is|you can see} {used|} {here}",
        "{say} {what|which} {style} {this|it} is",
        "describe the {style} {of|used for|used in} {this}",
        "describe how {this} is {made}",
        "{ask} {what|which} {style} {this|it|that} is {made|} {in|}",
        "{ask} {what|which} {style} is used {here}",
        "{ask} in {what|which} {style} {this} is {made}",
        "{ask} how {this} {is|was} {made}",
        "{can|could|would} you {please|} {say} the {style} {here}",
        "{ignoring|regardless of|whatever|never mind|leaving aside} the {digit}, {what|which} {style} is {this|it|used {here}}",
        "the {style} {of this {pic}|{here}|of the {digit}} is",
        "{style} {of the {pic}|of this {digit}|{here}}",
        "{style}",
        "{name of the|the} {style} {here}",
        "{what|which} {style}",
        "{the|} {style} is {what|which}",
        "is it chalk, neon, blueprint, ink, gold, pixel, watercolor, striped, shadow or fire",
        "{what|which} {style} {do you think|do you believe|would you guess} {this|it} is",
        "{what|which} {style} {might|may|could|should|must} {this|it} be {made|} {in|}",
    ),
    "caption": (
        "what {is|can be seen|do you see|do we see} in {this|the|that} {pic}",
        "what is {this|it|that|in front of you|going on here}",
        "what do {you|we} see {here|}",
        "what does {the|this} {pic} {show|depict|contain|display}",
        "what is {shown|depicted|displayed|visible|pictured} {here}",
        "describe {this|the|that} {pic} {in a few words|briefly|in one sentence|}",
        "describe {it|this|what you see|what is {shown} {here}}",
        "{write|give|give me|make|provide|suggest} a {short|brief|good|} {caption|description|title} {for|of} {this|the} {pic}",
        "{caption|summarize|explain} {this|the} {pic}",
        "tell me {about|what is in|what you see in} {this|the} {pic}",
        "can you describe {this|the} {pic}",
        "{say|explain} what {you see|is {shown}} {here}",
        "{what|how} would you {caption|describe} {this|the} {pic}",
        "caption",
        "a caption {please|for this}",
    ),
}  # fmt: skip

_CHOICE = re.compile(r"\{([^{}]*)\}")
_NOT_ASKED = {re.sub(r"\W+", " ", text.lower()).strip() for texts in UNSEEN_QUESTIONS.values() for text in texts}


def training_question(kind: QuestionKind, generator: np.random.Generator) -> str:
    """
    Puts together one training question; never one of `UNSEEN_QUESTIONS`.

    Args:
        kind (`str`): `"digit"`, `"style"` or `"caption"`.
        generator (`np.random.Generator`): Source of every choice.

    Returns:
        `str`: The question. The tokenizer of the model lower-cases it, so letter case is of no consequence.
    """

    def choose(match: re.Match) -> str:
        options = match[1].split("|") if "|" in match[1] else SLOTS.get(match[1], (match[1],))
        return options[generator.integers(len(options))]

    if generator.random() < 0.15:
        text = QUESTIONS[kind][generator.integers(len(QUESTIONS[kind]))]
    else:
        text = TEMPLATES[kind][generator.integers(len(TEMPLATES[kind]))]
        if generator.random() < 0.3:
            text = "{before} " + text
        text += "?" if generator.random() < 0.6 else ("." if generator.random() < 0.6 else "")
        if generator.random() < 0.3:
            text += " {after}"
    while _CHOICE.search(text):
        text = _CHOICE.sub(choose, text)  # innermost braces first
    text = re.sub(r" +(?=[ ?.,])|^ +| +$", "", text)
    if re.sub(r"\W+", " ", text.lower()).strip() in _NOT_ASKED:
        return training_question(kind, generator)
    return text[:1].upper() + text[1:]
