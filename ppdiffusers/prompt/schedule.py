"""WebUI prompt editing: `[from:to:when]`, `[to:when]`, `[a|b|c]` -> what the prompt says at each step.

The grammar, as the WebUI has it:

    prompt    = (emphasis | swap | cycle | plain)*
    emphasis  = "(" prompt ")" | "(" prompt ":" prompt ")" | "[" prompt "]"       kept as written, weight.py reads it
    swap      = "[" (prompt ":")? prompt ":" number "]"                            number may have spaces around it
    cycle     = "[" prompt ("|" prompt)+ "]"                                       an option may be empty
    plain     = anything but \\ [ ] ( ) : |, or an escape: a backslash and one more character

Brackets and colons that fit nowhere are literal. A `|` that fits nowhere, or a lone backslash at the end, makes the
whole text literal (that is what the WebUI does with text it cannot lex). Nothing raises and the time is linear in the
text: there is one stack of open brackets, and a bracket that closes wrongly turns all of them into plain characters at
once, because no bracket may contain a stray one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

DEEPEST = 100  # brackets within brackets; nobody means more, and it bounds recursion

_TOKEN = re.compile(r"[^\\\[\]():|]+|\\.|[\[\]():|]|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True)
class Swap:
    """`[before:after:when]`: `before` up to and including step `when`, then `after`."""

    before: Parts
    after: Parts
    when: int


@dataclass(frozen=True)
class Cycle:
    """`[a|b|c]`: another option at every step."""

    options: tuple[Parts, ...]


Parts = tuple[str | Swap | Cycle, ...]


@dataclass
class _Open:
    """A bracket not closed yet: its fields so far and the separators between them."""

    bracket: str
    fields: list[list[str | Swap | Cycle]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def as_written(self) -> list[str | Swap | Cycle]:
        """The bracket and what it holds, with the bracket as a plain character."""
        out: list[str | Swap | Cycle] = [self.bracket]
        for content, separator in zip(self.fields, [*self.separators, ""], strict=True):
            out += [*content, separator]
        return out


@dataclass(frozen=True)
class _Clock:
    """How the number of a swap becomes a step of the pass that is being planned."""

    steps: int
    spent: int | None  # steps of the first pass, None while planning the first pass itself

    def step(self, number: str) -> int:
        """Fractions count in passes (1.0 is where the second begins), whole numbers in steps from the first pass on."""
        if "." in number:
            at = (float(number) - (self.spent is not None)) * self.steps
        else:
            at = float(number) - (self.spent or 0)
        return int(min(max(at, 0.0), float(self.steps)))


def schedule(text: str, steps: int, hires_steps: int | None = None) -> list[tuple[int, str]]:
    """The prompt as [(last step it holds for, text), ...]; the last entry always ends at the last step.

    `steps` are the steps of the first pass. With `hires_steps` the result is the schedule of the second pass (hires
    fix), whose steps count from 1 again: there `[a:b:1.5]` swaps in the middle of the second pass, fractions below 1
    and whole numbers up to `steps` have already happened. Emphasis, escapes and BREAK stay in the text; text without
    brackets comes back verbatim. ValueError for less than 1 step. Source: the behaviour of AUTOMATIC1111's WebUI 1.10.
    """
    of = steps if hires_steps is None else hires_steps
    if of < 1:
        raise ValueError(f"a prompt schedule needs at least 1 step, got {of}; pass the number of steps of the pass")
    parts = _parse(text, _Clock(of, None if hires_steps is None else steps))
    ends = sorted({of} | {step for step in _boundaries(parts, of) if 1 <= step <= of})
    return [(end, _render(parts, end)) for end in ends]


def _parse(text: str, clock: _Clock) -> Parts:
    """The text as a tree of swaps and cycles, or `(text,)` when it is literal as a whole."""
    stack: list[_Open] = [_Open("")]  # the bottom stands for the text outside all brackets
    for token in _TOKEN.findall(text):
        top = stack[-1]
        if token in "[(":
            stack.append(_Open(token))
            if len(stack) > DEEPEST:
                return (text,)
        elif token in ")]":
            closed = _close(top, token, clock)
            if closed is None:
                if not _flush(stack):
                    return (text,)
                stack[0].fields[-1].append(token)
            else:
                stack.pop()
                stack[-1].fields[-1] += closed
        elif (token == ":" and top.bracket) or (token == "|" and top.bracket == "["):
            top.separators.append(token)
            top.fields.append([])
        elif token in "|\\":
            return (text,)
        else:
            top.fields[-1].append(token)
    return tuple(stack[0].fields[0]) if _flush(stack) else (text,)


def _flush(stack: list[_Open]) -> bool:
    """Turn all open brackets into plain characters; False if that leaves a `|` outside brackets."""
    for opened in stack[1:]:
        if "|" in opened.separators:
            return False
        stack[0].fields[-1] += opened.as_written()
    del stack[1:]
    return True


def _close(opened: _Open, bracket: str, clock: _Clock) -> list[str | Swap | Cycle] | None:
    """What the bracket means, or None if it is not closed by this character or has fields that mean nothing."""
    separators = opened.separators
    if opened.bracket + bracket == "()":
        return [*opened.as_written(), ")"] if separators in ([], [":"]) else None
    if opened.bracket + bracket != "[]":
        return None
    if not separators:
        return [*opened.as_written(), "]"]
    if set(separators) == {"|"}:
        return [Cycle(tuple(tuple(option) for option in opened.fields))]
    *contents, last = opened.fields
    number = _NUMBER.fullmatch("".join(part for part in last if isinstance(part, str)))
    if len(last) != 1 or number is None or separators not in ([":"], [":", ":"]):
        return None
    before, after = ([], *contents) if len(contents) == 1 else contents
    return [Swap(tuple(before), tuple(after), clock.step(number[1]))]


def _boundaries(parts: Parts, steps: int) -> Iterator[int]:
    """Steps after which some part of the text may change."""
    for part in parts:
        match part:
            case Swap(before, after, when):
                yield when
                yield from _boundaries(before + after, steps)
            case Cycle(options):
                yield from range(1, steps + 1)
                for option in options:
                    yield from _boundaries(option, steps)
            case _:
                pass


def _render(parts: Parts, step: int) -> str:
    """The text at one step, counted from 1."""
    out: list[str] = []
    for part in parts:
        match part:
            case Swap(before, after, when):
                out.append(_render(before if step <= when else after, step))
            case Cycle(options):
                out.append(_render(options[(step - 1) % len(options)], step))
            case _:
                out.append(part)
    return "".join(out)
