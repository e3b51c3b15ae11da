"""Every schedule runs down to 0 in as many steps as asked for."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppdiffusers.sampling import ModelSchedule
from ppdiffusers.sampling.schedules import (
    SCHEDULES,
    Range,
    beta_cdf,
    beta_quantile,
    discard_penultimate,
    full_steps,
    lcm_timesteps,
    make,
    start_at,
    timesteps,
)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_descends_to_0_in_as_many_steps_as_asked(name: str, model: ModelSchedule) -> None:
    for steps in range(1, 61):
        sigmas = make(name, model, steps)
        assert len(sigmas) == steps + 1
        assert all(a > b for a, b in pairwise(sigmas))
        assert sigmas[-1] == 0
        assert sigmas[0] <= 14.62


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_steps_are_refused(name: str, model: ModelSchedule) -> None:
    for steps in (0, -1, 1001):
        with pytest.raises(ValueError, match="steps must be from 1 to 1000"):
            make(name, model, steps)


@pytest.mark.parametrize("name", ["Uniform", "Karras", "Exponential", "Polyexponential", "Beta"])
def test_a_span_moves_the_ends(name: str, model: ModelSchedule) -> None:
    sigmas = make(name, model, 7, Range(low=0.1, high=10.0))
    assert (sigmas[0], sigmas[-2]) == pytest.approx((10, 0.1), rel=1e-9)


def test_ends_that_do_not_fit_are_refused(model: ModelSchedule) -> None:
    with pytest.raises(ValueError, match=r"not from 1.0 to 2.0"):
        make("Karras", model, 5, Range(low=2.0, high=1.0))
    with pytest.raises(ValueError, match="no schedule is called 'Karas'"):
        make("Karas", model, 5)


def test_stable_diffusions_levels(model: ModelSchedule) -> None:
    assert (model.sigma_min, model.sigma_max) == pytest.approx((0.029167, 14.614641), rel=1e-4)


@given(st.floats(0, 999))
def test_a_training_step_and_its_level_are_inverse(t: float) -> None:
    model = ModelSchedule.make()
    assert model.t(model.sigma(t)) == pytest.approx(t, abs=1e-6)


@pytest.mark.parametrize("shape", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_zero_terminal_snr_ends_in_noise_and_keeps_the_start(shape: str) -> None:
    plain, zero = (ModelSchedule.make(shape, zero_terminal_snr=flag) for flag in (False, True))
    assert zero.sigma_max == pytest.approx(4096, rel=1e-3)
    assert zero.sigma_min == pytest.approx(plain.sigma_min, rel=1e-6)


def test_unknown_betas_are_refused() -> None:
    with pytest.raises(ValueError, match="'squaredcos_cap_v2'"):
        ModelSchedule.make("cosine")
    with pytest.raises(ValueError, match="ascending"):
        ModelSchedule((2.0, 1.0))


def test_spacings_of_diffusers(model: ModelSchedule) -> None:
    assert timesteps("leading", model, 20, offset=1)[[0, -1]].tolist() == [951, 1]
    assert timesteps("trailing", model, 20)[[0, -1]].tolist() == [999, 49]
    assert timesteps("linspace", model, 20)[[0, -1]].tolist() == [999, 0]
    assert lcm_timesteps(model, 4).tolist() == [999, 759, 499, 259]
    with pytest.raises(ValueError, match="'trailing'"):
        timesteps("even", model, 5)
    with pytest.raises(ValueError, match="takes 1 to 50"):
        lcm_timesteps(model, 51)


@given(st.integers(1, 60), st.floats(0, 1), st.sampled_from(["webui", "diffusers"]))
@settings(deadline=None)
def test_image_to_image_runs_the_tail(steps: int, strength: float, convention: str) -> None:
    sigmas = make("Karras", ModelSchedule.make(), steps)
    tail = start_at(sigmas, strength, convention)
    asked = int(min(strength, 0.999) * steps) + 1 if convention == "webui" else int(strength * steps)
    assert tail == sigmas[len(sigmas) - 1 - asked :]


def test_strength_examples(model: ModelSchedule) -> None:
    sigmas = make("Karras", model, 20)
    assert len(start_at(sigmas, 0.75)) - 1 == 16
    assert len(start_at(sigmas, 0.75, "diffusers")) - 1 == 15
    assert start_at(sigmas, 1.0) == start_at(sigmas, 1.0, "diffusers") == sigmas
    assert full_steps(20, 0.5) == 40
    assert discard_penultimate([3.0, 2.0, 1.0, 0.0]) == [3.0, 2.0, 0.0]
    for strength in (-0.1, 1.1):
        with pytest.raises(ValueError, match="from 0 to 1"):
            start_at(sigmas, strength)
    with pytest.raises(ValueError, match="'webui' or 'diffusers'"):
        start_at(sigmas, 0.5, "forge")
    with pytest.raises(ValueError, match="above 0"):
        full_steps(20, 0.0)


@given(st.floats(0.001, 0.999), st.floats(0.3, 4), st.floats(0.3, 4))
def test_beta_quantiles_invert_the_distribution(p: float, a: float, b: float) -> None:
    assert beta_cdf(beta_quantile(p, a, b), a, b) == pytest.approx(p, abs=1e-6)


def test_beta_distribution_examples() -> None:
    assert beta_cdf(0.5, 2, 3) == pytest.approx(0.6875)  # 11/16, by hand
    assert [beta_cdf(x, 0.6, 0.6) for x in (0.1, 0.3, 0.77)] == pytest.approx([0.176047254, 0.352526512, 0.703315751])
    assert np.isclose(beta_quantile(0.5, 0.6, 0.6), 0.5)
