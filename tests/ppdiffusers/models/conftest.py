"""Goldens: what diffusers and transformers made of tiny models whose weights are computed from their names."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdiffusers.models.layers import Linear
from tools.goldens.random_weights import random_direction, random_weight

GOLDENS = Path(__file__).parents[2] / "goldens"


@dataclass(frozen=True)
class Golden:
    name: str

    @cached_property
    def file(self) -> dict[str, np.ndarray]:
        with np.load(GOLDENS / f"models_{self.name}.npz") as file:
            return dict(file)

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(str(self.file["config"]))

    @property
    def keys(self) -> Any:
        return json.loads(str(self.file["keys"]))

    def given(self, key: str) -> paddle.Tensor:
        return paddle.to_tensor(self.file[f"in_{key}"])

    def wanted(self, key: str) -> np.ndarray:
        return self.file[f"out_{key}"]

    @property
    def added(self) -> dict[str, paddle.Tensor] | None:
        return {k: self.given(k) for k in ("text_embeds", "time_ids")} if "in_time_ids" in self.file else None


def transposed(model: nn.Layer) -> set[str]:
    """Names of the weights that torch stores the other way round."""
    return {f"{name}.weight" for name, layer in model.named_sublayers() if isinstance(layer, Linear)}


def torch_shapes(model: nn.Layer) -> dict[str, list[int]]:
    """Names and shapes as torch has them."""
    flip = transposed(model)
    return {k: list(v.shape)[::-1] if k in flip else list(v.shape) for k, v in model.state_dict().items()}


def fill(model: nn.Layer) -> nn.Layer:
    """Give every parameter the weight that its name stands for."""
    flip = transposed(model)
    for key, shape in torch_shapes(model).items():
        value = random_weight(key, shape)
        model.state_dict()[key].set_value(value.T.copy() if key in flip else value)
    return model.eval()


def shadow(key: str, gradient: np.ndarray) -> list[float]:
    """A gradient in torch's layout as two numbers: its norm, and its product with a fixed direction."""
    return [float(np.linalg.norm(gradient)), float((gradient * random_direction(key, gradient.shape)).sum())]


def error(ours: Any, theirs: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    ours = ours.numpy() if isinstance(ours, paddle.Tensor) else np.asarray(ours)
    assert ours.shape == theirs.shape
    return float(np.abs(ours.astype(np.float64) - theirs).max() / np.abs(theirs).max())


def noise(*shape: int, name: str = "noise") -> paddle.Tensor:
    """Standard normal numbers, the same in every run."""
    return paddle.to_tensor(random_direction(name, shape).astype("float32"))


@pytest.fixture
def golden():
    return Golden
