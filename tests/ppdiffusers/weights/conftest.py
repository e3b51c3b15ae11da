"""Tiny checkpoints with random weights, and how to compare two of them."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdiffusers.models.config import TINY_SD15, TINY_SD21, TINY_SDXL, TINY_SDXL_REFINER, Preset
from ppdiffusers.weights.entries import weights_of
from ppdiffusers.weights.load import MODELS, TEXTS, LoadedParts
from ppdiffusers.weights.save import named

FAMILIES: dict[str, tuple[Preset, str]] = {
    "sd15": (TINY_SD15, "eps"),
    "sd2": (TINY_SD21, "v"),
    "sdxl-base": (TINY_SDXL, "eps"),
    "sdxl-refiner": (TINY_SDXL_REFINER, "eps"),
}


def checkpoint(family: str, dtype: str = "float32") -> LoadedParts:
    """A whole checkpoint of the family's tiny configs; every bias and norm is random too."""
    preset, prediction = FAMILIES[family]
    configs = {name: getattr(preset, name) for name in ("unet", "vae", *TEXTS)}
    models = {name: MODELS[name](config) for name, config in configs.items() if config is not None}
    for name, model in models.items():
        randomise(model, f"{family}/{name}", dtype)
    texts = [models[name] for name in TEXTS if name in models]
    return LoadedParts(family, models["unet"], models["vae"], texts, [None] * len(texts), {}, prediction, Path("tiny"))


def randomise(model, seed: str, dtype: str = "float32") -> None:
    rng = np.random.default_rng([*seed.encode()])
    for parameter in model.parameters():
        values = rng.standard_normal(tuple(parameter.shape), np.float32) * 0.05
        paddle.to_tensor(values).astype(dtype)._share_buffer_to(parameter)


def bits(model) -> dict[str, np.ndarray]:
    """Every parameter, bfloat16 as its bit pattern."""
    return {name: weight.value().numpy() for name, weight in weights_of(model).items()}


def same(one, two) -> bool:
    ours, theirs = bits(one), bits(two)
    return list(ours) == list(theirs) and all(
        ours[k].dtype == theirs[k].dtype and np.array_equal(ours[k], theirs[k]) for k in ours
    )


def same_parts(one: LoadedParts, two: LoadedParts) -> bool:
    ours, theirs = named(one), named(two)
    return list(ours) == list(theirs) and all(
        same(ours[k], theirs[k]) and ours[k].config == theirs[k].config for k in ours
    )


@pytest.fixture(scope="session", params=[*FAMILIES])
def parts(request) -> LoadedParts:
    return checkpoint(request.param)


@pytest.fixture(scope="session")
def sd15() -> LoadedParts:
    return checkpoint("sd15")
