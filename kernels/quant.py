"""Linear layers and embeddings over weights that stay quantised in memory.

Kinds: GGUF's blocks, int8 with a scale an output, int4 in groups with zero points.

`native` rounds x to 8 bits in blocks of 32 inputs and multiplies integers. Against exact products the result is off by
about 0.5 % for every kind (root mean square of the error over that of the result, x normally distributed; tests hold
each kind to 1 %), the same whatever else is in the batch. llama.cpp does so on a CPU too. `exact` keeps x in float32
and differs by the order of sums only: `use(quantized_linear="exact")`. Weights are frozen: gradients go to x, bias and
residual, through the exact weight. Call.options: (kind,).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor
from paddle.autograd import PyLayer

from kernels import build, native
from kernels.choose import Call, Kernel, accept, choose, device_of, dtype_of, needs_grad, no, table
from kernels.quant_formats import ROUNDINGS, from_blocks, from_floats, whole_blocks
from kernels.quant_layout import BLOCK, KINDS, TILE, Parts, interleave, separate, size_of, values

build.register(build.Extension("quant", kernels=("quant_matmul.cc", "quant_exact.cc")))

PIECE = 1 << 21  # weights that are laid out at a time
_BEST, _EXACT = 0, 1  # enum How in csrc/ops_quant.cc


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A frozen linear weight (in, out), or a table of `out` embeddings, in the layout of kernels/quant_layout.py.

    Make one with `quantize`, `from_gguf` or `from_groups`. `blocks` may be stored and loaded again on any machine.
    """

    kind: str
    shape: tuple[int, int]  # (in, out), as Paddle's linear has it and as GGUF writes it
    blocks: Tensor  # uint8, flat
    group: int = BLOCK  # int4: inputs that share a scale

    def __post_init__(self) -> None:
        _check_kind("QuantizedWeight", self.kind)
        _check_shape("QuantizedWeight", self.shape)
        _check_group("QuantizedWeight", self.group)
        size = size_of(self.kind, self.shape, self.group)
        if self.blocks.dtype != paddle.uint8 or self.blocks.shape != [size]:
            raise ValueError(
                f"QuantizedWeight: {self.kind} of {self.shape} (in, out) takes {size} bytes (uint8), "
                f"not {tuple(self.blocks.shape)} {dtype_of(self.blocks)}"
            )

    def dequantize(self, dtype: str = "float32") -> Tensor:
        """The exact weight (in, out); float32 has the bits that the format defines, bfloat16 is that rounded."""
        if dtype not in native.DTYPES:
            raise ValueError(f"dequantize makes float32 or bfloat16, not {dtype!r}")
        if self.blocks.place.is_cpu_place() and build.load("quant"):
            return build.run("mix_quant_dense", self.blocks, *self._about(), dtype == "bfloat16")
        return paddle.to_tensor(np.ascontiguousarray(self._values().T), place=self.blocks.place).astype(dtype)

    @property
    def nbytes(self) -> int:
        """Memory that the weight takes."""
        return self.blocks.size

    def _about(self) -> tuple[int, int, int, int]:
        return KINDS[self.kind].id, self.shape[0], self.shape[1], self.group

    def _values(self) -> NDArray[np.float32]:
        return values(separate(self.kind, self.shape, self.group, self.blocks.numpy()))


# making --------------------------------------------------------------------------------------------------------------


def _check_kind(who: str, kind: str, known: Any = KINDS) -> None:
    if kind not in known:
        raise ValueError(f"{who}: unknown kind {kind!r}; known: {', '.join(known)}")


def _check_shape(who: str, shape: tuple[int, ...], kind: str = "") -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"{who}: a weight is (in, out), both at least 1, not {tuple(shape)}")
    if kind and shape[0] % (length := KINDS[kind].length if KINDS[kind].stored else 1):
        raise ValueError(
            f"{who}: {kind} has blocks of {length} inputs, and {shape[0]} is not a multiple; use int8 or int4"
        )


def _check_group(who: str, group: int) -> None:
    if group < BLOCK or group % BLOCK:
        raise ValueError(f"{who}: groups are a multiple of {BLOCK} inputs, not {group}")


def _made(parts: Parts) -> QuantizedWeight:
    layout = paddle.to_tensor(interleave(parts), place=paddle.get_device())
    return QuantizedWeight(parts.kind, (parts.width, len(parts.codes)), layout, parts.group)


def quantize(weight: Tensor, kind: str, *, group: int = 128) -> QuantizedWeight:
    """Round a weight (in, out) to `kind`: int8 (a scale an output), int4 (scale and zero point for `group` inputs), or
    GGUF's q8_0, q4_0, q4_1, q5_0, q5_1. Raises ValueError for other kinds and for weights that are not finite.
    """
    _check_kind("quantize", kind, tuple(ROUNDINGS))
    _check_shape("quantize", tuple(weight.shape), kind)
    group = group if kind == "int4" else BLOCK
    _check_group("quantize", group)
    plain = weight.detach().astype("float32").numpy()
    if not np.isfinite(plain).all():
        raise ValueError("quantize: the weight has values that are infinite or not a number")
    return _made(from_floats(kind, plain, group))


def from_gguf(kind: str, raw: Any, shape: tuple[int, int]) -> QuantizedWeight:
    """A tensor of a GGUF file: its type's name in small letters, its bytes (any buffer), its shape as GGUF writes it,
    (in, out) with the inputs running fastest. Kinds: q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k.

    Works in pieces, so that memory peaks at little more than the weight. Raises ValueError for what does not fit and
    for scales that are not finite.
    """
    _check_kind("from_gguf", kind, [name for name, about in KINDS.items() if about.stored])
    shape = (int(shape[0]), int(shape[1])) if len(shape) == 2 else shape
    _check_shape("from_gguf", shape, kind)
    array = raw if isinstance(raw, np.ndarray) else np.frombuffer(raw, np.uint8)
    stored = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    wanted = shape[0] // KINDS[kind].length * KINDS[kind].stored * shape[1]
    if stored.size != wanted:
        raise ValueError(f"from_gguf: {kind} of {shape} (in, out) takes {wanted} bytes, there are {stored.size}")
    layout, rows, at = np.empty(size_of(kind, shape, BLOCK), np.uint8), stored.reshape(shape[1], -1), 0
    step = max(PIECE // shape[0] // TILE, 1) * TILE
    for first in range(0, shape[1], step):
        piece = rows[first : first + step]
        parts = from_blocks(kind, piece, (shape[0], len(piece)))
        if not all(np.isfinite(values).all() for values in parts.header):
            raise ValueError(f"from_gguf: scales of this {kind} weight are infinite or not a number")
        made = interleave(parts)
        layout[at : at + made.size] = made
        at += made.size
    return QuantizedWeight(kind, shape, paddle.to_tensor(layout, place=paddle.get_device()))


def from_groups(codes: Any, scales: Any, zeros: Any, *, group: int = 128) -> QuantizedWeight:
    """GPTQ- or AWQ-like int4: a weight is scale * (code - zero).

    codes (in, out) in 0..15; scales and zero points (in / group rounded up, out), scales kept as float16 as those
    formats have them. Raises ValueError for what does not fit.
    """
    codes, zeros = np.asarray(codes), np.asarray(zeros)
    scales = np.asarray(scales, np.float32)
    _check_shape("from_groups", codes.shape)
    _check_group("from_groups", group)
    wanted = (-(-codes.shape[0] // group), codes.shape[1])
    if scales.shape != wanted or zeros.shape != wanted:
        raise ValueError(f"from_groups: scales and zeros must be {wanted}, not {scales.shape} and {zeros.shape}")
    for name, part in (("codes", codes), ("zeros", zeros)):
        if part.dtype.kind not in "iu" or part.min() < 0 or part.max() > 15:
            raise ValueError(f"from_groups: {name} must be whole numbers from 0 to 15")
    if not np.abs(scales).max() <= 65504:
        raise ValueError("from_groups: scales must be finite and within float16")
    header = (scales.T.astype(np.float16), zeros.T.astype(np.uint8))
    parts = whole_blocks("int4", codes.shape[0], group, np.ascontiguousarray(codes.T.astype(np.uint8)), header)
    return _made(parts)


def join_outputs(*weights: QuantizedWeight) -> QuantizedWeight:
    """One weight with the outputs of several side by side: query, key and value, or gate and up, in one product.

    They must have the same kind, inputs and group, and all but the last a multiple of 16 outputs.
    """
    if not weights:
        raise ValueError("join_outputs: no weights")
    first = weights[0]
    for w in weights:
        if (w.kind, w.shape[0], w.group) != (first.kind, first.shape[0], first.group):
            raise ValueError(
                f"join_outputs: {w.kind} with {w.shape[0]} inputs in groups of {w.group} does not go with "
                f"{first.kind} with {first.shape[0]} in groups of {first.group}"
            )
    if any(w.shape[1] % 16 for w in weights[:-1]):
        raise ValueError("join_outputs: all but the last weight need a multiple of 16 outputs")
    joined = paddle.concat([w.blocks for w in weights])
    return QuantizedWeight(first.kind, (first.shape[0], sum(w.shape[1] for w in weights)), joined, first.group)


# the product ---------------------------------------------------------------------------------------------------------

_refuse_native = native.refusal("quant")


def _forward(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, residual: Tensor | None, how: int) -> Tensor:
    about = KINDS[weight.kind]
    return build.run("mix_quant_linear", x, weight.blocks, bias, residual, about.id, weight.shape[1], weight.group, how)


def _plain_sum(dy: Tensor) -> Tensor:
    return dy.astype("float32").reshape([-1, dy.shape[-1]]).sum(0)


class _Product(PyLayer):
    """The product with gradients of x, bias and residual."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: QuantizedWeight, bias: Tensor | None, residual: Tensor | None, how: int
    ) -> Tensor:
        ctx.weight, ctx.bias = weight, None if bias is None else bias.dtype
        ctx.wants = [None if t is None else not t.stop_gradient for t in (x, bias, residual)]
        return _forward(x, weight, bias, residual, how)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        dx = _product_dx(dy, ctx.weight) if ctx.wants[0] else None
        db = _plain_sum(dy).astype(ctx.bias) if ctx.wants[1] else None
        every = (dx, db, dy if ctx.wants[2] else None)
        return tuple(g for g, wants in zip(every, ctx.wants, strict=True) if wants is not None)


def _product_dx(dy: Tensor, weight: QuantizedWeight) -> Tensor:
    """dy w^T with the exact weight, in dy's dtype."""
    plain = weight.dequantize(dtype_of(dy))
    if build.load("dnn"):
        return build.run("mix_dnn_linear_dx", dy, plain)
    return paddle.matmul(dy.astype("float32"), plain.astype("float32"), transpose_y=True).astype(dy.dtype)


def _native(how: int) -> Any:
    def run(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        if needs_grad(x, bias, residual):
            return _Product.apply(x, weight, bias, residual, how)
        return _forward(x, weight, bias, residual, how)

    return run


def quantized_reference(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """The product in plain Paddle, with the weight's exact values."""
    plain = np.ascontiguousarray(weight._values().T)
    y = paddle.matmul(x.astype("float32"), paddle.to_tensor(plain, place=x.place))
    y = y if bias is None else y + bias.astype("float32")
    y = y if residual is None else y + residual.astype("float32")
    return y.astype(x.dtype)


_for_gpu: "WeakKeyDictionary[QuantizedWeight, tuple[Tensor, Tensor]]" = WeakKeyDictionary()


def _refuse_gpu(call: Call) -> str | None:
    return no(
        (call.device != "gpu", "needs a GPU"),
        (call.dtype not in ("float16", "bfloat16"), f"no {call.dtype}"),
        (call.grad, "has no gradient"),
        (
            call.options != ("int8",),
            f"Paddle's weight-only product has a scale an output and no low: int8, not {call.options}",
        ),
        (any(n % 16 for n in call.shape[-1:]), "needs a multiple of 16 inputs"),
    )


def _paddle_gpu(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    from paddle.nn.quant import weight_only_linear, weight_quantize

    if weight not in _for_gpu:  # Paddle lays int8 weights out for the card at hand; rounding again changes no code
        _for_gpu[weight] = weight_quantize(weight.dequantize().astype("float16"), algo="weight_only_int8")
    codes, scale = _for_gpu[weight]
    y = weight_only_linear(x, codes, bias, scale.astype(x.dtype), "int8")
    return y if residual is None else y + residual


table(
    "quantized_linear",
    Kernel("native", _native(_BEST), _refuse_native),
    Kernel("paddle_gpu", _paddle_gpu, _refuse_gpu),
    Kernel("exact", _native(_EXACT), _refuse_native),
    Kernel("reference", quantized_reference, accept),
)


@lru_cache(maxsize=1024)
def _call(device: str, dtype: str, grad: bool, shape: tuple[int, int], kind: str) -> Call:
    return Call("quantized_linear", device, dtype, grad, shape, (kind,))  # a token asks a few hundred times


def quantized_linear(
    x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None, *, residual: Tensor | None = None
) -> Tensor:
    """x @ weight + bias + residual in x's dtype, summed in float32.

    x (..., in) float32 or bfloat16, bias (out,), residual (..., out) of x's dtype. A row of x with a value that is not
    finite gives a row of NaN. Raises ValueError where shapes or dtypes do not fit.
    """
    shape, (width_in, width_out) = x.shape, weight.shape
    if not shape or shape[-1] != width_in:
        raise ValueError(f"quantized_linear: the input is {tuple(shape)}, the weight {weight.shape} (in, out)")
    dtype = dtype_of(x)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"quantized_linear takes float32, bfloat16 (float16 on GPU), not {dtype}; cast the input")
    if bias is not None and bias.shape != [width_out]:
        raise ValueError(f"quantized_linear: a bias of shape {tuple(bias.shape)} does not fit {width_out} outputs")
    if residual is not None and (residual.shape != [*shape[:-1], width_out] or residual.dtype != x.dtype):
        raise ValueError(
            f"quantized_linear: the residual is {tuple(residual.shape)} {dtype_of(residual)}, "
            f"the result that it is added to {(*shape[:-1], width_out)} {dtype}"
        )
    grad = needs_grad(x, bias, residual)
    return choose(_call(device_of(x), dtype, grad, weight.shape, weight.kind)).run(x, weight, bias, residual)


def quantized_rows(weight: QuantizedWeight, ids: Tensor, *, dtype: str = "float32") -> Tensor:
    """Embeddings: outputs `ids` (any shape, whole numbers) of a weight (width, count) as exact vectors (..., width).

    Raises ValueError for an id outside the table.
    """
    if ids.dtype not in (paddle.int64, paddle.int32):
        raise ValueError(f"quantized_rows: ids are int64 or int32, not {dtype_of(ids)}")
    if dtype not in native.DTYPES:
        raise ValueError(f"quantized_rows makes float32 or bfloat16, not {dtype!r}")
    count = weight.shape[1]
    plain = ids.numpy()  # two reductions by Paddle cost a token more than its vector
    least, most = (int(plain.min()), int(plain.max())) if plain.size else (0, 0)
    if plain.size and not 0 <= least <= most < count:
        raise ValueError(f"quantized_rows: ids must be within 0..{count - 1}, they run from {least} to {most}")
    if weight.blocks.place.is_cpu_place() and build.load("quant"):
        whole = ids if ids.dtype == paddle.int64 else ids.astype("int64")
        return build.run("mix_quant_rows", weight.blocks, whole, *weight._about(), dtype == "bfloat16")
    table_ = paddle.to_tensor(weight._values(), place=weight.blocks.place)
    return table_[ids.astype("int64")].astype(dtype)
