"""Plans: what the UNet is told at each step of a batch."""

from __future__ import annotations

import numpy as np
import pytest
from paddle import Tensor

from ppdiffusers.prompt.encode import PromptSettings, TextEncoders, encode, join
from ppdiffusers.prompt.plan import Pass, plan


def same(ours: Tensor, other: Tensor) -> None:
    np.testing.assert_array_equal(ours.numpy(), other.numpy())


def test_a_plain_prompt_is_told_at_every_step(sd: TextEncoders) -> None:
    told = plan(sd, ["a cat", "a dog"], ["blurry", ""], Pass(4))
    first = told.at(0)
    assert first.simple
    assert all(told.at(step) is first for step in range(4))
    same(first.cond.text, encode(sd, ["a cat", "a dog"]).text)
    assert first.uncond is not None
    same(first.uncond.text, encode(sd, ["blurry", ""]).text)


def test_swaps_happen_after_their_step(sd: TextEncoders) -> None:
    told = plan(sd, ["a [cat:dog:2]"], ["[x:y:1]"], Pass(4))
    assert [told.texts(step) for step in range(4)] == [
        ("a cat", "x"),
        ("a cat", "y"),
        ("a dog", "y"),
        ("a dog", "y"),
    ]
    same(told.at(1).cond.text, encode(sd, ["a cat"]).text)
    same(told.at(2).cond.text, encode(sd, ["a dog"]).text)
    assert told.texts(99) == told.texts(3)


def test_the_second_pass(sd: TextEncoders) -> None:
    told = plan(sd, ["[cat:dog:1.5]"], [""], Pass(10, 4))
    assert [told.texts(step)[0] for step in range(4)] == ["cat", "cat", "dog", "dog"]


def test_and_gives_a_picture_several_rows(xl: TextEncoders) -> None:
    told = plan(xl, ["a cat", "a dog :0.6 AND a [red|blue] hat :-0.5"], None, Pass(3)).at(1)
    assert told.pictures == (0, 1, 1)
    assert told.weights == (1.0, 0.6, -0.5)
    assert not told.simple
    found = encode(xl, ["a cat", "a dog", " a blue hat"])
    same(told.cond.text, found.text)
    assert told.cond.pooled is not None
    assert found.pooled is not None
    same(told.cond.pooled, found.pooled)
    assert told.uncond is not None  # parts are weighed against something
    same(told.uncond.text, encode(xl, ["", ""]).text)


def test_layers_are_batches_of_all_pictures(xl: TextEncoders) -> None:
    told = plan(xl, ["a cat", "a dog :0.6 AND a hat :-0.5", "an owl :2 AND"], None, Pass(3)).at(0)
    first, second = told.layers()
    assert (first.weight, second.weight) == ((1.0, 0.6, 2.0), (0.0, -0.5, 1.0))
    same(first.cond.text, encode(xl, ["a cat", "a dog", "an owl"]).text)
    same(second.cond.text, encode(xl, ["a cat", "a hat", ""]).text)
    assert second.cond.pooled is not None
    assert second.cond.pooled.shape == [3, 64]
    (only,) = plan(xl, ["a", "b"], None, Pass(3)).at(0).layers()
    assert only.weight == 1.0
    (twice,) = plan(xl, ["a :0.5 AND b :0.5"], None, Pass(3)).at(0).layers()[:1]
    assert twice.weight == 0.5


def test_sides_join_where_they_are_equally_long(xl: TextEncoders) -> None:
    told = plan(xl, ["a cat"], ["blurry"], Pass(3)).at(0)
    assert told.uncond is not None
    both = join([told.cond, told.uncond])
    assert both is not None
    assert both.pooled is not None
    same(both.text, encode(xl, ["a cat", "blurry"]).text)
    assert join([told.cond, encode(xl, ["cat " * 80])]) is None


def test_without_negatives_nothing_is_denied(sd: TextEncoders) -> None:
    assert plan(sd, ["a cat"], None, Pass(3)).at(0).uncond is None


def test_lengths_do_not_change_between_steps(sd: TextEncoders) -> None:
    long = "[cat:" + "dog " * 80 + ":2]"
    told = plan(sd, [long, "owl"], ["", ""], Pass(4))
    assert {tuple(told.at(step).cond.text.shape) for step in range(4)} == {(2, 154, 32)}
    uncond = told.at(0).uncond
    assert uncond is not None
    assert uncond.text.shape == [2, 77, 32]


@pytest.mark.parametrize(("prompt", "negative"), [("cat " * 80, "x"), ("x", "cat " * 160)])
def test_same_length_for_both_sides(sd: TextEncoders, prompt: str, negative: str) -> None:
    told = plan(sd, [prompt], [negative], Pass(4), PromptSettings(same_length=True)).at(0)
    assert told.uncond is not None
    assert told.uncond.text.shape == told.cond.text.shape


def test_an_empty_negative_may_be_zeros(xl: TextEncoders) -> None:
    told = plan(xl, ["a", "b"], ["", "blurry"], Pass(2), PromptSettings(zero_empty_negative=True)).at(0)
    assert told.uncond is not None
    assert told.uncond.pooled is not None
    assert not told.uncond.text[0].any()
    assert not told.uncond.pooled[0].any()
    same(told.uncond.text[1], encode(xl, ["blurry"]).text[0])


def test_every_text_is_encoded_once(sd: TextEncoders, monkeypatch: pytest.MonkeyPatch) -> None:
    (encoder,) = sd.encoders
    calls: list[int] = []
    run = type(encoder.model).forward

    def counting(self, *args, **kwargs):
        calls.append(1)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(type(encoder.model), "forward", counting)
    told = plan(sd, ["[cat|dog]"] * 3, [""] * 3, Pass(20))
    assert len(calls) == 3
    told.at(7)
    assert len(calls) == 3


def test_lists_of_different_length_are_said(sd: TextEncoders) -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 negative prompts"):
        plan(sd, ["a", "b"], ["c"], Pass(2))
