"""What an adapter adds to one weight, for every kind in circulation.

All in torch's layout, where a linear weight is (out, in) and a convolution's (out, in, kh, kw): the files are written
in it. Sources: LoRA (Hu et al. 2021), LoCon / LoHa / LoKr (LyCORIS, Yeh et al. 2023), IA3 (Liu et al. 2022), DoRA (Liu
et al. 2024).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, cast

import paddle
from paddle import Tensor


class Delta(ABC):
    """A change of one weight."""

    kind: ClassVar[str]

    @property
    def rank(self) -> int | None:
        """The inner dimension, where the kind has one."""
        return None

    @abstractmethod
    def change(self, weight: Tensor) -> Tensor:
        """What to add to the float32 weight at strength 1, in its shape; ValueError where shapes do not fit."""


def _float(tensor: Tensor) -> Tensor:
    return tensor.astype("float32")


def _as(change: Tensor, weight: Tensor) -> Tensor:
    if change.size != weight.size:
        raise ValueError(f"the adapter's change is {tuple(change.shape)}, the layer's weight {tuple(weight.shape)}")
    return change.reshape(weight.shape)


def _tucker(core: Tensor, out_side: Tensor, in_side: Tensor) -> Tensor:
    """core (p, q, kh, kw), out_side (p, out), in_side (q, in) -> (out, in, kh, kw)."""
    return cast(Tensor, paddle.einsum("pqkl,po,qi->oikl", _float(core), _float(out_side), _float(in_side)))


@dataclass(frozen=True, eq=False)
class LowRank(Delta):
    """LoRA and LoCon: scale * up @ down; `mid` is the core of a Tucker-decomposed convolution."""

    down: Tensor  # (r, in[, kh, kw])
    up: Tensor  # (out, r[, 1, 1])
    mid: Tensor | None = None  # (r, r, kh, kw)
    alpha: float | None = None
    kind: ClassVar[str] = "LoRA"

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank; a file without alpha means 1."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def change(self, weight: Tensor) -> Tensor:
        up, down = _float(self.up), _float(self.down)
        if self.mid is not None:
            product = _tucker(self.mid, up.reshape([up.shape[0], -1]).T, down.reshape([down.shape[0], -1]))
        elif up.ndim == 4 and up.shape[2:] != [1, 1]:
            raise ValueError(f"a LoRA whose up weight is {tuple(up.shape)} is not known; expected (out, rank, 1, 1)")
        else:
            product = up.reshape([up.shape[0], -1]) @ down.reshape([down.shape[0], -1])
        return _as(product, weight) * self.scale


@dataclass(frozen=True, eq=False)
class Hadamard(Delta):
    """LoHa: the elementwise product of two low-rank products, each Tucker-decomposed where t1 and t2 are given."""

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None = None
    t2: Tensor | None = None
    alpha: float | None = None
    kind: ClassVar[str] = "LoHa"

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    def change(self, weight: Tensor) -> Tensor:
        if self.t1 is not None and self.t2 is not None:
            first, second = _tucker(self.t1, self.w1_a, self.w1_b), _tucker(self.t2, self.w2_a, self.w2_b)
        else:
            first, second = _float(self.w1_a) @ _float(self.w1_b), _float(self.w2_a) @ _float(self.w2_b)
        return _as(first * second, weight) * (1.0 if self.alpha is None else self.alpha / self.rank)


@dataclass(frozen=True, eq=False)
class Kronecker(Delta):
    """LoKr: the Kronecker product of two factors, each whole or a product of two."""

    w1: Tensor | tuple[Tensor, Tensor]
    w2: Tensor | tuple[Tensor, Tensor]
    t2: Tensor | None = None
    alpha: float | None = None
    kind: ClassVar[str] = "LoKr"

    @property
    def rank(self) -> int | None:
        """None where both factors are whole: then the file's alpha means nothing."""
        for factor in (self.w2, self.w1):
            if isinstance(factor, tuple):
                return factor[0].shape[0] if factor is self.w2 and self.t2 is not None else factor[1].shape[0]
        return None

    def change(self, weight: Tensor) -> Tensor:
        first = _float(self.w1) if isinstance(self.w1, Tensor) else _float(self.w1[0]) @ _float(self.w1[1])
        if isinstance(self.w2, Tensor):
            second = _float(self.w2)
        elif self.t2 is not None:
            second = _tucker(self.t2, *self.w2)
        else:
            a, b = (_float(t) for t in self.w2)
            second = (a @ b.reshape([b.shape[0], -1])).reshape([a.shape[0], *b.shape[1:]])
        scale = 1.0 if self.alpha is None or self.rank is None else self.alpha / self.rank
        return _as(_kronecker(first, second), weight) * scale


def _kronecker(first: Tensor, second: Tensor) -> Tensor:
    """(a, b) and (c, d[, kh, kw]) -> (ac, bd[, kh, kw])."""
    (a, b), (c, d) = first.shape[:2], second.shape[:2]
    kernel = second.shape[2:]
    taps = math.prod(kernel)
    product = first.reshape([a, 1, b, 1, 1]) * second.reshape([1, c, 1, d, taps])
    return product.reshape([a * c, b * d, *kernel])


@dataclass(frozen=True, eq=False)
class Full(Delta):
    """The whole difference; also what is added to a bias or to a norm."""

    diff: Tensor
    kind: ClassVar[str] = "full difference"

    def change(self, weight: Tensor) -> Tensor:
        return _as(_float(self.diff), weight)


@dataclass(frozen=True, eq=False)
class Rescale(Delta):
    """IA3: a factor per output feature, or per input feature."""

    factors: Tensor
    on_input: bool
    kind: ClassVar[str] = "IA3"

    def change(self, weight: Tensor) -> Tensor:
        count, axis = self.factors.size, 1 if self.on_input else 0
        if weight.shape[axis] != count:
            raise ValueError(f"{count} IA3 factors do not fit a weight of shape {tuple(weight.shape)}")
        shape = [1] * weight.ndim
        shape[axis] = count
        return weight * _float(self.factors).reshape(shape)


@dataclass(frozen=True, eq=False)
class Decomposed(Delta):
    """DoRA: the changed weight is brought to a learned norm per output, or per input feature (older LyCORIS)."""

    inner: Delta
    magnitude: Tensor
    on_input: bool
    kind: ClassVar[str] = "DoRA"

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    def change(self, weight: Tensor) -> Tensor:
        moved = weight + self.inner.change(weight)
        axis = 1 if self.on_input else 0
        others = [i for i in range(weight.ndim) if i != axis]
        norm = (moved * moved).sum(axis=others, keepdim=True).sqrt()
        if self.magnitude.size != weight.shape[axis]:
            raise ValueError(
                f"{self.magnitude.size} DoRA magnitudes do not fit a weight of shape {tuple(weight.shape)}"
            )
        return moved * (_float(self.magnitude).reshape(norm.shape) / norm.clip(min=1e-12)) - weight
