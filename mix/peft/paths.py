"""Low-rank paths beside a linear leaf: y = act(leaf(x) + scaling * B A x) + residual, for several adapters at once.

The leaf may be any layer with a Linear's call, quantised ones too: it is asked for its dense weight only where a path
needs it (DoRA) or is merged into it. Factors are float32 whatever the leaf is: A (in, r), B (r, out).
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.base.framework import EagerParamBase

import kernels
from kernels.reference import activate
from mix.llm.layers import TiedHead
from ppdiffusers.models.layers import Linear


class Draws:
    """Dropout as a function of seed, number of the batch and place in the model: nothing has a state, so a batch that
    is computed again (checkpointing, a resumed run) drops the same numbers.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.number = seed, 0

    def mask(self, shape: list[int], rate: float, index: int) -> Tensor:
        """0 with probability `rate`, else 1 / (1 - rate); float32."""
        generator = np.random.Generator(np.random.SFC64([self.seed, self.number, index]))
        bits = np.frombuffer(generator.bytes(2 * math.prod(shape)), np.uint16).reshape(shape)
        return paddle.to_tensor((bits >= round(rate * 65536)).astype(np.float32) / (1.0 - rate))


@dataclass(frozen=True)
class PathConfig:
    """One adapter at one leaf."""

    rank: int
    scaling: float
    dropout: float = 0.0
    dora: bool = False
    bias: bool = False
    init: bool | str = True


class Factor(nn.Layer):
    """A matrix (in, out), for B perhaps with a bias; PEFT's `lora_A.default` or `lora_B.default`."""

    def __init__(self, values: np.ndarray, bias: bool = False) -> None:
        super().__init__()
        self.weight = parameter(values)
        self.bias = parameter(np.zeros(values.shape[1])) if bias else None


def parameter(values: np.ndarray | Tensor) -> Tensor:
    """A float32 parameter that is trained."""
    given = values if isinstance(values, Tensor) else paddle.to_tensor(np.asarray(values, np.float32))
    return EagerParamBase.from_tensor(given.astype("float32").detach(), trainable=True)


class LoRALinear(nn.Layer):
    """A leaf and the paths beside it; `active` are the adapters that count, each at its strength."""

    def __init__(self, base_layer: nn.Layer, index: int) -> None:
        super().__init__()
        self.base_layer, self.index = base_layer, index
        self.lora_A, self.lora_B = nn.LayerDict(), nn.LayerDict()
        self.lora_magnitude_vector = nn.ParameterDict()
        self.paths: dict[str, PathConfig] = {}
        self.draws: dict[str, Draws] = {}
        self.active: dict[str, float] = {}
        self.merged: tuple[str, ...] = ()
        self._before: Tensor | None = None

    # --- what stands for the leaf ---

    @property
    def bias(self) -> Tensor | None:
        return cast(Any, self.base_layer).bias

    def dense_weight(self) -> Tensor:
        """The leaf's own weight (in, out), without paths that are not merged."""
        return dense(self.base_layer)

    # --- adapters ---

    def add(self, name: str, path: PathConfig, draws: Draws, generator: np.random.Generator) -> None:
        """Hang an adapter beside the leaf: A random, B zero, so that nothing changes at first."""
        width_in, width_out = shape_of(self.base_layer)
        if path.init == "gaussian":
            down = generator.normal(0.0, 1.0 / path.rank, (width_in, path.rank))
        else:  # PEFT's kaiming_uniform(sqrt 5)
            down = generator.uniform(-1.0, 1.0, (width_in, path.rank)) / math.sqrt(width_in)
        up = np.zeros((path.rank, width_out))
        if path.init is False:
            up = generator.uniform(-1.0, 1.0, up.shape) / math.sqrt(path.rank)
        self.lora_A[name], self.lora_B[name] = Factor(down), Factor(up, path.bias)
        self.paths[name], self.draws[name] = path, draws
        if path.dora:
            with paddle.no_grad():
                self.lora_magnitude_vector[name] = parameter(lengths(self._whole(name)))

    def remove(self, name: str) -> None:
        """Forget an adapter."""
        for table in (self.lora_A, self.lora_B, self.lora_magnitude_vector, self.paths, self.draws, self.active):
            if name in table:
                del table[name]  # type: ignore[attr-defined]

    def parameters_of(self, name: str) -> dict[str, Tensor]:
        """What is trained of an adapter, by PEFT's names inside the leaf."""
        found = {
            "lora_A.weight": cast(Any, self.lora_A[name]).weight,
            "lora_B.weight": cast(Any, self.lora_B[name]).weight,
            "lora_B.bias": cast(Any, self.lora_B[name]).bias,
            "lora_magnitude_vector": self.lora_magnitude_vector[name] if self.paths[name].dora else None,
        }
        return {leaf: value for leaf, value in found.items() if value is not None}

    # --- forward ---

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        going = [name for name in self.active if name not in self.merged]
        if not going:
            return self.base_layer(x, act=act, residual=residual)
        inside = residual if act is None and not any(self.paths[name].dora for name in going) else None
        y = self.base_layer(x, residual=inside)
        for name in going:
            y = self._turned(name, x, y) if self.paths[name].dora else self._beside(name, x, y)
        y = activate(y, act)
        return y if residual is None or inside is not None else kernels.add(y, residual.astype(y.dtype))

    def _dropped(self, name: str, x: Tensor) -> Tensor:
        rate = self.paths[name].dropout
        if not (self.training and rate):
            return x
        return (x.astype("float32") * self.draws[name].mask(x.shape, rate, self.index)).astype(x.dtype)

    def _beside(self, name: str, x: Tensor, y: Tensor | None) -> Tensor:
        """y + scaling * B A x."""
        strength = self.paths[name].scaling * self.active.get(name, 1.0)
        a, b = cast(Any, self.lora_A[name]).weight, cast(Any, self.lora_B[name])
        h = kernels.linear(self._dropped(name, x), a.astype(x.dtype))
        bias = None if b.bias is None else (b.bias * strength).astype(x.dtype)
        return kernels.linear(h, (b.weight * strength).astype(x.dtype), bias, residual=y)

    def _turned(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """DoRA: the columns of W + scaling * A B at their learned lengths; no gradient through the lengths they have.

        With dropout, PEFT lets the whole change see the dropped input, and so does this.
        """
        magnitude = self.lora_magnitude_vector[name]
        with paddle.no_grad():
            now = lengths(self._whole(name))
        ratio = magnitude / now
        plain = y if self.bias is None else y - self.bias.astype(y.dtype)
        dropped = self._dropped(name, x)
        if dropped is not x:
            plain = kernels.linear(dropped, self.dense_weight().astype(x.dtype))
        aside = _path_alone(self, name, dropped)
        change = plain.astype("float32") * (ratio - 1.0) + aside.astype("float32") * ratio
        return (y.astype("float32") + change).astype(y.dtype)

    # --- merging ---

    def _change(self, name: str) -> Tensor:
        strength = self.paths[name].scaling * self.active.get(name, 1.0)
        a, b = (cast(Any, side[name]).weight.astype("float32") for side in (self.lora_A, self.lora_B))
        return paddle.matmul(a, b) * strength

    def _whole(self, name: str) -> Tensor:
        return self.dense_weight().astype("float32") + self._change(name)

    @paddle.no_grad()
    def merge(self) -> bool:
        """Put the active paths into the weight; False where the leaf's weight can't be changed and they stay beside."""
        going = tuple(name for name in self.active if name not in self.merged)
        if not going:
            return True
        layer = self.base_layer
        biased = any(self.paths[name].bias for name in going)
        if not isinstance(layer, Linear) or isinstance(layer, TiedHead) or biased:
            return False
        if self._before is None:
            self._before = layer.dense_weight().clone()
        weight = layer.dense_weight().astype("float32")
        for name in going:
            whole = weight + self._change(name)
            weight = whole * (self.lora_magnitude_vector[name] / lengths(whole)) if self.paths[name].dora else whole
        layer.set_dense_weight(weight)
        self.merged += going
        return True

    def unmerge(self) -> None:
        """The weight that was there before, bit for bit."""
        if self._before is not None:
            cast(Linear, self.base_layer).set_dense_weight(self._before)
        self._before, self.merged = None, ()


def _path_alone(leaf: LoRALinear, name: str, x: Tensor) -> Tensor:
    """scaling * B A x of an input that has been through dropout."""
    strength = leaf.paths[name].scaling * leaf.active.get(name, 1.0)
    a, b = cast(Any, leaf.lora_A[name]).weight, cast(Any, leaf.lora_B[name]).weight
    return kernels.linear(kernels.linear(x, a.astype(x.dtype)), (b * strength).astype(x.dtype))


def lengths(weight: Tensor) -> Tensor:
    """The length of each column of (in, out)."""
    return (weight * weight).sum(axis=0).sqrt()


def dense(layer: Any) -> Tensor:
    """A leaf's weight (in, out) as a tensor, unpacked or dequantised where need be."""
    return layer.dense_weight()


def shape_of(layer: Any) -> tuple[int, int]:
    """(in, out) of a leaf, without unpacking it."""
    held = next((h for n in ("packed", "quantized", "weight") if (h := getattr(layer, n, None)) is not None), None)
    width_in, width_out = (dense(layer) if held is None else held).shape
    return int(width_in), int(width_out)
