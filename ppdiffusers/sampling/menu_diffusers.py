"""diffusers' scheduler_config.json -> the same samplers, with that scheduler's own spacing, rounding and last level.

A config that asks for something we do not do is refused with a sentence; keys that change nothing here are ignored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppdiffusers.sampling import samplers, samplers_dpm, samplers_multistep
from ppdiffusers.sampling.choice import Choice
from ppdiffusers.sampling.model_schedule import ModelSchedule
from ppdiffusers.sampling.samplers import Sampler
from ppdiffusers.sampling.schedules import Range, lcm_timesteps, make, timesteps

Config = Mapping[str, Any]

# What a key must say (or not be there) for us to do the same as diffusers.
ACCEPTED: dict[str, tuple[Any, ...]] = {
    "thresholding": (False,),
    "clip_sample": (False,),
    "use_flow_sigmas": (False,),
    "use_lu_lambdas": (False,),
    "use_dynamic_shifting": (False,),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "variance_type": (None, "fixed_small", "fixed_small_log"),
    "lambda_min_clipped": (-float("inf"), None, "-inf"),
    "predict_x0": (True,),
    "solver_p": (None,),
    "skip_prk_steps": (True,),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis"),
}
CURVES = {"use_karras_sigmas": "Karras", "use_exponential_sigmas": "Exponential", "use_beta_sigmas": "Beta"}


@dataclass(frozen=True, kw_only=True)
class Spaced:
    """Noise levels at equally spaced training steps, or on a curve between the ends of these.

    Args:
        spacing, offset: diffusers' `timestep_spacing` and `steps_offset`.
        whole: round to whole training steps.
        extra: the multistep schedulers place one point more and leave out the last.
        curve: a schedule name that replaces the levels; over the model's whole range for `wide`, else between their
            ends.
        zero: end in 0; else at the model's lowest level.
    """

    spacing: str
    offset: int = 0
    whole: bool = True
    extra: int = 0
    curve: str | None = None
    wide: bool = True
    zero: bool = True

    def __call__(self, model: ModelSchedule, steps: int) -> list[float]:
        times = timesteps(self.spacing, model, steps, offset=self.offset, extra=self.extra)
        times = np.round(times) if self.whole else times
        levels = [float(s) for s in np.interp(times, np.arange(model.steps), model.table)]
        if self.curve is not None and (self.wide or steps > 1):
            span = Range() if self.wide else Range(low=levels[-1], high=levels[0])
            levels = make(self.curve, model, steps, span)[:-1]
        if self.zero:
            return [*levels, 0.0]
        # Levels that reach the lowest one themselves: diffusers then takes a step of no size, which we leave out.
        there = levels[-1] <= model.sigma_min * (1 + 1e-6)
        return levels if there and steps > 1 else [*levels, 0.0 if there else model.sigma_min]


@dataclass(frozen=True)
class Consistency:
    """The levels a latent consistency model was distilled on."""

    original: int

    def __call__(self, model: ModelSchedule, steps: int) -> list[float]:
        return [*(model.sigma(t) for t in lcm_timesteps(model, steps, self.original)), 0.0]


def from_config(config: Config) -> Choice:
    """The choice that a scheduler_config.json describes; its ModelSchedule is `ModelSchedule.from_config(config)`.

    Raises:
        ValueError: a scheduler or a setting that we do not have.
    """
    kind = config.get("_class_name")
    if kind not in SCHEDULERS:
        raise ValueError(f"no scheduler is called {kind!r} (key '_class_name'); there are {', '.join(SCHEDULERS)}")
    for key, accepted in ACCEPTED.items():
        if key in config and config[key] not in accepted:
            allowed = ", ".join(map(repr, accepted))
            raise ValueError(
                f"{kind} with {key}={config[key]!r} is not supported; set it to {allowed}, or choose a sampler by name"
            )
    return SCHEDULERS[kind](kind, config)


def curve_of(config: Config) -> str | None:
    """The curve a config asks for."""
    return next((name for key, name in CURVES.items() if config.get(key)), None)


def continuous(run: Sampler, calls: int = 1, **options: Any) -> Callable[[str, Config], Choice]:
    """Schedulers written after k-diffusion: fractional training steps, curves between the ends of the spacing."""

    def build(kind: str, config: Config) -> Choice:
        spacing = config.get("timestep_spacing", "linspace")
        zero = config.get("final_sigmas_type", "zero") == "zero"
        schedule = Spaced(
            spacing=spacing,
            offset=config.get("steps_offset", 0),
            whole=False,
            curve=curve_of(config),
            wide=False,
            zero=zero,
        )
        start = "vp" if spacing == "leading" else "sigma"
        return Choice(kind, run, schedule, options, calls, start)

    return build


def whole_steps(config: Config, spacing: str, zero: bool, extra: int = 1) -> dict[str, Any]:
    """Schedule, start and rounding of the schedulers that work at whole training steps in the model's own scale."""
    curve = curve_of(config)
    spacing = config.get("timestep_spacing", spacing)
    schedule = Spaced(spacing=spacing, offset=config.get("steps_offset", 0), extra=extra, curve=curve, zero=zero)
    return {"schedule": schedule, "start": "vp", "quantize": "round" if curve in (None, "Karras") else "floor"}


def multistep(kind: str, config: Config) -> Choice:
    """DPMSolverMultistepScheduler."""
    stochastic = config.get("algorithm_type", "dpmsolver++").startswith("sde")
    options = {
        "order": config.get("solver_order", 2),
        "solver": "heun" if config.get("solver_type") == "heun" else "midpoint",
        "eta": 1.0 if stochastic else 0.0,
        "ending": samplers_multistep.Ending(
            lower_below=15 if config.get("lower_order_final", True) else 0, euler=config.get("euler_at_final", False)
        ),
        "brownian": False,
    }
    zero = config.get("final_sigmas_type", "zero") == "zero"
    return Choice(kind, samplers_multistep.dpmpp_multistep, options=options, **whole_steps(config, "linspace", zero))


def singlestep(kind: str, config: Config) -> Choice:
    """DPMSolverSinglestepScheduler; it has no timestep_spacing."""
    if config.get("algorithm_type", "dpmsolver++") != "dpmsolver++":
        raise ValueError(f"{kind} is supported with algorithm_type 'dpmsolver++', not {config['algorithm_type']!r}")
    options = {
        "order": config.get("solver_order", 2),
        "solver": "heun" if config.get("solver_type") == "heun" else "midpoint",
        "lower_order_final": config.get("lower_order_final", False),
    }
    zero = config.get("final_sigmas_type", "zero") == "zero"
    rest = whole_steps({**config, "timestep_spacing": "linspace"}, "linspace", zero)
    return Choice(kind, samplers_dpm.dpmpp_singlestep, options=options, **rest)


def unipc(kind: str, config: Config) -> Choice:
    """UniPCMultistepScheduler."""
    options = {
        "order": config.get("solver_order", 2),
        "variant": "bh1" if config.get("solver_type", "bh2") == "bh1" else "bh2",
        "lower_order_final": config.get("lower_order_final", True),
        "uncorrected": tuple(config.get("disable_corrector", ())),
    }
    zero = config.get("final_sigmas_type", "zero") == "zero"
    return Choice(kind, samplers_multistep.unipc, options=options, **whole_steps(config, "linspace", zero))


def deis(kind: str, config: Config) -> Choice:
    """DEISMultistepScheduler, which always stops at the lowest level."""
    below = 15 if config.get("lower_order_final", True) else 0
    options = {"order": config.get("solver_order", 2), "lower_order_below": below}
    return Choice(kind, samplers_multistep.deis, options=options, **whole_steps(config, "linspace", False))


def ddim(kind: str, config: Config) -> Choice:
    """DDIMScheduler; eta is an argument of the pipeline there: `with_options(eta=...)`."""
    rest = whole_steps(config, "leading", config.get("set_alpha_to_one", True), extra=0)
    return Choice(kind, samplers.euler_ancestral, options={"eta": 0.0}, **rest)


def ddpm(kind: str, config: Config) -> Choice:
    """DDPMScheduler, with the posterior variance ("fixed_small")."""
    return Choice(kind, samplers.euler_ancestral, options={"eta": 1.0}, **whole_steps(config, "leading", True, extra=0))


def pndm(kind: str, config: Config) -> Choice:
    """PNDMScheduler without Runge-Kutta steps, as Stable Diffusion's configs have it."""
    prediction = "v" if config.get("prediction_type") == "v_prediction" else "eps"
    rest = whole_steps(config, "leading", config.get("set_alpha_to_one", False), extra=0)
    return Choice(kind, samplers_multistep.plms, options={"prediction": prediction}, **rest)


def lcm(kind: str, config: Config) -> Choice:
    """LCMScheduler."""
    schedule = Consistency(config.get("original_inference_steps", 50))
    return Choice(kind, samplers.lcm, schedule, start="vp", quantize="round")


SCHEDULERS: dict[str, Callable[[str, Config], Choice]] = {
    "EulerDiscreteScheduler": continuous(samplers.euler),
    "EulerAncestralDiscreteScheduler": continuous(samplers.euler_ancestral),
    "HeunDiscreteScheduler": continuous(samplers.heun, 2),
    "KDPM2DiscreteScheduler": continuous(samplers.dpm2, 2),
    "KDPM2AncestralDiscreteScheduler": continuous(samplers.dpm2_ancestral, 2),
    "LMSDiscreteScheduler": continuous(samplers_multistep.lms),
    "DPMSolverSDEScheduler": continuous(samplers_dpm.dpmpp_sde, 2),
    "DPMSolverMultistepScheduler": multistep,
    "DPMSolverSinglestepScheduler": singlestep,
    "DEISMultistepScheduler": deis,
    "UniPCMultistepScheduler": unipc,
    "DDIMScheduler": ddim,
    "DDPMScheduler": ddpm,
    "PNDMScheduler": pndm,
    "LCMScheduler": lcm,
}
