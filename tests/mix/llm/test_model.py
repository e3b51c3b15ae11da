"""Every family beside transformers: the same scores and tokens, however texts are batched."""

import importlib.util
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix.llm.cache import KVCache
from mix.llm.sampling import GenerationConfig, penalise

spec = importlib.util.spec_from_file_location("llm_golden", Path(__file__).with_name("golden.py"))
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


@pytest.fixture(scope="module", params=golden.FAMILIES)
def case(request):
    made = golden.load(request.param)
    return made, golden.build(made)


def rows_of(made):
    return [row[keep != 0] for row, keep in zip(made["ids"], made["mask"], strict=True)]


def test_scores_are_those_of_transformers(case):
    made, model = case
    with paddle.no_grad():
        logits = model(paddle.to_tensor(made["ids"][:1])).logits.numpy()
    np.testing.assert_allclose(logits, made["logits"], atol=1e-4)


def test_left_padding_changes_nothing(case):
    made, model = case
    with paddle.no_grad():
        out = model(paddle.to_tensor(made["ids"]), attention_mask=paddle.to_tensor(made["mask"])).logits.numpy()
    np.testing.assert_allclose(out[:, 5:], made["padded"], atol=1e-4)


def test_a_pack_is_its_texts_one_by_one(case):
    made, model = case
    rows = rows_of(made)
    ends = np.cumsum([0, *map(len, rows)]).tolist()
    with paddle.no_grad():
        packed = model(paddle.to_tensor(np.concatenate(rows)[None]), cu_seqlens=ends).logits.numpy()[0]
        alone = [model(paddle.to_tensor(row[None])).logits.numpy()[0] for row in rows]
    np.testing.assert_allclose(packed, np.concatenate(alone), atol=2e-5)


@pytest.mark.parametrize(("name", "penalty"), [("greedy", 1.0), ("varied", 1.5)])
def test_greedy_continuation_is_that_of_transformers(case, name, penalty):
    made, model = case
    out = model.generate(
        paddle.to_tensor(made["ids"]),
        paddle.to_tensor(made["mask"]),
        max_new_tokens=made[name].shape[1],
        repetition_penalty=penalty,
        eos_token_id=None,
    )
    assert (out.numpy()[:, : made["ids"].shape[1]] == made["ids"]).all()
    np.testing.assert_array_equal(out.numpy()[:, made["ids"].shape[1] :], made[name])


def test_without_a_cache_the_same_tokens_come(case):
    made, model = case
    for name in ("greedy", "varied"):
        ids = np.concatenate([made["ids"][0], made[name][0]])[None]
        with paddle.no_grad():
            scores = model(paddle.to_tensor(ids.astype(np.int64))).logits.numpy()[0, made["ids"].shape[1] - 1 : -1]
        config = GenerationConfig(repetition_penalty=1.5 if name == "varied" else 1.0)
        for i, (row, want) in enumerate(zip(scores, made[name][0], strict=True)):
            assert penalise(row, config, made["ids"][0], made[name][0, :i].tolist()).argmax() == want


def test_a_cache_filled_in_pieces_gives_the_same_scores(case):
    """Chunked prefill of two texts of different lengths, some rows only, then single tokens."""
    made, model = case
    rows = rows_of(made)
    cache = KVCache(model.cache_layout, 2, room=4)
    with paddle.no_grad():
        for counts, which in (([3, 2], None), ([4], [0]), ([5, 1], None), ([1], [1]), ([1, 1], None)):
            chosen = [0, 1] if which is None else which
            step = cache.step(counts, which)
            at = [int(cache.lengths[r]) for r in chosen]
            new = [rows[r][a : a + n] for r, a, n in zip(chosen, at, counts, strict=True)]
            ids = np.concatenate(new).reshape([-1, 1] if step.single else [1, -1])
            logits = model(paddle.to_tensor(ids), context=step).logits.numpy().reshape([-1, model.config.vocab_size])
            step.commit()
            ends = np.cumsum(counts) - 1
            for r, a, n, end in zip(chosen, at, counts, ends, strict=True):
                whole = model(paddle.to_tensor(rows[r][None, : a + n])).logits.numpy()[0, -1]
                np.testing.assert_allclose(logits[end], whole, atol=2e-5)


def test_bfloat16_is_near(case):
    made, _ = case
    model = golden.build(made, "bfloat16")
    model.pack()
    with paddle.no_grad():
        logits = model(paddle.to_tensor(made["ids"][:1])).logits.astype("float32").numpy()
    error = np.abs(logits - made["logits"]).mean() / np.abs(made["logits"]).mean()
    assert error < 0.05
