"""Penalties and filters beside transformers', and what settings are refused."""

from pathlib import Path

import numpy as np
import pytest

from mix.llm.sampling import GenerationConfig, choose, draw, log_softmax, penalise, warp

GOLDEN = Path(__file__).parents[2] / "goldens" / "llm_sampling.npz"
OFF = {"do_sample": True, "top_k": 0}
WARPS = {
    "top_k": {"top_k": 7},
    "top_p": {"top_p": 0.8},
    "top_p_tiny": {"top_p": 0.01},
    "min_p": {"min_p": 0.1},
    "chain": {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
}


@pytest.fixture(scope="module")
def known():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("name", WARPS)
def test_filters_are_those_of_transformers(known, name):
    config = GenerationConfig(**(OFF | WARPS[name]))
    for row, want in zip(known["scores"], known[name], strict=True):
        np.testing.assert_allclose(warp(row, config), want, rtol=1e-6)


def test_the_repetition_penalty_is_that_of_transformers(known):
    config = GenerationConfig(repetition_penalty=1.3)
    for row, seen, want in zip(known["scores"], known["seen"], known["repetition"], strict=True):
        np.testing.assert_allclose(penalise(row, config, seen[:5].tolist(), seen[5:].tolist()), want, rtol=1e-6)


def test_presence_and_frequency_count_new_tokens_only():
    scores = np.zeros(5, np.float32)
    out = penalise(scores, GenerationConfig(presence_penalty=1.0, frequency_penalty=0.5), [0, 0], [1, 2, 2])
    np.testing.assert_allclose(out, [0, -1.5, -2.0, 0, 0])
    assert not scores.any()


def test_the_end_is_forbidden_until_enough_was_said():
    config = GenerationConfig(min_new_tokens=2, eos_token_id=3)
    assert penalise(np.zeros(5, np.float32), config, [0], [1])[3] == -np.inf
    assert penalise(np.zeros(5, np.float32), config, [0], [1, 1])[3] == 0


def test_draws_follow_the_probabilities():
    scores = np.log(np.array([0.5, 0.3, 0.2, 1e-30], np.float32))
    random = np.random.default_rng(0)
    counts = np.bincount([draw(scores, random) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.2, 0], atol=0.03)


def test_temperature_0_is_greedy_and_logprobs_are_the_models_own():
    raw = np.array([0.0, 3.0, 1.0], np.float32)
    config = GenerationConfig(do_sample=True, temperature=0.0, logprobs=2)
    picked = choose(raw, config, np.random.default_rng(0), raw)
    assert picked.id == 1
    assert [i for i, _ in picked.top] == [1, 2]
    assert picked.logprob == pytest.approx(float(log_softmax(raw)[1]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_scores_are_refused(bad):
    raw = np.array([0.0, bad, 1.0], np.float32)
    with pytest.raises(ValueError, match="NaN"):
        choose(raw, GenerationConfig(), np.random.default_rng(0), raw)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"top_k": -1},
        {"num_beams": 0},
        {"num_return_sequences": 2},
        {"early_stopping": "maybe"},
        {"stop_strings": ("",)},
        {"logprobs": -1},
    ],
)
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GenerationConfig(**wrong)


def test_an_unknown_setting_is_named():
    with pytest.raises(ValueError, match="'max_tokens'"):
        GenerationConfig().with_changes({"max_tokens": 3})
