"""Emphasis and AND: laws on nonsense, then examples of what the WebUI does with the same text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppdiffusers.prompt.weight import BREAK, parse, split_and

NONSENSE = st.text(alphabet="()[]:\\ab .129-+\nBREAK", max_size=60)


@given(text=NONSENSE)
def test_nonsense_has_pieces_and_neighbours_differ(text: str) -> None:
    pieces = parse(text)
    assert pieces
    assert all(said for said, _ in pieces) or pieces == [("", 1.0)]
    weights = [weight for _, weight in pieces]
    assert all(a != b or a == BREAK[1] for a, b in pairwise(weights))


@given(text=st.text(max_size=60).filter(lambda text: not set(text) & set("()[]\\") and "BREAK" not in text))
def test_text_without_brackets_is_verbatim(text: str) -> None:
    assert parse(text) == [(text, 1.0)]


@given(text=NONSENSE)
def test_escaped_text_is_itself(text: str) -> None:
    escaped = "".join("\\" + c if c in "()[]\\" else c for c in text.replace("BREAK", ""))
    assert parse(escaped) == [(text.replace("BREAK", ""), 1.0)]


@pytest.mark.parametrize(
    "text",
    [
        "(a" * 5000,
        "[a" * 5000,
        "(" * 9000 + ")" * 9000,
        ":1.2)" * 5000,
        "\\" * 9001,
        " " * 90000,
        ":" + " " * 90000,
        "(a:" + "1" * 90000,
    ],
)
def test_monsters_come_back(text: str) -> None:
    assert parse(text)


EXAMPLES = {
    "normal text": [("normal text", 1.0)],
    "(a:1.2) b": [("a", 1.2), (" b", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "an [unimportant] word": [("an ", 1.0), ("unimportant", 1 / 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    "unbalanced)": [("unbalanced)", 1.0)],
    "(one)(two)": [("onetwo", 1.1)],
    "\\(literal\\]": [("(literal]", 1.0)],
    "a \\\\ b \\c": [("a \\ b \\c", 1.0)],
    "(a : 1.3 )": [("a ", 1.3)],
    "(a:-1.5)": [("a", -1.5)],
    "(a:.5)": [("a", 0.5)],
    "(a:1.)": [("a", 1.0)],
    "(a:1.2.3)": [("a:1.2.3", 1.1)],
    "(a:b:1.2)": [("a:b", 1.2)],
    "[a:1.2]": [("a:1.2", 1 / 1.1)],
    "a:1.2)": [("a:1.2)", 1.0)],
    "": [("", 1.0)],
    "()": [("", 1.0)],
    "a BREAK b": [("a", 1.0), BREAK, ("b", 1.0)],
    "a\nBREAK\nBREAK b": [("a", 1.0), BREAK, BREAK, ("b", 1.0)],
    " a  BREAK \n b BREAK c ": [(" a", 1.0), BREAK, ("b", 1.0), BREAK, ("c ", 1.0)],
    "(a BREAK b:1.2)": [("a", 1.2), BREAK, ("b", 1.2)],
    "BREAK": [BREAK],
    "a BREAKFAST b": [("a BREAKFAST b", 1.0)],
}


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text[:24])
def test_parse(text: str) -> None:
    assert parse(text) == EXAMPLES[text]


def test_nested_weights_multiply() -> None:
    pieces = parse("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).")
    assert [said for said, _ in pieces] == ["a ", "house", " ", "on", " a ", "hill", ", sun, ", "sky", "."]
    assert [weight for _, weight in pieces] == pytest.approx([1, 1.573, 1.1, 1, 1.1, 0.55, 1.1, 1.4641, 1.1])


AND = {
    "a cat": [("a cat", 1.0)],
    "a clock at 12:30 ": [("a clock at 12:30 ", 1.0)],
    "a cat AND a dog": [("a cat", 1.0), (" a dog", 1.0)],
    "a cat :0.7 AND a dog : -1.5 \n AND b": [("a cat", 0.7), (" a dog", -1.5), (" b", 1.0)],
    "sand AND HANDS\nAND c": [("sand", 1.0), (" HANDS", 1.0), ("c", 1.0)],
    "a AND (b:1.2)": [("a", 1.0), (" (b:1.2)", 1.0)],
    "a AND": [("a", 1.0), ("", 1.0)],
    "a and b": [("a and b", 1.0)],
    "a:nan AND b:": [("a:nan", 1.0), (" b:", 1.0)],
}


@pytest.mark.parametrize("text", AND)
def test_and(text: str) -> None:
    wanted = AND[text]
    assert [(said.strip(), weight) for said, weight in split_and(text)] == [(s.strip(), w) for s, w in wanted]


def test_and_does_not_hang_on_spaces() -> None:
    assert split_and("a" + " \n" * 20000 + "b AND c")[0][1] == 1.0
