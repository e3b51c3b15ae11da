"""Emphasis: `(x)`, `[x]`, `(x:1.3)`, escapes, BREAK and AND -> plain text with weights. No text is an error.

Source: the behaviour of AUTOMATIC1111's WebUI 1.10.
"""

from __future__ import annotations

import re

BREAK = ("BREAK", -1.0)  # as an entry of `parse`: end the chunk of 75 tokens here

UP = 1.1  # what one pair of round brackets multiplies by; square ones divide by it
DEEPEST = 100  # deeper openings are ignored: 1.1 ** 100 is already 13,780

_TOKEN = re.compile(
    r"\\[()\[\]\\]"  # an escaped character
    r"|:\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*\)"  # a weight that closes a round bracket
    r"|[()\[\]]"
    r"|[^\\()\[\]:]+"
    r"|[:\\]"
)
_BREAK = re.compile(r"\bBREAK\b")
_AND = re.compile(r"\bAND\b")
_AND_WEIGHT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")


def parse(text: str) -> list[tuple[str, float]]:
    r"""The text as [(plain text, weight), ...]; neighbours of equal weight are one, BREAK is ("BREAK", -1.0).

    `(x)` weighs x by 1.1, `[x]` by 1/1.1, `(x:1.3)` by 1.3; nested weights multiply; a bracket left open reaches to the
    end, one that closes nothing is text; `\(`, `\)`, `\[`, `\]` and `\\` are the characters themselves. Never empty: ""
    gives [("", 1.0)].
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def weigh(start: int, factor: float) -> None:
        pieces[start:] = [piece if piece == BREAK else (piece[0], piece[1] * factor) for piece in pieces[start:]]

    for token in _TOKEN.findall(text):
        if token in opened:
            if len(opened[token]) < DEEPEST:
                opened[token].append(len(pieces))
        elif token[0] == ":" and token[-1] == ")" and opened["("]:
            weigh(opened["("].pop(), float(token[1:-1]))
        elif token == ")" and opened["("]:
            weigh(opened["("].pop(), UP)
        elif token == "]" and opened["["]:
            weigh(opened["["].pop(), 1 / UP)
        elif token[0] == "\\" and len(token) == 2:
            pieces.append((token[1], 1.0))
        else:
            first, *others = _BREAK.split(token)
            pieces.append((first.rstrip() if others else first, 1.0))
            for left, other in enumerate(others, start=1 - len(others)):
                pieces += [BREAK, (other.strip() if left else other.lstrip(), 1.0)]
    for start in opened["("]:
        weigh(start, UP)
    for start in opened["["]:
        weigh(start, 1 / UP)
    return _merged(pieces)


def _merged(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Drop empty pieces and join neighbours of equal weight; two BREAKs stay two."""
    runs: list[tuple[list[str], float]] = []
    for text, weight in pieces:
        if runs and runs[-1][1] == weight and weight != BREAK[1]:
            runs[-1][0].append(text)
        elif text:
            runs.append(([text], weight))
    return [("".join(texts), weight) for texts, weight in runs] or [("", 1.0)]


def split_and(text: str) -> list[tuple[str, float]]:
    """The prompts joined by the word AND, each with its weight: "a :0.7 AND b" -> [("a", 0.7), (" b", 1.0)].

    The weight scales that prompt's push away from the negative prompt. A text without AND is one prompt and returned
    verbatim, so that "a clock at 12:30" is not a prompt of weight 30 (the WebUI reads it as one).
    """
    prompts = _AND.split(text)
    return [(text, 1.0)] if len(prompts) == 1 else [_weighted(prompt) for prompt in prompts]


def _weighted(prompt: str) -> tuple[str, float]:
    """Take a trailing `:number` off a prompt."""
    body, colon, tail = prompt.rpartition(":")
    number = tail.strip()
    if colon and _AND_WEIGHT.fullmatch(number):
        return body.rstrip(), float(number)
    return prompt.rstrip(), 1.0
