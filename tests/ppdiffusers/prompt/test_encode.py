"""Encoding: diffusers' numbers for plain prompts, and the laws of weights, chunks and embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import Tensor
from safetensors.numpy import save_file

from ppdiffusers.prompt.chunk import Slot
from ppdiffusers.prompt.encode import PromptSettings, TextEncoders, count_tokens, emphasise, encode

GOLDEN = np.load(Path(__file__).parents[2] / "goldens" / "prompt_encode.npz")
PROMPTS = [str(prompt) for prompt in GOLDEN["prompts"]]


def close(ours: Tensor, theirs: np.ndarray, tolerance: float = 1e-5) -> None:
    assert tuple(ours.shape) == theirs.shape
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=tolerance * float(np.abs(theirs).max()))


def same(ours: Tensor, other: Tensor) -> None:
    np.testing.assert_array_equal(ours.numpy(), other.numpy())


@pytest.mark.parametrize("skip", [None, 1, 2])
def test_sd_is_what_diffusers_encodes(sd: TextEncoders, skip: int | None) -> None:
    found = encode(sd, PROMPTS, PromptSettings(clip_skip=(skip or 0) + 1))
    close(found.text, GOLDEN[f"sd_{skip}"])
    assert found.pooled is None


@pytest.mark.parametrize("skip", [None, 1])
def test_sdxl_is_what_diffusers_encodes(xl: TextEncoders, skip: int | None) -> None:
    found = encode(xl, PROMPTS, PromptSettings(clip_skip=(skip or 0) + 2))
    close(found.text, GOLDEN[f"xl_{skip}"])
    assert found.pooled is not None
    close(found.pooled, GOLDEN[f"xl_pooled_{skip}"])


def test_sdxl_has_no_clip_skip_below_two(xl: TextEncoders) -> None:
    same(encode(xl, PROMPTS).text, encode(xl, PROMPTS, PromptSettings(clip_skip=2)).text)


def test_the_refiner_reads_the_second_half(xl: TextEncoders) -> None:
    second = xl.encoders[1]
    found = encode(TextEncoders.sdxl_refiner(second.tokenizer, second.model), PROMPTS)
    close(found.text, GOLDEN["xl_None"][..., 32:])


def test_a_plain_prompt_is_the_models_last_hidden_state(sd: TextEncoders) -> None:
    (encoder,) = sd.encoders
    ids = paddle.to_tensor(encoder.tokenizer.rows([PROMPTS[0]]))
    with paddle.no_grad():  # another kernel may run where gradients are wanted
        wanted = encoder.model(ids).last_hidden_state
    same(encode(sd, PROMPTS[:1]).text, wanted)


def test_a_picture_does_not_depend_on_its_batch(xl: TextEncoders) -> None:
    prompts = ["a (cat:1.4)", "a [dog] in (snow)"]
    alone = [encode(xl, [prompt]) for prompt in prompts]
    together = encode(xl, prompts)
    for row, found in enumerate(alone):
        same(together.text[row], found.text[0])
        assert together.pooled is not None
        assert found.pooled is not None
        same(together.pooled[row], found.pooled[0])


def test_weights_multiply_tokens_and_the_mean_is_restored(sd: TextEncoders) -> None:
    plain = encode(sd, ["a cat"]).text.numpy()
    raw = encode(sd, ["a (cat:1.5)"], PromptSettings(emphasis="No norm")).text.numpy()
    restored = encode(sd, ["a (cat:1.5)"]).text.numpy()
    factors = np.ones((1, 77, 1), np.float32)
    factors[0, 2] = 1.5
    np.testing.assert_array_equal(raw, plain * factors)
    np.testing.assert_allclose(restored, raw * (plain.mean() / raw.mean()), rtol=1e-5)
    np.testing.assert_allclose(restored.mean(), plain.mean(), rtol=1e-4)


def test_emphasis_modes_without_weights(sd: TextEncoders) -> None:
    plain = encode(sd, ["a cat"]).text
    same(encode(sd, ["a (cat:1.5)"], PromptSettings(emphasis="Ignore")).text, plain)
    same(encode(sd, ["a (cat:1.0)"]).text, plain)
    literal = encode(sd, ["a (cat:1.5)"], PromptSettings(emphasis="None")).text
    assert not np.array_equal(literal.numpy(), plain.numpy())
    assert np.isfinite(encode(sd, ["(a cat:0)"]).text.numpy()).all()


def test_shorter_prompts_get_empty_chunks(xl: TextEncoders) -> None:
    found = encode(xl, ["cat " * 80, "dog"])
    assert found.text.shape == [2, 2 * 77, 96]
    empty, dog = encode(xl, [""]), encode(xl, ["dog"])
    same(found.text[1, :77], dog.text[0])
    same(found.text[1, 77:], empty.text[0])
    assert found.pooled is not None
    assert dog.pooled is not None
    same(found.pooled[1], dog.pooled[0])


def test_break_encodes_both_sides_apart(sd: TextEncoders) -> None:
    found = encode(sd, ["a cat BREAK a dog"]).text
    same(found[0, :77], encode(sd, ["a cat"]).text[0])
    same(found[0, 77:], encode(sd, ["a dog"]).text[0])


def test_three_thousand_words(sd: TextEncoders) -> None:
    text = ", ".join(["a red fox"] * 1000)
    found = encode(sd, [text]).text
    assert found.shape[1] % 77 == 0
    assert found.shape[1] >= 4000 // 75 * 77
    assert np.isfinite(found.numpy()).all()


def test_an_embedding_that_is_a_word_changes_nothing(sd: TextEncoders, xl: TextEncoders, tmp_path: Path) -> None:
    def vectors(which: int) -> np.ndarray:
        encoder = xl.encoders[which]
        return encoder.model.embed_tokens(paddle.to_tensor([encoder.tokenizer.ids("red fox")]))[0].numpy()

    save_file({"emb_params": vectors(0)}, tmp_path / "zz-one.safetensors")
    save_file({"clip_l": vectors(0), "clip_g": vectors(1)}, tmp_path / "zz-two.safetensors")
    paths = sorted(tmp_path.iterdir())
    for encoders, word, refused in ((sd, "zz-one", "'zz-two' is for SDXL"), (xl, "zz-two", "'zz-one' is for")):
        taught, notices = encoders.with_embeddings(paths)
        assert len(notices) == 1
        assert refused in notices[0]
        found = encode(taught, [f"a ({word.upper()}:1.2), snow"])
        close(found.text, encode(encoders, ["a (red fox:1.2), snow"]).text.numpy(), 1e-6)
        if found.pooled is not None:
            pooled = encode(encoders, ["a (red fox:1.2), snow"]).pooled
            assert pooled is not None
            close(found.pooled, pooled.numpy(), 1e-6)


@pytest.mark.parametrize("restore", [True, False])
def test_bf16_features_stay_bf16(sd: TextEncoders, restore: bool) -> None:
    plain = encode(sd, ["a cat"]).text[0]
    chunk = (Slot(1), Slot(2, 1.3))
    found = emphasise(plain.astype("bfloat16"), chunk, restore)
    assert found.dtype == paddle.bfloat16
    close(found.astype("float32"), emphasise(plain, chunk, restore).numpy(), 0.02)


def test_the_counter_takes_the_longest_text_of_the_schedule(xl: TextEncoders) -> None:
    assert count_tokens(xl, "") == (0, 75)
    assert count_tokens(xl, "a (cat:1.2)") == (2, 75)
    assert count_tokens(xl, "a [b:c d e:0.5] AND z") == (4, 75)
    assert count_tokens(xl, "cat " * 100) == (100, 150)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"emphasis": "Loud"}, "choose one of"),
        ({"clip_skip": 0}, "1 is the last layer"),
        ({"comma_backtrack": -1}, "0"),
    ],
)
def test_settings_that_are_not_possible(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PromptSettings(**wrong)


def test_clip_skip_deeper_than_the_model(sd: TextEncoders) -> None:
    with pytest.raises(ValueError, match="clip skip 4 is too deep: the text encoder clip_l has 3 layers"):
        encode(sd, ["a"], PromptSettings(clip_skip=4))


def test_no_prompt_is_said(sd: TextEncoders) -> None:
    with pytest.raises(ValueError, match="no prompt to encode"):
        encode(sd, [])
