"""Leaf layers that stand in for a model's own while something is added beside them."""

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor, nn

import kernels
from kernels.reference import activate
from ppdiffusers.models.layers import Conv2D, Linear
from ppdiffusers.weights.delta import Delta, LowRank


class Sidecar(nn.Layer):
    """A linear or convolution layer plus low-rank paths: y = act(layer(x) + sum s * up(down(x))) + residual."""

    def __init__(self, layer: Linear | Conv2D, changes: Sequence[tuple[LowRank, float]]) -> None:
        super().__init__()
        self.layer = layer
        self.bias = layer.bias
        dtype = layer.packed.dtype if layer.packed is not None else layer.dense_weight().dtype
        self.paths = tuple(_path(layer, delta, factor, dtype) for delta, factor in changes)

    def forward(self, x: Tensor, act: str | None = None, residual: Tensor | None = None) -> Tensor:
        y = self.layer(x)
        for down, up in self.paths:
            y = y + self._aside(x, down) @ up
        y = activate(y, act)
        return y if residual is None else y + residual

    def _aside(self, x: Tensor, down: Tensor) -> Tensor:
        if isinstance(self.layer, Linear):
            return x @ down
        return kernels.conv2d(x, down, None, stride=self.layer.stride, padding=self.layer.padding)


def _path(layer: Linear | Conv2D, delta: LowRank, factor: float, dtype: Any) -> tuple[Tensor, Tensor]:
    """(down, up) in our layout: down (in, r) or (r, in, kh, kw), up (r, out) with the strength in it."""
    rank = delta.rank
    down = delta.down.astype("float32")
    up = delta.up.astype("float32").reshape([-1, rank]).T * (delta.scale * factor)
    if isinstance(layer, Linear):
        down = down.reshape([rank, -1]).T
    elif down.ndim == 2:
        down = down.reshape([rank, -1, 1, 1])
    return down.astype(dtype), up.astype(dtype)


def sidecar_for(layer: nn.Layer, changes: Sequence[tuple[Delta, float]]) -> Sidecar | None:
    """A sidecar for the layer, or None where a change is not a plain low-rank one."""
    low = [(delta, factor) for delta, factor in changes if isinstance(delta, LowRank) and delta.mid is None]
    if len(low) != len(changes) or not isinstance(layer, Linear | Conv2D):
        return None
    with paddle.no_grad():
        return Sidecar(layer, low)
