"""The number formats found in checkpoints, as numpy arrays and as Paddle tensors.

bfloat16 and the two 8-bit floats have no numpy type, so an array of them is an array of their bit patterns:
uint16 for BF16, uint8 for F8_E4M3 and F8_E5M2. Only `to_tensor` gives the bits their meaning.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import paddle
from paddle import Tensor


@dataclass(frozen=True)
class DType:
    """One number format: its safetensors name, numpy storage, Paddle name and, for floats, its infinities as bits."""

    name: str
    storage: str
    paddle: str
    infinity: int | None = None

    @property
    def size(self) -> int:
        return np.dtype(self.storage).itemsize


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        DType("F64", "float64", "float64", 0x7FF0_0000_0000_0000),
        DType("F32", "float32", "float32", 0x7F80_0000),
        DType("F16", "float16", "float16", 0x7C00),
        DType("BF16", "uint16", "bfloat16", 0x7F80),
        DType("F8_E4M3", "uint8", "float32"),
        DType("F8_E5M2", "uint8", "float32"),
        DType("I64", "int64", "int64"),
        DType("I32", "int32", "int32"),
        DType("I16", "int16", "int16"),
        DType("I8", "int8", "int8"),
        DType("U8", "uint8", "uint8"),
        DType("U16", "uint16", "int32"),
        DType("U32", "uint32", "int64"),
        DType("U64", "uint64", "int64"),
        DType("BOOL", "bool", "bool"),
    )
}
BY_PADDLE: dict[str, str] = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"} | {
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
FLOATS = ("float32", "float16", "bfloat16", "float64")


def paddle_name(dtype: object) -> str:
    """`paddle.float32` or "float32" -> "float32"; a ValueError for what no checkpoint can hold."""
    name = str(dtype).removeprefix("paddle.")
    if name not in BY_PADDLE:
        raise ValueError(f"{dtype!r} is not a number format of checkpoints; there are {', '.join(BY_PADDLE)}")
    return name


def _float8_table(exponent_bits: int, bias: int) -> np.ndarray:
    """The value of each of the 256 patterns of an 8-bit float (fp32), by its definition."""
    code = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent = (code >> mantissa_bits) & (2**exponent_bits - 1)
    fraction = (code & (2**mantissa_bits - 1)) / 2**mantissa_bits
    size = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    return (np.where(code >= 128, -size, size)).astype(np.float32)


def _e4m3() -> np.ndarray:
    table = _float8_table(4, 7)
    table[[0x7F, 0xFF]] = np.nan  # this format has no infinities and one NaN per sign
    return table


def _e5m2() -> np.ndarray:
    table = _float8_table(5, 15)
    table[[0x7C, 0xFC]] = np.inf, -np.inf
    table[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return table


FLOAT8 = {"F8_E4M3": _e4m3(), "F8_E5M2": _e5m2()}


def finite(array: np.ndarray, dtype: str) -> bool:
    """Whether no number in the array is NaN or infinite. Works on the bits: two passes, no temporary array."""
    if dtype in FLOAT8:
        return bool(np.isfinite(FLOAT8[dtype][array]).all())
    infinity = DTYPES[dtype].infinity
    if infinity is None or not array.size:
        return True
    # Among positive numbers the bit patterns are ordered, and everything from infinity upwards is not finite.
    # As signed integers the positive numbers are the largest ones, as unsigned integers the negative ones.
    bits = 8 * array.itemsize
    return int(array.view(f"int{bits}").max()) < infinity and int(array.view(f"uint{bits}").max()) < infinity + 2 ** (
        bits - 1
    )


def empty(shape: tuple[int, ...], storage: str) -> np.ndarray:
    """An uninitialised array on a 64-byte boundary, as Paddle's own allocator would place it."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(storage).itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(storage).reshape(shape)


def copy_into(target: np.ndarray, source: np.ndarray) -> None:
    """target[...] = source; in cache blocks, 2-4 times faster than numpy, when the source is a transposed matrix."""
    if source.ndim != 2 or not source.flags.f_contiguous:
        target[...] = source
        return
    for i in range(0, source.shape[1], 64):
        target[:, i : i + 64] = source[:, i : i + 64]


def to_tensor(array: np.ndarray, dtype: str) -> Tensor:
    """The array (of safetensors dtype `dtype`) as a Paddle tensor on the current device; on the CPU without a copy."""
    if dtype in FLOAT8:
        array = FLOAT8[dtype][array]
    elif DTYPES[dtype].storage != DTYPES[dtype].paddle and dtype != "BF16":
        array = array.astype(DTYPES[dtype].paddle)  # unsigned integers that Paddle lacks
    if not array.size or not array.ndim or not paddle.get_device().startswith("cpu"):
        return paddle.to_tensor(array, dtype=cast(Any, DTYPES[dtype].paddle))
    if array.ctypes.data % 64 or not array.flags.c_contiguous:
        placed = empty(array.shape, str(array.dtype))
        copy_into(placed, array)
        array = placed
    return paddle.base.core.eager.Tensor(
        value=array, place=paddle.CPUPlace(), persistable=False, zero_copy=True, name="", stop_gradient=True
    )


def to_array(tensor: Tensor) -> tuple[np.ndarray, str]:
    """A Paddle tensor as (array, safetensors dtype); bfloat16 as its bits."""
    dtype = BY_PADDLE[paddle_name(tensor.dtype)]
    return np.ascontiguousarray(tensor.numpy()).reshape(tensor.shape), dtype
