"""Choices in prompts: what the notation means, that a seed settles it, and that bad files and names are told."""

from collections import Counter

import pytest

from ppdiffusers.prompt.wildcards import Wildcards, has_choices


@pytest.fixture
def cards(tmp_path):
    folder = tmp_path / "wildcards"
    (folder / "animals").mkdir(parents=True)
    (folder / "colours.txt").write_text("# not me\nred\n\n  green  \n", encoding="utf-8-sig")
    (folder / "animals" / "small.txt").write_text("a {tiny|little} mouse\na __colours__ frog\n")
    (folder / "animals" / "large.txt").write_text("an elephant\n")
    (folder / "loop.txt").write_text("__loop__\n")
    (folder / "empty.txt").write_text("# nothing\n")
    return Wildcards(folder)


def many(cards, text, count=200):
    return Counter(cards.expand(text, seed) for seed in range(count))


def test_one_of_several(cards):
    assert set(many(cards, "a {red|green} fox")) == {"a red fox", "a green fox"}
    assert set(many(cards, "{a|}fox")) == {"afox", "fox"}
    assert set(many(cards, "{{a|b} c|d}")) == {"a c", "b c", "d"}


def test_weights_and_counts(cards):
    told = many(cards, "{9::red|1::green}", 400)
    assert 300 < told["red"] < 390
    assert set(many(cards, "{2$$a|b}")) == {"a, b", "b, a"}
    assert set(many(cards, "{2$$ and $$a|b}")) == {"a and b", "b and a"}
    assert set(many(cards, "{5$$a|b}")) == {"a, b", "b, a"}
    assert set(many(cards, "{0::a|b}")) == {"b"}


def test_lines_of_files(cards):
    assert set(many(cards, "__colours__ on __colours__")) == {
        f"{a} on {b}" for a in ("red", "green") for b in ("red", "green")
    }
    seen = set(many(cards, "__animals/*__"))
    assert seen == {"a tiny mouse", "a little mouse", "a red frog", "a green frog", "an elephant"}
    assert cards.names() == ["animals/large", "animals/small", "colours", "empty", "loop"]


def test_a_seed_settles_it(cards):
    text = "{a|b|c|d} __colours__ {2$$x|y|z}"
    assert [cards.expand(text, s) for s in range(9)] == [cards.expand(text, s) for s in range(9)]
    assert cards.expand(text, 1) != cards.expand(text, 2) or cards.expand(text, 1) != cards.expand(text, 3)
    assert any(cards.expand(text, s) != cards.expand(text, s, "negative") for s in range(9))


@pytest.mark.parametrize(
    "text",
    [
        "a (red:1.2) fox",
        "[a|b] fox",
        "{a fox}",
        "a __ b __ c",
        "snake_case_name",
        "<lora:my_style_v2:0.8>",
        "a | b",
        "{a",
        "",
    ],
)
def test_other_notations_stay(cards, text):
    assert cards.expand(text, 1) == text


def test_escaped_braces_are_characters(cards):
    assert cards.expand(r"\{a\|b\}", 1) == "{a|b}"
    assert set(many(cards, r"{a\|b|c}")) == {"a|b", "c"}
    assert set(many(cards, "{(a|b)|c}")) == {"(a|b)", "c"}


def test_what_is_wrong_is_told(cards):
    with pytest.raises(ValueError, match=r"no wildcard __birds__; there are animals/large, animals/small, colours"):
        cards.expand("__birds__", 1)
    with pytest.raises(ValueError, match="no wildcard __empty__"):
        cards.expand("__empty__", 1)
    with pytest.raises(ValueError, match="names itself"):
        cards.expand("__loop__", 1)
    with pytest.raises(ValueError, match="there are none yet"):
        Wildcards(None).expand("__x__", 1)


def test_files_outside_the_folder_are_not_read(cards):
    (cards.folder.parent / "secret.txt").write_text("password\n")
    (cards.folder / "link.txt").symlink_to(cards.folder.parent / "secret.txt")
    for name in ("../secret", "link", f"{cards.folder.parent}/secret"):
        with pytest.raises(ValueError, match="no wildcard"):
            cards.lines(name)


def test_growing_prompts_are_stopped(cards):
    (cards.folder / "long.txt").write_text("x" * 60_000)
    with pytest.raises(ValueError, match="characters"):
        cards.expand("__long____long__", 1)


def test_it_is_known_whether_there_is_a_choice():
    assert has_choices("{a|b}")
    assert has_choices("__a__")
    assert not has_choices("a (red:1.2) [fox|cat] {x}")
