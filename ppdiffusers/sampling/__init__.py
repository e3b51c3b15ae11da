"""Sampling: noise levels, seeds, solvers and guidance; see denoise.py for how a pipeline puts them together."""

from ppdiffusers.sampling.choice import Choice
from ppdiffusers.sampling.denoise import Conds, Denoiser, Guidance, Guided, Masked, Part
from ppdiffusers.sampling.menu import choose
from ppdiffusers.sampling.model_schedule import ModelSchedule
from ppdiffusers.sampling.noise import Noise, NoiseSource, Variation
from ppdiffusers.sampling.samplers import Churn, Denoise, Sampler, Step
from ppdiffusers.sampling.schedules import Range, full_steps, start_at

__all__ = [
    "Choice",
    "Churn",
    "Conds",
    "Denoise",
    "Denoiser",
    "Guidance",
    "Guided",
    "Masked",
    "ModelSchedule",
    "Noise",
    "NoiseSource",
    "Part",
    "Range",
    "Sampler",
    "Step",
    "Variation",
    "choose",
    "full_steps",
    "start_at",
]
