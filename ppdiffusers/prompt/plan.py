"""A batch of prompts over the steps of a pass: encoded once, then looked up step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import paddle
from paddle import Tensor

from ppdiffusers.prompt.encode import DEFAULT, Conditioning, Encoding, PromptSettings, TextEncoders, stack
from ppdiffusers.prompt.schedule import schedule
from ppdiffusers.prompt.weight import split_and

Row = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Part:
    """One prompt, or one side of an AND: for which picture, how strongly, and its texts over the steps."""

    picture: int
    weight: float
    texts: tuple[tuple[int, str], ...]

    def at(self, step: int) -> str:
        """The text at a step counted from 0; beyond the last step the last text."""
        return next((text for last, text in self.texts if step < last), self.texts[-1][1])


@dataclass(frozen=True, eq=False)
class Side:
    """All prompts, or all negative prompts, with each of their texts encoded."""

    parts: tuple[Part, ...]
    rows: dict[str, Row]

    def at(self, step: int) -> Conditioning:
        """The parts' texts at a step as a batch."""
        return stack([self.rows[part.at(step)] for part in self.parts])


@dataclass(frozen=True)
class Pass:
    """The pass that prompts are planned for; `hires_steps` makes it the second one, after `steps` of the first."""

    steps: int
    hires_steps: int | None = None

    def plan(self, text: str) -> tuple[tuple[int, str], ...]:
        """A text's schedule over this pass."""
        return tuple(schedule(text, self.steps, self.hires_steps))


@dataclass(frozen=True, eq=False)
class Told:
    """What the UNet is told at one step.

    `cond` has a row for every part of every picture: row r belongs to picture `pictures[r]` and counts `weights[r]`
    times. Without AND these are 0..B-1 and ones. `uncond` has a row for every picture, None without negative prompts.
    The two may differ in length (L): then they cannot share one call of the UNet. Guidance for picture b is
    `uncond[b] + scale * sum(weights[r] * (cond[r] - uncond[b]) for its rows r)`.
    """

    cond: Conditioning
    uncond: Conditioning | None
    pictures: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def simple(self) -> bool:
        """Whether every picture has one part of weight 1, so that guidance is the usual one."""
        return self.pictures == tuple(range(len(self.pictures))) and set(self.weights) == {1.0}

    def layers(self) -> list[Layer]:
        """`cond` as full batches: the first parts of all pictures, the second ones, ...; usually one layer of weight 1.

        Where a picture has fewer parts than another, its first one stands in with weight 0.
        """
        if self.simple:
            return [Layer(self.cond, 1.0)]
        rows: dict[int, list[int]] = {}
        for row, picture in enumerate(self.pictures):
            rows.setdefault(picture, []).append(row)
        held = [rows[picture] for picture in sorted(rows)]
        return [self._layer(held, depth) for depth in range(max(map(len, held)))]

    def _layer(self, held: list[list[int]], depth: int) -> Layer:
        rows = [own[depth] if depth < len(own) else own[0] for own in held]
        weights = tuple(self.weights[own[depth]] if depth < len(own) else 0.0 for own in held)
        pooled = None if self.cond.pooled is None else paddle.stack([self.cond.pooled[row] for row in rows])
        cond = Conditioning(paddle.stack([self.cond.text[row] for row in rows]), pooled)
        return Layer(cond, weights[0] if len(set(weights)) == 1 else weights)


@dataclass(frozen=True, eq=False)
class Layer:
    """One part of the prompt of every picture: (B, L, D), and its weight for all or for each picture."""

    cond: Conditioning
    weight: float | tuple[float, ...]


class PromptPlan:
    """Everything the prompts of a batch say, encoded; the text encoders are not needed any more."""

    def __init__(self, asked: Side, denied: Side) -> None:
        self.asked = asked
        self.denied = denied
        self._last: tuple[tuple[str, ...], Told] | None = None

    def at(self, step: int) -> Told:
        """What holds at a step, counted from 0; the very same object as long as no text changes."""
        texts = self.texts(step)
        if self._last is None or self._last[0] != texts:
            parts = self.asked.parts
            told = Told(
                self.asked.at(step),
                self.denied.at(step) if self.denied.parts else None,
                tuple(part.picture for part in parts),
                tuple(part.weight for part in parts),
            )
            self._last = (texts, told)
        return self._last[1]

    def texts(self, step: int) -> tuple[str, ...]:
        """What is said at a step: a text for each row of `cond`, then for each of `uncond`."""
        return tuple(part.at(step) for part in (*self.asked.parts, *self.denied.parts))


def plan(
    encoders: TextEncoders,
    prompts: Sequence[str],
    negatives: Sequence[str] | None,
    during: Pass,
    settings: PromptSettings = DEFAULT,
) -> PromptPlan:
    """Encode a prompt and a negative prompt for each picture, over the steps of a pass.

    Tags (`<lora:..>`), comments and styles have been taken out before (network.py). AND works in prompts, not in
    negative prompts. `negatives` None is for a guidance of 1, which needs none; where a prompt has AND they count as
    empty, since parts are weighed against them. ValueError for lists of different length.
    """
    if not prompts or (negatives is not None and len(negatives) != len(prompts)):
        raise ValueError(
            f"{len(prompts)} prompts and {len(negatives or ())} negative prompts; each picture needs one of both"
        )
    parts = [
        Part(picture, weight, during.plan(text))
        for picture, prompt in enumerate(prompts)
        for text, weight in split_and(prompt)
    ]
    needless = negatives is None and len(parts) == len(prompts)
    against = [] if needless else negatives or [""] * len(prompts)
    denied = [Part(picture, -1.0, during.plan(text)) for picture, text in enumerate(against)]
    encoding = Encoding(encoders, settings)
    lengths = [_longest(encoding, parts), _longest(encoding, denied)]
    if settings.same_length:
        lengths = [max(lengths)] * 2
    zeros = settings.zero_empty_negative
    return PromptPlan(
        Side(tuple(parts), _encode(encoding, parts, lengths[0])),
        Side(tuple(denied), _encode(encoding, denied, lengths[1], zeros)),
    )


def _longest(encoding: Encoding, parts: Sequence[Part]) -> int:
    """Chunks of the longest text of all steps: the length must not change between steps."""
    return max((encoding.length(text) for part in parts for _, text in part.texts), default=0)


def _encode(encoding: Encoding, parts: Sequence[Part], chunks: int, zero_empty: bool = False) -> dict[str, Row]:
    """Every text of the parts, encoded once."""
    rows: dict[str, Row] = {}
    for text in dict.fromkeys(text for part in parts for _, text in part.texts):
        features, pooled = encoding.row(text, chunks)
        if zero_empty and not text:
            features, pooled = paddle.zeros_like(features), None if pooled is None else paddle.zeros_like(pooled)
        rows[text] = (features, pooled)
    return rows
