"""Tags for networks, comments and styles: what leaves the prompt and what stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppdiffusers.prompt.network import (
    Network,
    When,
    apply_styles,
    extract_networks,
    leftover_tags,
    pick_styles,
    strip_comments,
)


@given(text=st.text(alphabet="<>:lora=te.1@, #\n", max_size=60))
def test_nonsense_never_raises(text: str) -> None:
    cleaned, networks = extract_networks(text)
    assert len(cleaned) < len(text) or not networks


@given(text=st.text(max_size=60).filter(lambda text: "<" not in text))
def test_text_without_tags_is_verbatim(text: str) -> None:
    assert extract_networks(text) == (text, [])


def weights(network: Network) -> tuple[float, float, int | None]:
    return network.te_weight, network.unet_weight(0, 20), network.dyn


TAGS = {
    "<lora:a>": ("lora", "a", (1.0, 1.0, None)),
    "<lora:a:0.8>": ("lora", "a", (0.8, 0.8, None)),
    "<lora:a b-c_1.2:-.5>": ("lora", "a b-c_1.2", (-0.5, -0.5, None)),
    "<lora:a:0.5:0.8>": ("lora", "a", (0.5, 0.8, None)),
    "<lora:a:0.5:0.8:16>": ("lora", "a", (0.5, 0.8, 16)),
    "<lora:a:te=0.5>": ("lora", "a", (0.5, 0.5, None)),
    "<lora:a:unet=0.5>": ("lora", "a", (1.0, 0.5, None)),
    "<lora:a:unet=0.5:te=0.25:dyn=8>": ("lora", "a", (0.25, 0.5, 8)),
    "<lora:a:0.3:unet=0.5>": ("lora", "a", (0.3, 0.5, None)),
    "<lora:a:unet=0.5:0.3>": ("lora", "a", (0.3, 0.5, None)),
    "<lyco:a:0.8>": ("lyco", "a", (0.8, 0.8, None)),
    "<hypernet:a:0.8>": ("hypernet", "a", (0.8, 0.8, None)),
    "<LoRA: a : 0.8 >": ("lora", "a", (0.8, 0.8, None)),
}


@pytest.mark.parametrize("tag", TAGS)
def test_tag(tag: str) -> None:
    text, (network,) = extract_networks(f"a {tag}fox")
    assert text == "a fox"
    assert (network.kind, network.name, weights(network)) == TAGS[tag]


MALFORMED = """
<lora:> <lora> <lora:a:heavy> <lora:a:> <lora:a:1:2:3:4> <lora:a:1:1:2.5> <style:a> <lora:a:nan> <lora:a
<lora:a:1@>5> <lora:a:1@x> <lora:a:1,2>
"""


@pytest.mark.parametrize("tag", [*MALFORMED.split(), "<lora:a\nb>"])
def test_malformed_tags_are_text(tag: str) -> None:
    assert extract_networks(f"a {tag} fox") == (f"a {tag} fox", [])


def test_weights_of_blocks_and_arguments_nobody_knows() -> None:
    _, (blocks, preset) = extract_networks("<lora:a:0.8:lbw=1, 0,.5:size=3><lora:b:1:lbw=OUTALL>")
    assert (blocks.te_weight, blocks.blocks, blocks.ignored) == (0.8, (1.0, 0.0, 0.5), ("size=3",))
    assert (preset.te_weight, preset.blocks, preset.ignored) == (1.0, None, ("lbw=OUTALL",))


def test_left_over_tags_can_be_told() -> None:
    text, _ = extract_networks("a <lora:a:heavy> <lora:b> <style:c> x < y: z >")
    assert leftover_tags(text) == ["<lora:a:heavy>", "<style:c>"]


def test_several_tags_in_order_and_every_prompt_its_own() -> None:
    batch = [extract_networks(prompt) for prompt in ("<lora:a:1> x <lyco:b:2><lora:a:3>", "y <lora:c>")]
    assert [text for text, _ in batch] == [" x ", "y "]
    assert [[network.name for network in networks] for _, networks in batch] == [["a", "b", "a"], ["c"]]


def test_weights_in_steps() -> None:
    _, (network,) = extract_networks("<lora:x:0@0,1@10>")
    assert network.changes
    assert network.unet == (When(0.0), When(1.0, 10.0))
    assert [network.unet_weight(step, 20) for step in (0, 9, 10, 19)] == [0, 0, 1, 1]
    assert network.te_weight == 1


def test_weights_in_parts_of_the_pass() -> None:
    _, (network,) = extract_networks("<lora:x:te=1:unet=1.0@0.5,0.2@0>")
    assert [network.unet_weight(step, 8) for step in range(8)] == [0.2] * 4 + [1.0] * 4
    assert network.te_weight == 1


def test_comments() -> None:
    assert strip_comments("a fox # not a dog\n# nothing here\n\nin C# snow#1") == "a fox\n\nin C# snow#1"
    assert strip_comments("") == ""


def test_styles() -> None:
    assert apply_styles("fox", ["oil painting", "", "best {prompt}, sharp"]) == "best fox, oil painting, sharp"
    assert apply_styles("", ["oil painting"]) == "oil painting"
    assert apply_styles("", ["a {prompt} b"]) == "a  b"
    assert pick_styles(["x"], {"x": "oil"}) == ["oil"]
    with pytest.raises(ValueError, match=r"no style 'y'; known are x"):
        pick_styles(["y"], {"x": "oil"})
