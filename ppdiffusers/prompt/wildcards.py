"""Prompts with choices in them, settled by a seed before anything else reads them.

`{red|green|blue}` is one of the three, `{2::red|green}` red twice as often, `{2$$cat|dog|owl}` two of them with commas
between, `{2$$ and $$cat|dog|owl}` with "and". `__animals/small__` is a line of `animals/small.txt` in the folder of
wildcards, `*` in a name takes any file that fits. Choices may hold choices. Braces without a bar stay as they are;
`\\{`, `\\|` and `\\}` are the characters themselves. (The notation is that of the extensions that WebUI users know.)
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"__([\w\-./*]+?)__")
GROUP = re.compile(r"\\\{|\{[^}]*(?:\||\$\$)")
COUNT = re.compile(r"\s*(\d+)\$\$(?:((?:(?!\$\$)[^|{}])*)\$\$)?")
WEIGHT = re.compile(r"\s*(\d+(?:\.\d+)?)::")
DEEPEST = 16
MOST = 4 << 20  # bytes of a file that are read
LONGEST = 100_000  # characters that a prompt may become


def has_choices(text: str) -> bool:
    """Whether `expand` would change this text."""
    return bool(NAME.search(text) or GROUP.search(text))


@dataclass(frozen=True)
class Wildcards:
    """A folder of text files, one choice a line; lines that begin with # are left out. None: there are none."""

    folder: Path | None = None

    def names(self) -> list[str]:
        """Every file's name as a prompt calls it."""
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(path.relative_to(self.folder).with_suffix("").as_posix() for path in self.folder.rglob("*.txt"))

    def lines(self, name: str) -> list[str]:
        """The choices under a name. Raises ValueError where there are none."""
        found = [line for path in self._files(name) for line in _lines(path)]
        if not found:
            names = self.names()
            there = f"there are {', '.join(names[:12])}" if names else "there are none yet"
            where = f" in {self.folder}" if self.folder else ""
            raise ValueError(f"there is no wildcard __{name}__; {there}{where} (one .txt file each, one choice a line)")
        return found

    def _files(self, name: str) -> Iterator[Path]:
        if self.folder is None or not self.folder.is_dir() or ".." in name or name.startswith("/"):
            return
        top = self.folder.resolve()
        for path in sorted(top.glob(f"{name}.txt")):
            if path.is_file() and path.resolve().is_relative_to(top):
                yield path

    def expand(self, text: str, seed: int, purpose: str = "") -> str:
        """The text with every choice made; the same for a seed and purpose. Raises ValueError with a sentence."""
        if not has_choices(text):
            return text
        return _Settler(self, random.Random(f"{seed}/{purpose}")).settle(text, 0)

    def both(self, prompt: str, negative: str, seed: int, count: int = 1) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Prompts and negative prompts of `count` pictures, seeds from `seed` on; one negative for all if possible."""
        seeds = range(seed, seed + count)
        negatives = tuple(self.expand(negative, one, "negative") for one in seeds)
        return tuple(self.expand(prompt, one) for one in seeds), negatives[: 1 if len(set(negatives)) == 1 else count]


def _lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        told = file.read(MOST).decode("utf-8-sig", errors="replace")
    return [line.strip() for line in told.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@dataclass(frozen=True)
class _Settler:
    """Makes the choices of one prompt in the order in which they stand."""

    cards: Wildcards
    chance: random.Random

    def settle(self, text: str, depth: int) -> str:
        if depth > DEEPEST:
            raise ValueError(f"wildcards name each other more than {DEEPEST} times deep; one of them names itself")
        made, i = list[str](), 0
        while i < len(text):
            if text[i] == "\\" and text[i + 1 : i + 2] in ("{", "|", "}"):
                made.append(text[i + 1])
                i += 2
            elif text[i] == "{" and (end := _closing(text, i)) is not None:
                made.append(self._group(text[i + 1 : end], depth))
                i = end + 1
            elif (card := NAME.match(text, i)) is not None:
                made.append(self.settle(self.chance.choice(self.cards.lines(card[1])), depth + 1))
                i = card.end()
            else:
                made.append(text[i])
                i += 1
        settled = "".join(made)
        if len(settled) > LONGEST:
            raise ValueError(f"with its choices made the prompt has more than {LONGEST:,} characters; make it shorter")
        return settled

    def _group(self, inner: str, depth: int) -> str:
        count, between, rest = 1, ", ", inner
        if (told := COUNT.match(inner)) is not None:
            count, between, rest = int(told[1]), ", " if told[2] is None else told[2], inner[told.end() :]
        options = _split(rest)
        if len(options) == 1 and told is None:  # no choice: braces that mean something else
            return "{" + self.settle(inner, depth + 1) + "}"
        return between.join(self.settle(one, depth + 1) for one in self._chosen(options, count))

    def _chosen(self, options: Sequence[str], count: int) -> list[str]:
        """So many different options by their weights."""
        left = [(one[w.end() :], float(w[1])) if (w := WEIGHT.match(one)) else (one, 1.0) for one in options]
        chosen = list[str]()
        while left and len(chosen) < count:
            weights = [weight for _, weight in left]
            if not sum(weights):
                break
            place = self.chance.choices(range(len(left)), weights)[0]
            chosen.append(left.pop(place)[0])
        return chosen


def _closing(text: str, start: int) -> int | None:
    """Where the brace at `start` is closed; None where it never is."""
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == "{":
            depth += 1
        elif text[i] == "}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return None


def _split(text: str) -> list[str]:
    """At the bars that are in no inner braces, brackets or parentheses: [a|b] is the prompt grammar's own."""
    parts, depth, last, i = list[str](), 0, 0, 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] in "{[(":
            depth += 1
        elif text[i] in "}])":
            depth -= 1
        elif text[i] == "|" and depth == 0:
            parts.append(text[last:i])
            last = i + 1
        i += 1
    return [*parts, text[last:]]
