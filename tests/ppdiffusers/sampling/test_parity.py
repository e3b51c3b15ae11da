"""Twenty steps end where k-diffusion's and diffusers' end (goldens made by tools/goldens/sampling.py)."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppdiffusers.sampling import Churn, ModelSchedule
from ppdiffusers.sampling.choice import Choice
from ppdiffusers.sampling.denoise import Denoiser
from ppdiffusers.sampling.menu import choose
from ppdiffusers.sampling.samplers import Denoise
from ppdiffusers.sampling.schedules import make
from tests.ppdiffusers.sampling.problem import GivenNoise, mixture, network, unit

GOLDENS = Path(__file__).parents[2] / "goldens"


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / name) as file:
        return dict(file)


DIFFUSERS, K_DIFFUSION = golden("sampling_diffusers.npz"), golden("sampling_k_diffusion.npz")
SCHEDULES = golden("sampling_schedules.npz")


def run(choice: Choice, denoise: Denoise, sigmas: list[float]) -> np.ndarray:
    noise = GivenNoise()
    x = choice.begin(unit(), sigmas[0])
    for step in choice.sample(denoise, x, sigmas, noise):
        x = step.x
    return choice.end(x, sigmas[-1]).numpy()


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def short(key: str) -> str:
    case: dict[str, Any] = json.loads(key)
    usual = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    return "-".join(
        f"{k}={v}" if k not in ("_class_name", "name") else str(v) for k, v in case.items() if usual.get(k) != v
    )


@pytest.mark.parametrize("key", DIFFUSERS, ids=short)
def test_a_scheduler_config_ends_where_diffusers_ends(key: str) -> None:
    case = json.loads(key)
    steps = case.pop("run")
    choice = choose(case)
    if "eta" in steps:
        choice = choice.with_options(eta=steps["eta"])
    model = ModelSchedule.from_config(case)
    denoiser = Denoiser(network(model, case["prediction_type"]), model, case["prediction_type"], choice.quantize)
    sigmas = choice.sigmas(model, steps["steps"])
    ours = run(choice, lambda x, sigma: denoiser(x, sigma, None), sigmas)
    assert relative(ours, DIFFUSERS[key]) < 2e-4  # their tables are fp32, which some solvers amplify


@pytest.mark.parametrize("key", K_DIFFUSION, ids=short)
def test_a_menu_name_ends_where_k_diffusion_ends(key: str, model: ModelSchedule) -> None:
    case = json.loads(key)
    options = {name: case[name] for name in ("eta", "s_noise") if name in case}
    if "churn" in case:
        options["churn"] = Churn(**case["churn"])
    choice = choose(case["name"]).with_options(**options)
    sigmas = make("Karras", model, case["steps"])
    if case["name"] in ("DPM fast", "DPM adaptive"):  # k-diffusion's stop at the lowest level
        sigmas = np.geomspace(model.sigma_max, model.sigma_min, case["steps"] + 1).tolist()
    ours = run(choice, mixture, sigmas)
    assert relative(ours, K_DIFFUSION[key]) < 1e-4


@pytest.mark.parametrize("key", SCHEDULES, ids=short)
def test_a_schedule_is_k_diffusions(key: str, model: ModelSchedule) -> None:
    case = json.loads(key)
    np.testing.assert_allclose(make(case["schedule"], model, case["steps"]), SCHEDULES[key], rtol=1e-5)


@pytest.mark.parity
def test_the_goldens_are_what_the_reference_gives_today(reference_python: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "tools" / "goldens" / "sampling.py"
    subprocess.run([reference_python, str(script), str(tmp_path)], cwd=tmp_path, check=True, capture_output=True)
    for name in ("diffusers", "k_diffusion", "schedules", "noise"):
        stored = golden(f"sampling_{name}.npz")
        with np.load(tmp_path / f"sampling_{name}.npz") as now:
            assert set(now) == set(stored)
            for key in now:
                np.testing.assert_allclose(now[key], stored[key], rtol=1e-4, atol=1e-4, err_msg=key)
