"""Sampling: noise levels, seeds, solvers and guidance; see denoise.py for how a pipeline puts them together."""

from ppdiffusers.sampling.model_schedule import ModelSchedule
from ppdiffusers.sampling.noise import Noise, NoiseSource, Variation
from ppdiffusers.sampling.samplers import Churn, Denoise, Sampler, Step

__all__ = ["Churn", "Denoise", "ModelSchedule", "Noise", "NoiseSource", "Sampler", "Step", "Variation"]
