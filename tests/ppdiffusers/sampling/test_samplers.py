"""What holds for every sampler, whoever published it."""

from itertools import pairwise
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor

from ppdiffusers.sampling import Churn, ModelSchedule, NoiseSource, Step
from ppdiffusers.sampling.menu import SAMPLERS, choose
from ppdiffusers.sampling.samplers import Restart, restart_pairs
from ppdiffusers.sampling.samplers_dpm import block_orders, dpmpp_singlestep
from ppdiffusers.sampling.samplers_multistep import adams_weights, dpmpp_multistep, log_weights, unipc
from ppdiffusers.sampling.schedules import make
from tests.ppdiffusers.sampling.problem import SHAPE, GivenNoise, gaussian, gaussian_solution, mixture, unit

DETERMINISTIC = [
    "DPM++ 2M",
    "Euler",
    "LMS",
    "Heun",
    "DPM2",
    "DPM fast",
    "DPM adaptive",
    "DDIM",
    "PLMS",
    "UniPC",
    "DEIS",
]


def finish(name: str, denoise: Any, sigmas: list[float], x: Tensor, **options: Any) -> Tensor:
    steps = list(choose(name).with_options(**options).sample(denoise, x, sigmas, GivenNoise()))
    return steps[-1].x


def error(name: str, model: ModelSchedule, steps: int) -> float:
    """How far from the exact solution for Gaussian data a run ends, the last level above 0 being the end."""
    sigmas = make("Karras", model, steps)[:-1]
    sigmas = [s for s in sigmas if s > 0.1]
    x = unit() * sigmas[0]
    exact = gaussian_solution(x, sigmas[0]) / gaussian_solution(paddle.ones([1]), sigmas[-1])
    return float((finish(name, gaussian, sigmas, x) - exact).abs().max())


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
def test_a_network_that_knows_the_picture_gets_it(name: str, steps: int, model: ModelSchedule) -> None:
    picture = paddle.linspace(-1, 1, unit().size).reshape(SHAPE)
    sigmas = make("Karras", model, steps)
    x = picture + unit() * sigmas[0]
    got = finish(name, lambda x, sigma: picture, sigmas, x)
    np.testing.assert_allclose(got.numpy(), picture.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_are_numbered_and_carry_previews(name: str, model: ModelSchedule) -> None:
    sigmas = make("Karras", model, 7)
    run = list(choose(name).sample(mixture, unit() * sigmas[0], sigmas, GivenNoise()))
    assert [step.index for step in run] == list(range(len(run)))
    assert all(isinstance(step, Step) and step.x.shape == step.x0.shape == list(SHAPE) for step in run)
    assert run[0].sigma == pytest.approx(sigmas[0])
    if name not in ("DPM fast", "DPM adaptive"):
        assert [step.sigma for step in run] == sigmas[:-1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_called_as_often_as_the_menu_says(name: str, model: ModelSchedule) -> None:
    calls = 0

    def count(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return mixture(x, sigma)

    choice, steps = choose(name), 12
    sigmas = choice.sigmas(model, steps)
    done = len(list(choice.sample(count, unit() * sigmas[0], sigmas, GivenNoise())))
    expected = {"PLMS": steps + 1, "DPM adaptive": done * choice.calls_per_step, "DPM fast": steps}
    last = choice.calls_per_step - 1  # the step down to 0 needs one call
    assert calls == expected.get(name, steps * choice.calls_per_step - last)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(name: str, model: ModelSchedule) -> None:
    def run(seeds: list[int]) -> np.ndarray:
        noise = NoiseSource(seeds, (4, 6, 6))
        choice = choose(name)
        sigmas = choice.sigmas(model, 6)
        return list(choice.sample(mixture, choice.begin(noise.first(), sigmas[0]), sigmas, noise))[-1].x.numpy()

    if name == "DPM adaptive":
        pytest.skip("its step size is the batch's: an image of a batch is not the image alone, as in k-diffusion")
    np.testing.assert_allclose(run([11, 12, 13])[1], run([12])[0], atol=2e-5)


@pytest.mark.parametrize("name", [n for n in DETERMINISTIC if n not in ("Euler", "DDIM", "DPM adaptive")])
def test_higher_order_beats_euler(name: str, model: ModelSchedule) -> None:
    assert error(name, model, 20) < error("Euler", model, 20) * 0.8


@pytest.mark.parametrize(("name", "order"), [("Euler", 1), ("DDIM", 1), ("Heun", 2), ("DPM2", 2), ("DPM++ 2M", 2)])
def test_halving_the_steps_divides_the_error_by_two_to_the_order(name: str, order: int) -> None:
    def at(steps: int) -> float:
        sigmas = np.geomspace(14.0, 0.2, steps + 1).tolist()
        x = paddle.ones([1], "float64")
        exact = gaussian_solution(x, 14.0) / gaussian_solution(x, 0.2)
        return (finish(name, gaussian, sigmas, x) - exact).abs().item()

    assert np.log2(at(40) / at(80)) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipcs_corrector_lifts_the_order(order: int, variant: str) -> None:
    def off(steps: int, **options: Any) -> float:
        sigmas = np.geomspace(2.0, 0.2, steps + 1).tolist()
        x = paddle.ones([1], "float64")
        exact = gaussian_solution(x, 2.0) / gaussian_solution(x, 0.2)
        *_, last = unipc(
            gaussian, x, sigmas, GivenNoise(), order=order, variant=variant, lower_order_final=False, **options
        )
        return (last.x - exact).abs().item()

    assert off(80) < off(80, uncorrected=range(80))
    assert np.log2(off(40) / off(80)) > order + 0.2  # p + 1 in the paper; the first steps, of lower order, hold it back


def test_eta_0_is_deterministic_and_ddim_is_euler(model: ModelSchedule) -> None:
    sigmas = make("Karras", model, 10)
    x = unit() * sigmas[0]
    euler = finish("Euler", mixture, sigmas, x).numpy()
    for name in ("Euler a", "DDIM", "DDPM"):
        np.testing.assert_allclose(finish(name, mixture, sigmas, x, eta=0.0).numpy(), euler, atol=1e-6)
    calm = finish("DPM++ 2M SDE", mixture, sigmas, x, eta=0.0).numpy()
    np.testing.assert_allclose(calm, finish("DPM++ 2M", mixture, sigmas, x).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "name", ["Euler a", "DPM2 a", "DPM++ 2S a", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 3M SDE", "DDPM"]
)
def test_fresh_noise_keeps_the_distribution(name: str, model: ModelSchedule) -> None:
    """From N(0, sigma^2) a stochastic sampler must end in the data's distribution, whose deviation is known."""
    noise = NoiseSource([1], (4, 48, 48))
    sigmas = make("Karras", model, 120 if name in ("Euler a", "DDPM") else 40)  # first order needs more
    steps = list(choose(name).sample(gaussian, noise.first() * sigmas[0], sigmas, noise))
    assert float(steps[-1].x.std()) == pytest.approx(0.3, rel=0.08)


def test_churn_only_acts_between_its_levels(model: ModelSchedule) -> None:
    sigmas = make("Karras", model, 10)
    x = unit() * sigmas[0]
    plain = finish("Euler", mixture, sigmas, x).numpy()
    off = finish("Euler", mixture, sigmas, x, churn=Churn(amount=5.0, low=20.0)).numpy()
    np.testing.assert_array_equal(off, plain)
    assert np.abs(finish("Euler", mixture, sigmas, x, churn=Churn(amount=5.0)).numpy() - plain).max() > 1e-3


def test_the_sde_noise_belongs_to_the_interval() -> None:
    """Twice the steps see the same Brownian path, so a strongly guided run does not change into another one."""

    def run(steps: int) -> np.ndarray:
        noise = NoiseSource([3], (4, 8, 8), interval=(0.0291672, 14.614641))
        sigmas = np.geomspace(14.6, 0.03, steps + 1).tolist()
        return list(choose("DPM++ 2M SDE").sample(gaussian, noise.first() * 14.6, sigmas, noise))[-1].x.numpy()

    fine, coarse = run(80), run(40)
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.9


def test_restart_goes_back_up() -> None:
    sigmas = make("Karras", ModelSchedule.make(), 20)
    pairs = restart_pairs(sigmas, None)
    ups = [(a, b) for (_, a), (b, _) in pairwise(pairs) if b > a]
    assert len(pairs) == 20
    assert len(ups) == 1
    assert restart_pairs([*sigmas[:5], 0.0], None) == list(zip(sigmas[:5], [*sigmas[1:5], 0.0], strict=True))
    twice = restart_pairs(sigmas, Restart(steps=4, times=2))
    assert len(twice) == 28


def test_weights_integrate_polynomials_exactly() -> None:
    nodes, end = (5.0, 7.0, 10.0), 3.0
    weights = adams_weights(nodes, end)
    for power in range(3):
        exact = (end ** (power + 1) - nodes[0] ** (power + 1)) / (power + 1)
        assert sum(w * n**power for w, n in zip(weights, nodes, strict=True)) == pytest.approx(exact)
    logs = log_weights(nodes, end)
    assert sum(logs) == pytest.approx(end - nodes[0])
    exact = (end * np.log(end) - end) - (nodes[0] * np.log(nodes[0]) - nodes[0])
    assert sum(w * np.log(n) for w, n in zip(logs, nodes, strict=True)) == pytest.approx(exact)


def test_singlestep_blocks() -> None:
    assert block_orders(6, 3, True) == [1, 2, 3, 1, 2, 1]
    assert block_orders(7, 3, True) == [1, 2, 3, 1, 2, 3, 1]
    assert block_orders(4, 2, True) == [1, 2, 1, 1]
    assert block_orders(4, 2, False) == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        (dpmpp_multistep, {"order": 4}, "orders 1, 2 and 3"),
        (dpmpp_multistep, {"solver": "rk"}, "'midpoint' and 'heun'"),
        (dpmpp_singlestep, {"order": 4}, "orders 1, 2 and 3"),
        (unipc, {"variant": "bh3"}, "'bh1' and 'bh2'"),
    ],
)
def test_wrong_options_are_refused(sampler: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(sampler(mixture, unit(), [2.0, 1.0, 0.0], GivenNoise(), **options))


@pytest.mark.parametrize("sigmas", [[], [1.0], [1.0, 2.0, 0.0], [2.0, 2.0, 0.0], [1.0, -1.0]])
def test_levels_that_do_not_descend_are_refused(sigmas: list[float]) -> None:
    for name in SAMPLERS:
        with pytest.raises(ValueError, match="noise levels"):
            next(choose(name).sample(mixture, unit(), sigmas, GivenNoise()))
