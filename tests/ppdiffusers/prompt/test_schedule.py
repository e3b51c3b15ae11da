"""Prompt schedules: laws on nonsense, then examples of what the WebUI does with the same text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppdiffusers.prompt.schedule import schedule

BRACKETS = st.text(alphabet="[]():|\\ab .123-e\n", max_size=60)


@given(text=BRACKETS, steps=st.integers(1, 30), hires=st.none() | st.integers(1, 30))
def test_nonsense_is_planned_to_the_last_step(text: str, steps: int, hires: int | None) -> None:
    plan = schedule(text, steps, hires)
    ends = [end for end, _ in plan]
    assert ends == sorted(set(ends))
    assert ends[0] >= 1
    assert ends[-1] == (hires or steps)


@given(text=st.text(max_size=60).filter(lambda text: not set(text) & set("[|\\")), steps=st.integers(1, 30))
def test_text_without_square_brackets_is_verbatim(text: str, steps: int) -> None:
    assert schedule(text, steps) == [(steps, text)]


@given(text=BRACKETS)
def test_a_plan_of_one_text_says_the_same_in_more_steps(text: str) -> None:
    if len(schedule(text, 20)) == 1 and "." not in text and not any(c.isdigit() for c in text):
        assert [said for _, said in schedule(text, 40)] == [said for _, said in schedule(text, 20)]


MONSTERS = {
    "open": "[" * 5000,
    "colons": "[a:" * 5000,
    "nested": "[" * 3000 + "]" * 3000,
    "swaps": "[x:" * 3000 + ":3]" * 3000,
    "cycles": "[a|" * 4000,
    "round": "(a" * 5000,
    "mixed": "[(" * 2000 + ")]" * 2000,
    "many": "[a:b:3] " * 4000,
    "digits": "[a:b:" + "1" * 90000 + "x]",
    "spaces": "[a:b:" + " " * 90000 + "x]",
}


@pytest.mark.parametrize("text", MONSTERS.values(), ids=MONSTERS)
def test_monsters_come_back(text: str) -> None:
    assert schedule(text, 10)[-1][0] == 10


EXAMPLES = {
    # whole numbers are steps, fractions are parts of the pass
    "test": [(10, "test")],
    "a [b:3]": [(3, "a "), (10, "a b")],
    "a [b: 3]": [(3, "a "), (10, "a b")],
    "a [b:.5] c": [(5, "a  c"), (10, "a b c")],
    "a [b:1] c": [(1, "a  c"), (10, "a b c")],
    "a [b:1.0] c": [(10, "a  c")],
    "a [b : c : 1] d": [(1, "a b  d"), (10, "a  c  d")],
    "[fox:owl:0.25] in snow": [(2, "fox in snow"), (10, "owl in snow")],
    "[fox::4] in snow": [(4, "fox in snow"), (10, " in snow")],
    "[:owl:4]": [(4, ""), (10, "owl")],
    "[fox:owl:99]": [(10, "fox")],
    "[fox:owl:0]": [(10, "owl")],
    "[fox:owl:-3]": [(10, "owl")],
    "[fox:owl:+3]": [(3, "fox"), (10, "owl")],
    "[fox:owl:1e999]": [(10, "fox")],
    "[fox:owl:" + "9" * 6000 + "]": [(10, "fox")],
    # nested, and with emphasis inside
    "a [[[b]]:2]": [(2, "a "), (10, "a [[b]]")],
    "[(a:2):3]": [(3, ""), (10, "(a:2)")],
    "a[b:[c:d:2]:1]e": [(1, "abe"), (2, "ace"), (10, "ade")],
    "[[red|green] hat:blue hat:2]": [(1, "red hat"), (2, "green hat"), *((i, "blue hat") for i in range(3, 11))],
    # cycles, with empty options
    "[a|(b:1.1)]": [(i, "a" if i % 2 else "(b:1.1)") for i in range(1, 11)],
    "[fe|]male": [(i, "female" if i % 2 else "male") for i in range(1, 11)],
    "[fe|||]male": [(i, "female" if i % 4 == 1 else "male") for i in range(1, 11)],
    # what does not parse is literal
    "a [unbalanced": [(10, "a [unbalanced")],
    "a ]unbalanced": [(10, "a ]unbalanced")],
    "((a][:b:c [d:3]": [(3, "((a][:b:c "), (10, "((a][:b:c d")],
    "[a:b:nan]": [(10, "[a:b:nan]")],
    "[a:b:inf]": [(10, "[a:b:inf]")],
    "[a:b:c]": [(10, "[a:b:c]")],
    "[a:b:c:3]": [(10, "[a:b:c:3]")],
    "[]": [(10, "[]")],
    "[|]": [(i, "") for i in range(1, 11)],
    "a | b [c:3]": [(10, "a | b [c:3]")],
    "[a|b:3]": [(10, "[a|b:3]")],
    "[c:3] \\": [(10, "[c:3] \\")],
    # escapes stay escaped: emphasis is read later
    "\\[a:3\\]": [(10, "\\[a:3\\]")],
    "[\\[a\\]:b:3]": [(3, "\\[a\\]"), (10, "b")],
    "[a \\: b:c:3]": [(3, "a \\: b"), (10, "c")],
    "": [(10, "")],
}


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text[:24])
def test_first_pass(text: str) -> None:
    assert schedule(text, 10) == EXAMPLES[text]


HIRES = {  # 10 steps, then 10 more
    "a [b:.5] c": [(10, "a b c")],
    "a [b:1.5] c": [(5, "a  c"), (10, "a b c")],
    "a [b:12] c": [(2, "a  c"), (10, "a b c")],
    "a [b:7] c": [(10, "a b c")],
    "a [b:c:2.0]": [(10, "a b")],
}


@pytest.mark.parametrize("text", HIRES)
def test_second_pass(text: str) -> None:
    assert schedule(text, 10, 10) == HIRES[text]


def test_the_second_pass_has_its_own_length() -> None:
    assert schedule("[a:b:1.5]", 20, 8) == [(4, "a"), (8, "b")]
    assert schedule("[a:b:25]", 20, 8) == [(5, "a"), (8, "b")]


def test_no_steps_is_said() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        schedule("a", 0)
