"""A weighted text as chunks of 75 tokens, the size that CLIP reads at once. Source: the behaviour of the WebUI 1.10."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ppdiffusers.prompt.embedding import Words
from ppdiffusers.prompt.weight import BREAK, parse

CHUNK = 75
COMMA_BACKTRACK = 20  # a chunk may end up to this many tokens early, to end at a comma
EMPHASIS = ("Original", "No norm", "Ignore", "None")


class Slot(NamedTuple):
    """One place of a chunk: a token, or one vector of an embedding (its name and row)."""

    token: int
    weight: float = 1.0
    embedding: str | None = None
    row: int = 0


Chunk = tuple[Slot, ...]


def split(text: str, words: Words, emphasis: str = "Original", backtrack: int = COMMA_BACKTRACK) -> list[Chunk]:
    """The chunks of a text, at least one; all but the last are full, end at a comma or at BREAK.

    `emphasis`: "None" reads brackets as text, "Ignore" reads them and weighs nothing; the others weigh (see encode.py).
    A vector of an embedding is never parted from the others. `backtrack` 0 never looks for a comma.
    """
    done: list[Chunk] = []
    here: list[Slot] = []
    comma = -1  # how long the chunk was before its last comma
    for group in _groups(text, words, emphasis):
        cut = len(here)
        if not group:
            done.append(tuple(here))
            here, comma = [], -1
            continue
        if group[0].token == words.tokenizer.comma and group[0].embedding is None:
            comma = len(here)
        elif backtrack and len(here) == CHUNK and comma >= 0 and CHUNK - comma <= backtrack:
            cut = comma + 1
        if len(here) + len(group) > CHUNK:
            done.append(tuple(here[:cut]))
            here, comma = here[cut:], -1
            if len(here) + len(group) > CHUNK:  # what was carried over the comma leaves no room for an embedding
                done.append(tuple(here))
                here = []
        here += group
    return [*done, tuple(here)] if here or not done else done


def _groups(text: str, words: Words, emphasis: str) -> Iterator[Chunk]:
    """The text's tokens and embeddings, each with the places it takes; an empty group for BREAK."""
    for piece in [(text, 1.0)] if emphasis == "None" else parse(text):
        if piece == BREAK:
            yield ()
            continue
        said, weight = piece[0], 1.0 if emphasis == "Ignore" else piece[1]
        ids = words.tokenizer.ids(said)
        place = 0
        while place < len(ids):
            found = words.at(ids, place)
            if found is None:
                yield (Slot(ids[place], weight),)
                place += 1
            else:
                embedding, length = found
                yield tuple(Slot(0, weight, embedding.name, row) for row in range(embedding.count))
                place += length


def count(chunks: list[Chunk]) -> tuple[int, int]:
    """(tokens, of how many): as the WebUI counts, where chunks before the last are full whatever they hold."""
    tokens = (len(chunks) - 1) * CHUNK + len(chunks[-1])
    return tokens, max(1, -(-tokens // CHUNK)) * CHUNK
