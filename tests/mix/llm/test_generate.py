"""Generation: events, stop strings, prefixes, seeds, constraints, and requests that cannot be met."""

import importlib.util
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix.llm import Finished, PrefixCache, Token

spec = importlib.util.spec_from_file_location("llm_golden", Path(__file__).with_name("golden.py"))
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


class Letters:
    """Token i is the letter number i; enough of a tokenizer to read what was generated."""

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(0x100 + int(i)) for i in ids)


@pytest.fixture(scope="module")
def case():
    made = golden.load("glm")
    return made, golden.build(made), [int(i) for i in made["ids"][0]]


def new_ids(events, row=0):
    return [e.id for e in events if isinstance(e, Token) and e.row == row]


def test_events_are_the_tokens_and_one_end_a_row(case):
    made, model, _ = case
    rows = [[int(i) for i in row[keep != 0]] for row, keep in zip(made["ids"], made["mask"], strict=True)]
    events = list(model.stream(rows, max_new_tokens=10, eos_token_id=None))
    for row in (0, 1):
        assert new_ids(events, row) == made["greedy"][row, :10].tolist()
    assert [(e.row, e.reason) for e in events if isinstance(e, Finished)] == [(0, "length"), (1, "length")]


def test_a_row_ends_at_its_end_token_and_the_other_goes_on(case):
    made, model, _ = case
    end = int(made["greedy"][0, 4])
    assert end not in made["greedy"][0, :4]
    assert end not in made["greedy"][1, :12]
    out = model.generate(
        paddle.to_tensor(made["ids"]), paddle.to_tensor(made["mask"]), max_new_tokens=12, eos_token_id=end,
        pad_token_id=90, return_dict_in_generate=True,
    )  # fmt: skip
    new = out.sequences.numpy()[:, made["ids"].shape[1] :]
    np.testing.assert_array_equal(new[0], [*made["greedy"][0, :5], *[90] * 7])
    np.testing.assert_array_equal(new[1], made["greedy"][1, :12])
    assert out.reasons == ("stop", "length")


def test_a_stop_string_ends_the_text_before_it(case):
    made, model, ids = case
    letters = Letters()
    stop = letters.decode(made["greedy"][0, 5:7])
    events = list(model.stream([ids], tokenizer=letters, stop_strings=stop, max_new_tokens=30, eos_token_id=None))
    assert events[-1] == Finished(0, "stop")
    assert "".join(e.text for e in events) == letters.decode(made["greedy"][0, :5])
    assert new_ids(events) == made["greedy"][0, :7].tolist()
    with pytest.raises(ValueError, match="tokenizer="):
        next(model.stream([ids], stop_strings=stop, max_new_tokens=3))


def test_text_held_back_for_a_stop_string_comes_at_the_end(case):
    made, model, ids = case
    letters = Letters()
    almost = letters.decode([*made["greedy"][0, 7:8], 91])
    events = list(model.stream([ids], tokenizer=letters, stop_strings=almost, max_new_tokens=8, eos_token_id=None))
    assert events[-1] == Finished(0, "length", letters.decode(made["greedy"][0, 7:8]))


def test_a_known_prefix_is_not_computed_again(case):
    made, model, ids = case
    prefixes = PrefixCache()
    how = {"max_new_tokens": 8, "eos_token_id": None, "prefix_cache": prefixes}
    first = new_ids(list(model.stream([ids], **how)))
    assert first == made["greedy"][0, :8].tolist()
    assert prefixes.hits == 0
    longer = [*ids, *first, 5, 6]
    again = new_ids(list(model.stream([longer], **how)))
    assert prefixes.hits == len(ids) + len(first) - 1
    assert again == new_ids(list(model.stream([longer], max_new_tokens=8, eos_token_id=None)))
    other = [*ids[:6], 80, 81]
    assert new_ids(list(model.stream([other], **how))) == new_ids(
        list(model.stream([other], max_new_tokens=8, eos_token_id=None))
    )


def test_the_store_of_prefixes_stays_small(case):
    _, model, ids = case
    each = model.cache_layout.bytes_per_token()
    prefixes = PrefixCache(most_bytes=30 * each)
    for start in range(6):
        list(model.stream([[start + 3, *ids]], max_new_tokens=2, eos_token_id=None, prefix_cache=prefixes))
        assert prefixes.bytes <= 30 * each
    assert prefixes.bytes


def test_a_seed_repeats_and_rows_differ(case):
    _, model, ids = case
    how = {"max_new_tokens": 16, "do_sample": True, "temperature": 1.5, "eos_token_id": None}
    a, b, c = (model.generate(paddle.to_tensor([ids, ids]), seed=s, **how).numpy() for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert (a[0] != a[1]).any()


def test_logprobs_are_those_of_the_scores(case):
    _, model, ids = case
    events = list(model.stream([ids], max_new_tokens=3, logprobs=2, eos_token_id=None))
    with paddle.no_grad():
        logits = model(paddle.to_tensor([ids])).logits[0, -1]
    logs = paddle.nn.functional.log_softmax(logits).numpy()
    assert events[0].logprob == pytest.approx(float(logs.max()), abs=1e-5)
    assert events[0].top[0] == (events[0].id, events[0].logprob)
    assert len(events[0].top) == 2


def test_closing_the_stream_stops_the_work(case):
    _, model, ids = case
    work = model.stream([ids], max_new_tokens=50, eos_token_id=None)
    next(work)
    work.close()
    with pytest.raises(StopIteration):
        next(work)


class Even:
    """A constraint: only even tokens, and three of them."""

    def __init__(self):
        self.seen = 0

    def apply(self, scores):
        kept = scores.copy()
        kept[1::2] = -np.inf
        return kept

    def accept(self, token):
        self.seen += 1

    @property
    def finished(self):
        return self.seen >= 3


def test_a_mask_is_kept_and_ends_the_text(case):
    _, model, ids = case
    events = list(model.stream([ids], max_new_tokens=9, logits_masks=[Even()], eos_token_id=None))
    assert len(new_ids(events)) == 3
    assert all(i % 2 == 0 for i in new_ids(events))
    assert events[-1].reason == "stop"


# --- requests that cannot be met --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "how", "why"),
    [
        ([[]], {}, "no tokens"),
        ([[5] * 120], {"max_new_tokens": 20}, "context of 128"),
        ([[5]], {"max_new_tokens": 10**9}, "context of 128"),
        ([[5] * 30], {"max_length": 20}, "max_length"),
        ([[500]], {"max_new_tokens": 2}, "another model's"),
        ([[-1]], {"max_new_tokens": 2}, "another model's"),
        ([[5]], {"max_new_tokens": 2, "logits_masks": [None, None]}, "logits masks"),
    ],
)
def test_what_cannot_be_generated_is_said(case, ids, how, why):
    _, model, _ = case
    with pytest.raises(ValueError, match=why):
        list(model.stream(ids, **how))


def test_too_many_learned_positions_are_refused():
    model = golden.build(golden.load("gpt2"))
    with pytest.raises(ValueError, match="128 positions"):
        model(paddle.ones([1, 129], "int64"))
