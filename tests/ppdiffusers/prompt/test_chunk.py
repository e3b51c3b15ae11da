"""Chunks: nothing is lost, nothing is too long, commas and BREAK end chunks, embeddings stay whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppdiffusers.prompt.chunk import CHUNK, EMPHASIS, count, split
from ppdiffusers.prompt.embedding import Embedding, Words
from ppdiffusers.prompt.tokenizer import CLIPTokenizer

CLIP = CLIPTokenizer.clip()
PLAIN = Words(CLIP)


def taught(name: str, vectors: int) -> Embedding:
    return Embedding((name,), (np.zeros((vectors, 4), np.float32),))


def tokens(text: str, **options: int) -> list[list[int]]:
    return [[slot.token for slot in chunk] for chunk in split(text, PLAIN, **options)]


@given(text=st.lists(st.sampled_from(["cat", "red fox", ",", ", a", "(owl:1.3)", "[x]"]), max_size=150).map(" ".join))
def test_chunks_hold_all_tokens_in_order(text: str) -> None:
    plain = text.replace("(owl:1.3)", "owl").replace("[x]", "x")
    found = tokens(text)
    assert [token for chunk in found for token in chunk] == CLIP.ids(plain)
    assert all(len(chunk) <= CHUNK for chunk in found)
    assert all(len(chunk) >= CHUNK - 20 for chunk in found[:-1])


@given(text=st.text(alphabet="()[]:\\ab ,.12BREAK", max_size=60), emphasis=st.sampled_from(EMPHASIS))
def test_nonsense_has_a_chunk(text: str, emphasis: str) -> None:
    assert split(text, PLAIN, emphasis)


@pytest.mark.parametrize("words", [0, 1, 74, 75, 76, 150, 151])
def test_words_without_commas_fill_chunks(words: int) -> None:
    lengths = [len(chunk) for chunk in tokens("cat " * words)]
    assert lengths == [CHUNK] * (words // CHUNK) + [words % CHUNK] * (words % CHUNK > 0 or words == 0)


def test_a_chunk_ends_at_a_comma_near_its_end() -> None:
    near, far = "cat " * 60 + ", " + "dog " * 20, "cat " * 50 + ", " + "dog " * 30
    assert [len(chunk) for chunk in tokens(near)] == [61, 20]
    assert [len(chunk) for chunk in tokens(far)] == [75, 6]
    assert [len(chunk) for chunk in tokens(near, backtrack=0)] == [75, 6]
    assert [len(chunk) for chunk in tokens(far, backtrack=30)] == [51, 30]
    assert [len(chunk) for chunk in tokens("cat " * 54 + ", " + "dog " * 30)] == [75, 10]
    assert [len(chunk) for chunk in tokens("cat " * 55 + ", " + "dog " * 30)] == [56, 30]


def test_a_comma_that_does_not_fit_starts_a_chunk() -> None:
    assert [len(chunk) for chunk in tokens("cat " * 60 + ", " + "dog " * 14 + ", owl")] == [75, 2]


def test_break_ends_a_chunk() -> None:
    assert [len(chunk) for chunk in tokens("a cat BREAK a dog")] == [2, 2]
    assert [len(chunk) for chunk in tokens("BREAK a BREAK BREAK b BREAK")] == [0, 1, 0, 1]


def test_weights_go_with_their_tokens() -> None:
    (chunk,) = split("a (red fox:1.5) [owl]", PLAIN)
    assert [slot.weight for slot in chunk] == [1.0, 1.5, 1.5, pytest.approx(1 / 1.1)]
    (ignored,) = split("a (red fox:1.5)", PLAIN, "Ignore")
    assert {slot.weight for slot in ignored} == {1.0}
    (literal,) = split("a (red fox:1.5) BREAK", PLAIN, "None")
    assert [slot.token for slot in literal] == CLIP.ids("a (red fox:1.5) BREAK")


def test_embeddings_by_name_the_longest_first() -> None:
    words = Words(CLIP, [taught("cat", 2), taught("cat style", 3), taught("my-word_v2", 1)])
    (chunk,) = split("a CAT, (cat style:1.2) (My-Word_V2) cats", words)
    assert [slot.embedding for slot in chunk if slot.embedding] == ["cat"] * 2 + ["cat style"] * 3 + ["my-word_v2"]
    assert [slot.row for slot in chunk if slot.embedding] == [0, 1, 0, 1, 2, 0]
    assert {slot.weight for slot in chunk if slot.embedding == "cat style"} == {1.2}


def test_an_embedding_stays_whole() -> None:
    words = Words(CLIP, [taught("xyz", 10)])
    chunks = split("cat " * 70 + "xyz dog", words)
    assert [len(chunk) for chunk in chunks] == [70, 11]
    full = split("cat " * 60 + ", " + "dog " * 14 + "xyz", Words(CLIP, [taught("xyz", 75)]))
    assert [len(chunk) for chunk in full] == [61, 14, 75]


def test_the_counter_counts_full_chunks() -> None:
    assert count(split("", PLAIN)) == (0, 75)
    assert count(split("a cat", PLAIN)) == (2, 75)
    assert count(split("cat " * 75, PLAIN)) == (75, 75)
    assert count(split("cat " * 76, PLAIN)) == (76, 150)
    assert count(split("a BREAK b", PLAIN)) == (76, 150)
