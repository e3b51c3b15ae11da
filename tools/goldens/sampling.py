"""Write tests/goldens/sampling_*.npz: what torch, torchsde, k-diffusion and diffusers make of a known problem.

Run with the reference environment, from a folder other than the repository root:

    python <repository>/tools/goldens/sampling.py [folder]

The network is the exact posterior mean of a two-component Gaussian mixture, so it needs no weights and every framework
computes the same. Keys of the files are JSON: what to run; values are the latents it ends with. The noise of draw k is
numpy's RandomState(1000 + k).standard_normal in fp32, whoever asks for it.
"""

import importlib.util
import itertools
import json
import math
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import torchsde
from torch import Tensor

OUT = Path(__file__).resolve().parents[2] / "tests" / "goldens"
SHAPE = (2, 4, 6, 6)
STEPS = 20
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
WIDTH = 0.3  # standard deviation of each mixture component


def draw(k: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(1000 + k).standard_normal(SHAPE).astype(np.float32))


class Draws:
    """Noise in the order of asking."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        self.count += 1
        return draw(self.count - 1)


def x0_of(x: Tensor, sigma: float) -> Tensor:
    """Posterior mean for components at +-c with standard deviation WIDTH; c differs from element to element."""
    centre = torch.linspace(0.5, 1.5, math.prod(SHAPE[1:]), dtype=x.dtype).reshape(1, *SHAPE[1:])
    variance = WIDTH**2 + sigma**2
    keep = WIDTH**2 / variance
    return x * keep + (1 - keep) * centre * torch.tanh(centre * x / variance)


class Network:
    """The same x0 as an eps or v network over training steps."""

    def __init__(self, alphas_cumprod: Tensor, prediction: str) -> None:
        bar = alphas_cumprod.double().numpy()
        self.logs, self.prediction = np.log(np.sqrt((1 - bar) / bar)), prediction

    def __call__(self, x_in: Tensor, t: Any) -> Tensor:
        sigma = math.exp(np.interp(float(t), np.arange(len(self.logs)), self.logs))
        x = x_in * math.sqrt(1 + sigma**2)
        x0 = x0_of(x, sigma)
        eps = (x - x0) / sigma
        return eps if self.prediction == "epsilon" else (eps - x0 * sigma) / math.sqrt(1 + sigma**2)


@contextmanager
def patched(holder: Any, name: str, value: Any) -> Iterator[None]:
    old = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, old)


def diffusers_cases() -> Iterator[dict[str, Any]]:
    """Scheduler configs (with `_class_name`), plus `steps` and step arguments under `run`."""

    def case(kind: str, run: dict[str, Any] | None = None, **config: Any) -> Iterator[dict[str, Any]]:
        for prediction in ("epsilon", "v_prediction"):
            yield {
                "_class_name": kind,
                **SD,
                **config,
                "prediction_type": prediction,
                "run": {"steps": STEPS, **(run or {})},
            }

    for kind in (
        "EulerDiscrete",
        "HeunDiscrete",
        "LMSDiscrete",
        "EulerAncestralDiscrete",
        "KDPM2Discrete",
        "KDPM2AncestralDiscrete",
        "DPMSolverSDE",
    ):
        name = f"{kind}Scheduler"
        yield from case(name)
        yield from case(name, timestep_spacing="leading", steps_offset=1)
        yield from case(name, timestep_spacing="trailing")
        if kind in ("EulerDiscrete", "HeunDiscrete", "LMSDiscrete", "DPMSolverSDE"):
            yield from case(name, use_karras_sigmas=True)
    yield from case("EulerDiscreteScheduler", use_exponential_sigmas=True)
    yield from case("EulerDiscreteScheduler", use_beta_sigmas=True)
    yield from case("EulerDiscreteScheduler", final_sigmas_type="sigma_min")
    yield from case("EulerDiscreteScheduler", timestep_spacing="trailing", rescale_betas_zero_snr=True)
    multi = "DPMSolverMultistepScheduler"
    for order in (1, 2, 3):
        yield from case(multi, solver_order=order)
        if order < 3:  # its third order has 0.5 with the wrong sign: a coefficient that does not vanish with the step
            yield from case(multi, solver_order=order, algorithm_type="sde-dpmsolver++")
    yield from case(multi, solver_type="heun")
    yield from case(multi, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True, solver_type="heun")
    yield from case(multi, {"steps": 9}, solver_order=3)
    for extra in (
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"timestep_spacing": "trailing"},
        {"timestep_spacing": "leading", "steps_offset": 1},
        {"final_sigmas_type": "sigma_min"},
        {"final_sigmas_type": "sigma_min", "euler_at_final": True},
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
    ):
        yield from case(multi, **extra)
    for order in (1, 2, 3):
        yield from case(
            "DPMSolverSinglestepScheduler", solver_order=order, lower_order_final=True, final_sigmas_type="zero"
        )
        yield from case(
            "DPMSolverSinglestepScheduler", solver_order=order, final_sigmas_type="sigma_min", lower_order_final=True
        )
        yield from case("DEISMultistepScheduler", solver_order=order)
        yield from case("UniPCMultistepScheduler", solver_order=order, solver_type="bh1", final_sigmas_type="sigma_min")
        yield from case("UniPCMultistepScheduler", solver_order=order)
    yield from case("UniPCMultistepScheduler", use_karras_sigmas=True)
    yield from case("UniPCMultistepScheduler", disable_corrector=[0, 1])
    yield from case("DEISMultistepScheduler", {"steps": 9})
    yield from case("DEISMultistepScheduler", use_karras_sigmas=True)
    plain = {"clip_sample": False, "steps_offset": 1}
    for eta in (0.0, 0.5, 1.0):
        yield from case("DDIMScheduler", {"eta": eta}, set_alpha_to_one=False, **plain)
    yield from case("DDIMScheduler", set_alpha_to_one=True, timestep_spacing="trailing", clip_sample=False)
    yield from case("DDPMScheduler", clip_sample=False)
    yield from case("PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    yield from case("LCMScheduler", {"steps": 8}, clip_sample=False)


def run_diffusers(case: dict[str, Any]) -> Tensor:
    run, kind = case["run"], case["_class_name"]
    config = {k: v for k, v in case.items() if k not in ("run", "_class_name")}
    scheduler = getattr(diffusers, kind)(**config)
    scheduler.set_timesteps(run["steps"])
    draws = Draws()
    if kind == "DPMSolverSDEScheduler":
        scheduler.noise_sampler = draws
    network = Network(scheduler.alphas_cumprod, case["prediction_type"])
    x = (
        torch.from_numpy(np.random.RandomState(7).standard_normal(SHAPE).astype(np.float32))
        * scheduler.init_noise_sigma
    )
    extra = {"eta": run["eta"]} if "eta" in run else {}
    module = sys.modules[type(scheduler).__module__]
    with (
        patched(module, "randn_tensor", draws)
        if hasattr(module, "randn_tensor")
        else patched(torch, "randn_like", draws)
    ):
        for t in scheduler.timesteps:
            x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, **extra).prev_sample
    return x.float()


def k_diffusion() -> types.ModuleType:
    """k_diffusion/sampling.py alone: the package's __init__ pulls in training code."""
    folder = Path(importlib.util.find_spec("k_diffusion").origin).parent  # type: ignore[union-attr, arg-type]
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(folder)]
    sys.modules["k_diffusion"] = package
    package.utils = types.ModuleType("k_diffusion.utils")  # only used by likelihoods
    package.utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    sys.modules["k_diffusion.utils"] = package.utils
    return importlib.import_module("k_diffusion.sampling")


def model_sigmas() -> np.ndarray:
    betas = np.linspace(SD["beta_start"] ** 0.5, SD["beta_end"] ** 0.5, 1000) ** 2
    bar = np.cumprod(1 - betas)
    return np.sqrt((1 - bar) / bar)


def k_cases() -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """(what our menu runs, k-diffusion's function, its arguments)."""
    churn = {"s_churn": 10.0, "s_noise": 1.01}
    ours = {"amount": 10.0, "noise": 1.01}
    for name, function in (("Euler", "euler"), ("Heun", "heun"), ("DPM2", "dpm_2")):
        yield {"name": name}, function, {}
        yield {"name": name, "churn": ours}, function, churn
    yield {"name": "LMS"}, "lms", {}
    yield {"name": "DPM++ 2M"}, "dpmpp_2m", {}
    for name, function in (
        ("Euler a", "euler_ancestral"),
        ("DPM2 a", "dpm_2_ancestral"),
        ("DPM++ 2S a", "dpmpp_2s_ancestral"),
        ("DPM++ SDE", "dpmpp_sde"),
        ("DPM++ 2M SDE", "dpmpp_2m_sde"),
        ("DPM++ 3M SDE", "dpmpp_3m_sde"),
    ):
        yield {"name": name}, function, {}
        yield {"name": name, "eta": 0.6, "s_noise": 1.02}, function, {"eta": 0.6, "s_noise": 1.02}
    yield {"name": "DPM++ 2M SDE Heun"}, "dpmpp_2m_sde", {"solver_type": "heun"}
    for name, function in (("DPM fast", "dpm_fast"), ("DPM adaptive", "dpm_adaptive")):
        yield {"name": name}, function, {}
        yield {"name": name, "eta": 0.5}, function, {"eta": 0.5}


def run_k(sampling: types.ModuleType, function: str, options: dict[str, Any], steps: int) -> Tensor:
    """In double precision: the third-order solver cancels badly in fp32 there."""
    draws = Draws()
    table = model_sigmas()
    sigmas = sampling.append_zero(torch.from_numpy(np.linspace(table[-1] ** (1 / 7), table[0] ** (1 / 7), steps) ** 7))
    x = torch.from_numpy(np.random.RandomState(7).standard_normal(SHAPE).astype(np.float32)).double() * sigmas[0]
    sample = getattr(sampling, f"sample_{function}")
    options = {"disable": True, **options}
    if "noise_sampler" in sample.__wrapped__.__code__.co_varnames:
        options["noise_sampler"] = draws

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return x0_of(x, float(sigma[0]))

    with patched(torch, "randn_like", draws):
        if function == "dpm_fast":
            return sample(model, x, table[0], table[-1], steps, **options)
        if function == "dpm_adaptive":
            return sample(model, x, table[0], table[-1], **options)
        return sample(model, x, sigmas, **options)


def schedules(sampling: types.ModuleType) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    low, high = model_sigmas()[[0, -1]]
    for steps in (1, 2, 10, 25):
        makers: dict[str, Callable[[], Tensor]] = {
            "Karras": lambda n=steps: sampling.get_sigmas_karras(n, low, high),
            "Exponential": lambda n=steps: sampling.get_sigmas_exponential(n, low, high),
            "Polyexponential": lambda n=steps: sampling.get_sigmas_polyexponential(n, low, high),
        }
        for name, make in makers.items():
            yield {"schedule": name, "steps": steps}, make().numpy()


def noises() -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    for seed in (0, 42, 2**32 + 7, 2**63 - 1):
        generator = torch.Generator().manual_seed(seed)
        for k, shape in enumerate(((4, 8, 8), (3,), (4,), (5,), (17,), (3, 11), (4, 6, 6))):
            yield {"seed": seed, "draw": k, "shape": shape}, torch.randn(shape, generator=generator).numpy()
    points = (0.0291672, 0.5, 1.123456, 3.7, 9.25, 14.614641)
    for seed in (1, 123456789012):
        tree = torchsde.BrownianTree(points[0], torch.zeros(4, 6, 6), points[-1], entropy=seed)
        for a, b in (*itertools.pairwise(points), (2.0, 7.0)):
            yield {"seed": seed, "from": a, "to": b}, tree(a, b).numpy()


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size} bytes")


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    sampling = k_diffusion()
    save(out / "sampling_diffusers.npz", {json.dumps(case): run_diffusers(case).numpy() for case in diffusers_cases()})
    results = {
        json.dumps({**ours, "steps": STEPS}): run_k(sampling, name, options, STEPS).float().numpy()
        for ours, name, options in k_cases()
    }
    save(out / "sampling_k_diffusion.npz", results)
    save(out / "sampling_schedules.npz", {json.dumps(key): value for key, value in schedules(sampling)})
    save(out / "sampling_noise.npz", {json.dumps(key): value for key, value in noises()})


if __name__ == "__main__":
    main()
