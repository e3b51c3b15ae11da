"""The engine's laws: tokens of a request do not depend on its company, every request ends once, every block returns."""

import gc
import importlib.util
import random
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mix.llm import AutoModelForCausalLM, Busy, Ended, Engine, GenerationConfig, Request, Token
from mix.llm.engine import Served

spec = importlib.util.spec_from_file_location("llm_golden", Path(__file__).with_name("golden.py"))
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)

KINDS = ("llama", "mistral", "bloom", "gpt2", "qwen2_window")  # rope, window, alibi, learned, window in some layers
_models, _alone = {}, {}


class Letters:
    """Token i is the letter number i; enough of a tokenizer to read what was generated."""

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(0x100 + int(i)) for i in ids)


def model_of(family):
    if family not in _models:
        _models[family] = golden.build(golden.load(family))
    return _models[family]


def text_of(family):
    """100 ids that begin the prompts, so that many share their beginnings."""
    return [*(int(i) for i in golden.load(family)["ids"][0]), *(i * 7 % 90 + 3 for i in range(100))][:100]


def alone(family, prompt, new):
    """What `generate` adds to the prompt."""
    key = (family, tuple(prompt))
    if len(_alone.get(key, ())) < new:
        out = model_of(family).generate(paddle.to_tensor([list(prompt)]), max_new_tokens=new, eos_token_id=None)
        _alone[key] = out.numpy()[0, len(prompt) :].tolist()
    return _alone[key][:new]


def plain(new, **how):
    return GenerationConfig(max_new_tokens=new, **how)


def ids_of(events):
    return [e.id for e in events if isinstance(e, Token)]


def collect(engine, requests):
    """Events of each request, all submitted at once."""
    return [list(stream) for stream in [engine.submit(r) for r in requests]]


# --- the same tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_every_family_gives_its_golden_tokens(family):
    made = golden.load(family)
    rows = [[int(i) for i in row[keep != 0]] for row, keep in zip(made["ids"], made["mask"], strict=True)]
    engine = Engine(model_of(family), None, blocks=12, block_size=4, prefill_chunk=5)
    found = collect(engine, [Request(ids=row, config=plain(12)) for row in rows])
    for events, greedy in zip(found, made["greedy"], strict=True):
        assert ids_of(events) == greedy[:12].tolist()
        assert events[-1].reason == "length"
    assert engine.pool.held == 0


@st.composite
def crowds(draw):
    """An engine's sizes, and requests as (arrival step, prompt length, a token that differs, tokens to add)."""
    size = draw(st.sampled_from([1, 4, 8]))
    asked = []
    for _ in range(draw(st.integers(1, 7))):
        asked.append((draw(st.integers(0, 12)), draw(st.integers(1, 40)), draw(st.integers(0, 2)),
                      draw(st.integers(1, 14))))  # fmt: skip
    least = max(-(-(length + new) // size) for _, length, _, new in asked)
    blocks = least + draw(st.integers(0, 2 * least))
    sizes = draw(st.integers(1, 5)), draw(st.integers(1, 30)), draw(st.sampled_from([1, 6, 48]))
    return draw(st.sampled_from(KINDS)), size, blocks, *sizes, asked


@given(crowds())
@settings(max_examples=25, deadline=None)
def test_tokens_do_not_depend_on_the_company(crowd):
    family, size, blocks, max_running, chunk, grain, asked = crowd
    engine = Engine(
        model_of(family),
        None,
        blocks=blocks,
        block_size=size,
        max_running=max_running,
        prefill_chunk=chunk,
        grain=grain,
    )
    text = text_of(family)
    prompts = [[*text[: n - 1], (text[n - 1] + other) % 97] for _, n, other, _ in asked]
    streams = {}
    for step in range(10_000):
        for i, (arrival, _, _, new) in enumerate(asked):
            if arrival == step:
                streams[i] = engine.submit(Request(ids=prompts[i], config=plain(new)))
        if not engine.step() and step > 12:
            break
    for i, (_, _, _, new) in enumerate(asked):
        events = list(streams[i])
        assert ids_of(events) == alone(family, prompts[i], new)
        assert [type(e) for e in events].count(Ended) == 1
        assert events[-1].usage.completion == new
    assert engine.pool.held == 0


def test_a_crowd_that_does_not_fit_gives_way_and_comes_back():
    engine = Engine(model_of("llama"), None, blocks=9, block_size=4, prefill_chunk=8)
    text = text_of("llama")
    prompts = [[i + 3, *text[:9]] for i in range(5)]
    found = collect(engine, [Request(ids=p, config=plain(20)) for p in prompts])
    assert engine.load().preemptions > 3
    assert [ids_of(events) for events in found] == [alone("llama", p, 20) for p in prompts]


def test_events_are_those_of_a_single_stream():
    model, text = model_of("llama"), text_of("llama")
    stop = Letters().decode(alone("llama", text[:10], 9)[7:9])
    config = plain(20, logprobs=3, stop_strings=stop, repetition_penalty=1.0)
    engine = Engine(model, Letters(), blocks=30, block_size=4)
    found, *_ = collect(
        engine, [Request(ids=text[:10], config=config), Request(ids=text[:21], config=plain(5)),
                 Request(ids=text[:3], config=plain(30))]
    )  # fmt: skip
    single = list(model.stream([text[:10]], generation_config=config, tokenizer=Letters()))
    assert [(e.id, e.text) for e in found[:-1]] == [(e.id, e.text) for e in single[:-1]]
    np.testing.assert_allclose([e.logprob for e in found[:-1]], [e.logprob for e in single[:-1]], atol=1e-5)
    assert (found[-1].reason, found[-1].text) == (single[-1].reason, single[-1].text) == ("stop", "")


def test_seeds_and_choices_draw_as_rows_of_a_batch_do():
    model, text = model_of("llama"), text_of("llama")[:12]
    config = plain(8, do_sample=True, temperature=1.5, seed=5)
    rows = model.generate(paddle.to_tensor([text] * 3), generation_config=config).numpy()[:, 12:]
    engine = Engine(model, None, blocks=20, block_size=4, prefill_chunk=7)
    found = collect(engine, [Request(ids=text, config=config, choice=i) for i in range(3)])
    assert [ids_of(events) for events in found] == rows.tolist()
    assert {e.row for events in found for e in events if isinstance(e, Token)} == {0, 1, 2}
    assert engine.load().reused == 2 * 8  # the prompt is computed once: two full blocks are shared


def test_an_end_token_ends_and_a_constraint_is_kept():
    class OnlyEven:
        finished, seen = False, 0

        def apply(self, scores):
            return np.where(np.arange(scores.size) % 2 == 0, scores, -np.inf)

        def accept(self, token):
            self.seen += 1
            self.finished = self.seen == 6

    text = text_of("llama")[:12]
    end = alone("llama", text, 5)[-1]
    engine = Engine(model_of("llama"), None, blocks=10, block_size=4)
    first, second = collect(
        engine, [Request(ids=text, config=plain(20, eos_token_id=end)),
                 Request(ids=text, config=plain(20), mask=OnlyEven())]
    )  # fmt: skip
    assert ids_of(first) == alone("llama", text, 5)[: alone("llama", text, 5).index(end) + 1]
    assert first[-1].reason == second[-1].reason == "stop"
    assert len(ids_of(second)) == 6
    assert all(i % 2 == 0 for i in ids_of(second))


def test_a_known_beginning_is_not_computed_again():
    engine, text = Engine(model_of("llama"), None, blocks=20, block_size=4, grain=1), text_of("llama")
    first = ids_of(*collect(engine, [Request(ids=text[:14], config=plain(8))]))
    longer = [*text[:14], *first, 5, 6, 7]
    (events,) = collect(engine, [Request(ids=longer, config=plain(6))])
    assert events[-1].usage.cached == 20  # of 21 computed ones the full blocks
    assert ids_of(events) == alone("llama", longer, 6)


def test_bfloat16_serves_too():
    model = golden.build(golden.load("llama"), "bfloat16")
    engine = Engine(model, None, blocks=20, block_size=4, prefill_chunk=6)
    text = text_of("llama")
    found = collect(engine, [Request(ids=text[: 8 + i], config=plain(6)) for i in range(3)])
    assert [len(ids_of(events)) for events in found] == [6, 6, 6]


# --- the ends --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(0, 3), st.booleans())
@settings(max_examples=15, deadline=None)
def test_cancelling_at_any_point_leaves_the_others_alone(when, who, crowded):
    engine = Engine(model_of("llama"), None, blocks=9 if crowded else 40, block_size=4, max_running=3, prefill_chunk=8)
    text = text_of("llama")
    prompts = [[i + 3, *text[:9]] for i in range(4)]
    streams = [engine.submit(Request(ids=p, config=plain(16))) for p in prompts]
    for _ in range(when):
        engine.step()
    streams[who].close()
    streams[who].close()
    for i, stream in enumerate(streams):
        events = list(stream)
        assert [isinstance(e, Ended) for e in events].count(True) == 1
        if i != who:
            assert ids_of(events) == alone("llama", prompts[i], 16)
        elif events[-1].reason == "cancelled":
            n = events[-1].usage.completion
            assert ids_of(events) == alone("llama", prompts[i], 16)[:n]
    assert engine.pool.held == 0
    assert engine.load().ended == 4


@pytest.mark.parametrize(
    ("ids", "how", "says"),
    [
        ([], plain(4), "no tokens"),
        (range(3, 60), plain(100), "context of 128"),
        ([3] * 30, plain(80), "48 tokens that this engine can hold"),
        ([3, 97], plain(4), "another model's"),
        ([3, -1], plain(4), "another model's"),
        ([3], plain(4, num_beams=2), "beam search"),
        ([3], plain(4, stop_strings="x"), "need a tokenizer"),
    ],
)
def test_what_can_never_be_served_is_refused_at_once(ids, how, says):
    engine = Engine(model_of("llama"), None, blocks=12, block_size=4)
    with pytest.raises(ValueError, match=says):
        engine.submit(Request(ids=ids, config=how))
    assert not engine.step()


def test_the_largest_request_that_fits_is_served():
    engine, text = Engine(model_of("llama"), None, blocks=5, block_size=4), text_of("llama")
    (events,) = collect(engine, [Request(ids=text[:10], config=plain(11))])
    assert ids_of(events) == alone("llama", text[:10], 11)
    assert engine.most_tokens(10) == 10


def test_too_many_requests_are_told_to_come_back():
    engine = Engine(model_of("llama"), None, blocks=12, block_size=4, max_running=2, max_waiting=1)
    streams = [engine.submit(Request(ids=[3, 4], config=plain(3))) for _ in range(3)]
    with pytest.raises(Busy, match="3 requests") as refused:
        engine.submit(Request(ids=[3, 4], config=plain(3)))
    assert refused.value.retry_after >= 1
    assert [list(stream)[-1].reason for stream in streams] == ["length"] * 3
    engine.submit(Request(ids=[3, 4], config=plain(3))).close()
    engine.stop()
    with pytest.raises(Busy, match="stopped"):
        engine.submit(Request(ids=[3, 4], config=plain(3)))


def test_damaged_weights_end_the_request_with_a_sentence():
    model = golden.build(golden.load("llama"))
    weight = model.blocks[1].part("down").weight
    weight.set_value(paddle.full_like(weight, float("nan")))
    engine = Engine(model, None, blocks=12, block_size=4)
    stream = engine.submit(Request(ids=[3, 4, 5], config=plain(4)))
    with pytest.raises(ValueError, match="weights are damaged"):
        list(stream)
    assert list(stream) == []
    assert engine.pool.held == 0


def test_a_failed_step_ends_its_requests_and_the_engine_goes_on():
    class Moody:
        def __init__(self, model):
            self.model, self.config, self.cache_layout = model, model.config, model.cache_layout
            self.fails = False

        def __call__(self, *ids, **how):
            if self.fails:
                raise RuntimeError("out of memory")
            return self.model(*ids, **how)

    moody, text = Moody(model_of("llama")), text_of("llama")
    engine = Engine(moody, None, blocks=12, block_size=4, max_running=2)
    streams = [engine.submit(Request(ids=text[:9], config=plain(5))) for _ in range(3)]
    engine.step()
    moody.fails = True
    engine.step()
    moody.fails = False
    with pytest.raises(RuntimeError, match="out of memory"):
        list(streams[0])
    assert ids_of(list(streams[2])) == alone("llama", text[:9], 5)
    assert engine.pool.held == 0


# --- threads ---------------------------------------------------------------------------------------------------------


def test_a_thread_serves_callers_from_many_threads():
    text, found = text_of("llama"), {}
    with Engine(model_of("llama"), None, blocks=40, block_size=4, max_running=4) as engine:

        def call(i):
            found[i] = ids_of(list(engine.submit(Request(ids=text[: 5 + i], config=plain(6)))))

        callers = [threading.Thread(target=call, args=(i,)) for i in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
    assert found == {i: alone("llama", text[: 5 + i], 6) for i in range(8)}
    assert engine.load().held == engine.load().running == 0


def test_stopping_ends_what_is_left():
    engine = Engine(model_of("llama"), None, blocks=40, block_size=4, max_running=2).start()
    streams = [engine.submit(Request(ids=[3, 4, 5], config=plain(100))) for _ in range(5)]
    next(streams[0])
    engine.stop()
    assert {list(stream)[-1].reason for stream in streams} == {"cancelled"}
    assert engine.load().ended == 5


def test_a_listener_that_is_gone_cancels_its_request():
    engine, heard = Engine(model_of("llama"), None, blocks=40, block_size=4), []

    def listen(event):
        heard.append(event)
        if len(heard) == 3:
            raise RuntimeError("the loop is closed")

    engine.submit(Request(ids=[3, 4, 5], config=plain(100)), listen)
    while engine.step():
        pass
    assert len(heard) == 4
    assert heard[-1].reason == "cancelled"


def test_soak():
    """2,000 requests, a third of them dropped at some point: each ends once, blocks return, memory stays."""
    resource = pytest.importorskip("resource")
    dice, text = random.Random(7), text_of("llama")
    ends, peaks = [], []
    model = AutoModelForCausalLM.from_config(golden.load("llama")["config"] | {"num_hidden_layers": 1}).eval()
    engine = Engine(model, None, blocks=70, block_size=4, max_running=32, max_waiting=200, prefill_chunk=128, grain=4)

    def listener(number):
        def listen(event):
            if isinstance(event, Ended):
                ends.append((number, event.reason))
            elif number % 10 == 0 and dice.random() < 0.3:
                raise RuntimeError("gone")

        return listen

    open_streams, sent = [], 0
    while sent < 2000 or engine.scheduler.busy:
        while sent < 2000 and len(engine.scheduler.waiting) < 20:
            prompt = [dice.randrange(3, 90), *text[: dice.randrange(1, 24)]]
            request = Request(ids=prompt, config=plain(dice.randrange(1, 10)))
            open_streams.append(engine.submit(request, listener(sent)))
            sent += 1
            if sent in (500, 2000):
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            if len(engine._new) > 20:
                break
        if dice.random() < 0.3:
            open_streams.pop(dice.randrange(len(open_streams))).close()
        del open_streams[:-50]
        engine.step()
    assert sorted(number for number, _ in ends) == list(range(2000))
    assert {"cancelled", "length"} == {reason for _, reason in ends}
    load = engine.load()
    assert (load.held, load.running, load.waiting) == (0, 0, 0)
    assert load.preemptions > 3
    open_streams.clear()
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Served)], "requests that are over are kept"
    # The process grows at first and then hardly: 12,000 requests added 107 MB up to the 2,000th, 19 up to the 6,000th
    # and 5 in the last 6,000.
    assert peaks[1] - peaks[0] < 80_000, "kilobytes that the last 1,500 requests added"
