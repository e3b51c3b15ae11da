"""Predictions, guidance and masks, against their definitions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import Tensor

from ppdiffusers.sampling import Conds, Denoiser, Guidance, Guided, Masked, ModelSchedule, Part, choose
from tests.ppdiffusers.sampling.problem import SHAPE, GivenNoise, mixture, network, unit


class Counting:
    """A network whose condition is a (N,) vector added to every pixel; remembers batch sizes."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: float, cond: Tensor) -> Tensor:
        self.batches.append(x.shape[0])
        return x * 0.1 + cond.reshape([-1, 1, 1, 1])


def level(value: float) -> Tensor:
    return paddle.full([SHAPE[0]], value)


def guided(conds: Any, stack: Any = paddle.concat, **options: Any) -> tuple[Guided, Counting]:
    net = Counting()
    return Guided(Denoiser(net, ModelSchedule.make()), conds, stack, Guidance(**options)), net


def expected(value: float, x: Tensor, sigma: float) -> np.ndarray:
    """x0 if the network's eps is x_in / 10 + value."""
    return (x - (x / math.sqrt(1 + sigma**2) * 0.1 + value) * sigma).numpy()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@given(t=st.floats(0, 999))
@settings(max_examples=20, deadline=None)
def test_whatever_the_network_predicts_x0_is_the_same(prediction: str, t: float) -> None:
    model = ModelSchedule.make()
    sigma = model.sigma(t)
    x = unit() * math.sqrt(1 + sigma**2)
    x0 = Denoiser(network(model, prediction), model, prediction)(x, sigma, None)
    np.testing.assert_allclose(x0.numpy(), mixture(x, sigma).numpy(), atol=2e-5)


def test_training_steps_are_rounded_as_asked(model: ModelSchedule) -> None:
    sigma = model.sigma(500.7)
    told = {q: Denoiser(Counting(), model, quantize=q).t(sigma) for q in (None, "round", "floor")}
    assert told == {None: pytest.approx(500.7), "round": 501.0, "floor": 500.0}
    assert all(Denoiser(Counting(), model, quantize="floor").t(s) == t for t, s in enumerate(model.sigmas))


def test_wrong_predictions_are_refused(model: ModelSchedule) -> None:
    with pytest.raises(ValueError, match="v_prediction"):
        Denoiser(Counting(), model, "noise")
    with pytest.raises(ValueError, match="'floor'"):
        Denoiser(Counting(), model, "eps", "ceil")


def test_guidance_leads_away_from_the_negative_in_one_call() -> None:
    denoise, net = guided(Conds((Part(level(1.0)),), level(0.5)), scale=7.0)
    np.testing.assert_allclose(denoise(unit(), 2.0).numpy(), expected(0.5 + 7 * 0.5, unit(), 2.0), atol=1e-5)
    assert net.batches == [2 * SHAPE[0]]


def test_conditions_that_do_not_stack_run_one_by_one() -> None:
    together, _ = guided(Conds((Part(level(1.0)),), level(0.5)))
    apart, net = guided(Conds((Part(level(1.0)),), level(0.5)), stack=lambda conds: None)
    np.testing.assert_allclose(apart(unit(), 2.0).numpy(), together(unit(), 2.0).numpy(), atol=1e-6)
    assert net.batches == [SHAPE[0]] * 2


@pytest.mark.parametrize("conds", [Conds((Part(level(1.0)),), level(0.5)), Conds((Part(level(1.0)),))])
def test_without_guidance_only_the_positive_runs(conds: Conds) -> None:
    denoise, net = guided(conds, scale=1.0 if conds.negative is not None else 7.0)
    np.testing.assert_allclose(denoise(unit(), 2.0).numpy(), expected(1.0, unit(), 2.0), atol=1e-6)
    assert net.batches == [SHAPE[0]]


@pytest.mark.parametrize("per_image", [False, True])
def test_prompts_joined_by_and_add_their_weighted_directions(per_image: bool) -> None:
    weights: Sequence[Any] = [[w] * SHAPE[0] for w in (0.7, -0.3)] if per_image else [0.7, -0.3]
    parts = tuple(Part(level(v), w) for v, w in zip((1.0, 2.0), weights, strict=True))
    denoise, net = guided(Conds(parts, level(0.5)), scale=3.0)
    value = 0.5 + 3 * (0.7 * 0.5 - 0.3 * 1.5)
    np.testing.assert_allclose(denoise(unit(), 2.0).numpy(), expected(value, unit(), 2.0), atol=1e-5)
    assert net.batches == [3 * SHAPE[0]]


def test_and_at_scale_1_still_needs_the_negative() -> None:
    denoise, _ = guided(Conds((Part(level(1.0), 0.5), Part(level(2.0), 0.5)), level(0.5)), scale=1.0)
    np.testing.assert_allclose(denoise(unit(), 2.0).numpy(), expected(1.5, unit(), 2.0), atol=1e-5)


def test_and_without_a_negative_is_each_images_weighted_mean() -> None:
    parts = (Part(level(1.0), [1.0, 1.0]), Part(level(2.0), [3.0, -1.0]))
    denoise, _ = guided(Conds(parts))
    got = denoise(unit(), 2.0).numpy()
    np.testing.assert_allclose(got[0], expected(1.75, unit(), 2.0)[0], atol=1e-5)
    np.testing.assert_allclose(got[1], expected(1.0, unit(), 2.0)[1], atol=1e-5)  # 1 - 1: only the first part is left


def test_rescaling_brings_back_the_deviation() -> None:
    class Noisy(Counting):
        def __call__(self, x: Tensor, t: float, cond: Tensor) -> Tensor:
            return x * cond.reshape([-1, 1, 1, 1])

    def output(phi: float) -> Tensor:
        denoiser = Denoiser(Noisy(), ModelSchedule.make(), "x0")
        conds = Conds((Part(level(1.0)),), level(-1.0))
        return Guided(denoiser, conds, paddle.concat, Guidance(scale=4.0, rescale=phi))(unit(), 2.0)

    positive, full, half, plain = unit() / math.sqrt(5), output(1.0), output(0.5), output(0.0)
    np.testing.assert_allclose(full.std([1, 2, 3]).numpy(), positive.std([1, 2, 3]).numpy(), rtol=1e-5)
    np.testing.assert_allclose(half.numpy(), ((full + plain) / 2).numpy(), rtol=1e-5)


def test_pix2pix_guidance_has_two_scales() -> None:
    conds = Conds((Part(level(4.0)),), level(1.0), image=level(2.0))
    denoise, net = guided(conds, scale=5.0, image_scale=1.5)
    value = 1 + 1.5 * (2 - 1) + 5 * (4 - 2)
    np.testing.assert_allclose(denoise(unit(), 2.0).numpy(), expected(value, unit(), 2.0), atol=1e-5)
    assert net.batches == [3 * SHAPE[0]]


def test_conditions_follow_the_step_also_within_a_step(model: ModelSchedule) -> None:
    asked: list[int] = []

    def at(step: int) -> Conds:
        asked.append(step)
        return Conds((Part(level(0.01 * step)),))

    denoise, _ = guided(at)
    sigmas = choose("Heun").sigmas(model, 4)
    run = choose("Heun").sample(denoise, unit() * sigmas[0], sigmas, GivenNoise())
    assert len(list(denoise.follow(run, 4))) == 4
    assert asked == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [({"start": 0.25, "stop": 0.75}, [1, 2, 2, 1]), ({"least_sigma": 1.0}, [2, 2, 2, 1]), ({}, [2, 2, 2, 2])],
)
def test_guidance_may_be_left_out_early_late_or_at_low_noise(
    options: dict[str, float], sizes: list[int], model: ModelSchedule
) -> None:
    denoise, net = guided(Conds((Part(level(0.1)),), level(0.0)), **options)
    sigmas = [8.0, 4.0, 0.9, 0.3, 0.0]
    for _ in denoise.follow(choose("Euler").sample(denoise, unit() * 8.0, sigmas, GivenNoise()), 4):
        pass
    assert [batch // SHAPE[0] for batch in net.batches] == sizes


@pytest.mark.parametrize("with_noise", [False, True])
@pytest.mark.parametrize("name", ["Euler", "Euler a", "DPM++ 2M", "UniPC", "DPM++ SDE", "LCM"])
def test_a_mask_keeps_what_is_known(name: str, with_noise: bool, model: ModelSchedule) -> None:
    mask = paddle.zeros([1, 1, *SHAPE[2:]])
    mask[:, :, :3] = 1.0
    original = paddle.full(SHAPE, 0.7)
    denoise = Masked(mixture, mask, original, unit() if with_noise else None)
    sigmas = choose(name).sigmas(model, 8)
    *_, last = choose(name).sample(denoise, original + unit() * sigmas[0], sigmas, GivenNoise())
    got = denoise.finish(last.x).numpy()
    np.testing.assert_allclose(last.x.numpy()[:, :, 3:], 0.7, atol=1e-4)
    np.testing.assert_array_equal(got[:, :, 3:], original.numpy()[:, :, 3:])
    assert np.abs(got[:, :, :3] - 0.7).max() > 0.05
