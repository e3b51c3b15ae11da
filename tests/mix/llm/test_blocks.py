"""Blocks and the order of work, without a model: nothing is lost, everybody ends, in any order of events."""

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mix.llm.blocks import FIRST, BlockPool, digest_of
from mix.llm.scheduler import Scheduler, Text


def test_a_block_is_free_kept_or_held():
    pool = BlockPool(3, 4)
    a, b = pool.take(), pool.take()
    name = digest_of(FIRST, [1, 2, 3, 4])
    pool.name(a, name)
    pool.release([a, b])
    assert (pool.available, pool.held, pool.kept) == (3, 0, 1)
    assert pool.match([name, digest_of(name, [5, 6, 7, 8])]) == [a]
    assert pool.match([name]) == [a]
    pool.release([a])
    assert pool.held == 1
    pool.release([a])
    assert [pool.take() for _ in range(4)][3] is None
    assert pool.match([name]) == []


def test_the_least_recently_used_is_forgotten_first_and_an_end_before_its_beginning():
    pool = BlockPool(4, 1)
    names = [digest_of(FIRST, [1])]
    names.append(digest_of(names[0], [2]))
    chain = [pool.take(), pool.take()]
    for block, name in zip(chain, names, strict=True):
        pool.name(block, name)
    pool.release(chain)
    pool.take(), pool.take(), pool.take()
    assert pool.match(names) == chain[:1]


def test_a_block_given_back_twice_is_an_error():
    pool = BlockPool(1, 1)
    block = pool.take()
    pool.release([block])
    with pytest.raises(AssertionError, match="more often"):
        pool.release([block])


def test_names_say_what_came_before():
    assert digest_of(FIRST, [1, 2]) != digest_of(digest_of(FIRST, [0, 0]), [1, 2])


def test_forget_frees_what_nobody_holds():
    pool = BlockPool(2, 1)
    a, b = pool.take(), pool.take()
    pool.name(a, b"a")
    pool.name(b, b"b")
    pool.release([a])
    pool.forget()
    assert (pool.kept, pool.held, pool.available) == (0, 1, 1)
    assert pool.match([b"a"]) == []
    assert pool.match([b"b"]) == [b]


@st.composite
def crowds(draw):
    """Texts as (arrival step, prompt, tokens to add, step at which it is cancelled), and an engine's sizes."""
    size = draw(st.sampled_from([1, 2, 4]))
    blocks = draw(st.integers(3, 12))
    most = blocks * size
    texts = []
    for _ in range(draw(st.integers(1, 8))):
        prompt = draw(st.lists(st.integers(0, 1), min_size=1, max_size=most - 1))
        new = draw(st.integers(1, most - len(prompt)))
        texts.append((draw(st.integers(0, 10)), prompt, new, draw(st.none() | st.integers(0, 30))))
    return size, blocks, draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.sampled_from([1, 1, 3, 4])), texts


@given(crowds())
@settings(max_examples=200, deadline=None)
def test_everybody_ends_in_any_crowd(crowd):
    size, blocks, max_running, chunk, grain, asked = crowd
    pool = BlockPool(blocks, size)
    scheduler = Scheduler(pool, max_running, chunk, grain)
    coming = sorted(enumerate(asked), key=lambda item: item[1][0])
    texts, goals, ended, arrived = {}, {}, [], count()
    for step in range(5000):
        while coming and coming[0][1][0] <= step:
            number, (_, prompt, new, _) = coming.pop(0)
            texts[number] = Text(next(arrived), list(prompt))
            goals[number] = len(prompt) + new
            scheduler.add(texts[number])
        for number, text in list(texts.items()):
            if asked[number][3] is not None and step >= asked[number][0] + asked[number][3]:
                scheduler.remove(text)
                ended.append(number)
                del texts[number]
        works = scheduler.plan()
        if not works:
            assert not texts
            if not coming:
                break
            continue
        check(pool, scheduler, works, texts, chunk)
        numbers = {id(text): number for number, text in texts.items()}
        for work in works:
            complete = work.complete
            scheduler.done(work)
            if complete:
                number = numbers[id(work.text)]
                work.text.tokens.append(len(work.text.tokens) % 2)
                if len(work.text.tokens) == goals[number]:
                    scheduler.remove(work.text)
                    ended.append(number)
                    del texts[number]
    assert sorted(ended) == list(range(len(asked)))
    assert pool.held == 0


def check(pool, scheduler, works, texts, chunk):
    """What holds in every step."""
    held = [block for text in scheduler.running for block in text.blocks]
    assert len(set(held)) == pool.held
    assert all(not text.blocks and not text.computed for text in scheduler.waiting)
    order = [text.number for text in (*scheduler.running, *scheduler.waiting)]
    assert order == sorted(order)
    assert scheduler.running[0] in [work.text for work in works]
    assert sum(work.count for work in works if work.count > 1) <= chunk + 1
    for work in works:
        assert work.count >= 1
        assert work.complete or work.count % scheduler.grain == 0
        assert len(work.text.blocks) * pool.size >= work.text.computed + work.count
    written = [(w.text.blocks[i // pool.size], i % pool.size) for w in works
               for i in range(w.text.computed, w.text.computed + w.count)]  # fmt: skip
    assert len(set(written)) == len(written)
    shared = {b for b in held if held.count(b) > 1}
    assert not shared & {block for block, _ in written}
    assert len(scheduler.running) + len(scheduler.waiting) == len(texts)
