"""Beam search with transformers' rules: candidates, length penalty, and when to stop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from mix.llm.sampling import GenerationConfig, draw, log_softmax, penalise, warp

LOW = np.float32(-1e9)  # below every score that a text can have


@dataclass(frozen=True)
class Hypothesis:
    """New tokens of one text and its score: for a complete one the log-probability over length ** length_penalty."""

    score: float
    ids: tuple[int, ...]
    complete: bool = False


@dataclass
class Beams:
    """The search of one prompt: texts that go on, and the best complete ones."""

    prompt: tuple[int, ...]
    going: list[Hypothesis]
    best: list[Hypothesis]
    open: bool = True  # whether a text that goes on may still beat the best


def beam_search(
    model: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig, most: int
) -> list[list[Hypothesis]]:
    """The best `num_return_sequences` continuations of each prompt, best first."""
    width, random = config.num_beams, np.random.default_rng(config.seed)
    searches = [_begin(tuple(prompt), width) for prompt in prompts]
    with paddle.no_grad():
        cache, scores = _prefill(model, prompts, width)
        for length in range(1, most + 1):
            parents: list[int] = []
            hits_all = True
            for i, search in enumerate(searches):
                rows = scores[i * width : (i + 1) * width]
                from_beams, hits = advance(search, rows, config, length, most, random)
                hits_all &= hits
                parents += [i * width + beam for beam in from_beams]
            if hits_all or not _goes_on(searches, config):
                break
            cache.select(parents)
            ids = np.asarray([[h.ids[-1]] for search in searches for h in search.going])
            scores = _scores(model, cache.step([1] * len(parents)), ids)
    return [search.best[: config.num_return_sequences] for search in searches]


def _begin(prompt: tuple[int, ...], width: int) -> Beams:
    """All beams begin alike, so only the first one may go on in the first step."""
    going = [Hypothesis(0.0 if i == 0 else float(LOW), ()) for i in range(width)]
    return Beams(prompt, going, [Hypothesis(float(LOW), ()) for _ in range(width)])


def _prefill(model: Any, prompts: Sequence[Sequence[int]], width: int) -> tuple[Any, np.ndarray]:
    cache = model.new_cache(len(prompts), max(map(len, prompts)) + 64)
    step = cache.step([len(prompt) for prompt in prompts])
    flat = np.concatenate([np.asarray(p) for p in prompts]).reshape([-1, 1] if step.single else [1, -1])
    scores = _scores(model, step, flat)
    cache.select([row for row in range(len(prompts)) for _ in range(width)])
    return cache, np.repeat(scores, width, axis=0)


def _scores(model: Any, step: Any, ids: np.ndarray) -> np.ndarray:
    from mix.llm.generate import next_scores

    return next_scores(model, step, ids)


def advance(
    search: Beams, scores: np.ndarray, config: GenerationConfig, length: int, most: int, random: np.random.Generator
) -> tuple[list[int], bool]:
    """One step: `scores` (beams, V) of the texts that go on. Returns the beam that each new text came from, and whether
    every candidate was complete."""
    logs = log_softmax(scores)
    for i, text in enumerate(search.going):
        logs[i] = penalise(logs[i], config, search.prompt, text.ids)
        if config.samples:
            logs[i] = warp(logs[i], config)
    totals = (logs + np.asarray([h.score for h in search.going], np.float32)[:, None]).reshape(-1)
    width, vocab = config.num_beams, scores.shape[-1]
    wanted = max(2, 1 + len(config.eos_token_id)) * width
    order = _sampled(totals, wanted, random) if config.samples else _largest(totals, wanted)
    texts = [(*search.going[i // vocab].ids, int(i % vocab)) for i in order]
    hits = np.asarray([length >= most or text[-1] in config.eos_token_id for text in texts])
    values = totals[order]
    _collect(search, texts, values, hits, config, length)
    running = values + np.where(hits, LOW, np.float32(0))
    kept = _largest(running, width)
    search.going = [Hypothesis(float(running[i]), texts[i]) for i in kept]
    search.open = search.open and _may_improve(search, config, length, most)
    return [int(order[i] // vocab) for i in kept], bool(hits.all())


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest values, largest first."""
    count = min(count, values.size)
    some = np.argpartition(-values, count - 1)[:count]
    return some[np.argsort(-values[some], kind="stable")]


def _sampled(values: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Places drawn without replacement by the probabilities that the values stand for, largest value first."""
    left, drawn = values.copy(), []
    for _ in range(min(count, int(np.isfinite(values).sum()))):
        drawn.append(draw(left, random))
        left[drawn[-1]] = -np.inf
    places = np.asarray(drawn)
    return places[np.argsort(-values[places], kind="stable")]


def _collect(
    search: Beams,
    texts: Sequence[tuple[int, ...]],
    values: np.ndarray,
    hits: np.ndarray,
    config: GenerationConfig,
    length: int,
) -> None:
    """Complete texts among the best `num_beams` candidates compete with the complete ones found before."""
    full = config.early_stopping is True and all(h.complete for h in search.best)
    if full or not search.open:
        return
    new = [
        Hypothesis(float(value / length**config.length_penalty), text, True)
        for text, value, hit in list(zip(texts, values, hits, strict=True))[: config.num_beams]
        if hit
    ]
    search.best = sorted([*search.best, *new], key=lambda h: -h.score)[: config.num_beams]


def _may_improve(search: Beams, config: GenerationConfig, length: int, most: int) -> bool:
    """Whether the best text that goes on could still beat the worst complete one, by transformers' estimate."""
    if not all(h.complete for h in search.best):
        return True
    hopeful = config.early_stopping == "never" and config.length_penalty > 0
    reach = most if hopeful else length
    return search.going[0].score / reach**config.length_penalty > min(h.score for h in search.best)


def _goes_on(searches: Sequence[Beams], config: GenerationConfig) -> bool:
    full = config.early_stopping is True and all(h.complete for s in searches for h in s.best)
    return not full and any(search.open for search in searches)
