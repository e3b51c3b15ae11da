"""Where quantised weights come from: GGUF blocks, and floats that are rounded here.

GGUF blocks hold neighbours of one output: ggml's tensors are (in, out) with the inputs running fastest. The 4-bit
kinds keep the first half of a block in the low halves of the bytes; the K kinds have 256 weights with sub-scales.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kernels.quant_layout import BLOCK, KINDS, Bytes, Parts, blocks_of

Floats = NDArray[np.float32]
Read = tuple[Bytes, tuple[NDArray[np.float16], ...], Bytes]  # codes, header, sub-scales


def _halves(block: Bytes, at: int) -> NDArray[np.float16]:
    return np.ascontiguousarray(block[..., at : at + 2]).view("<f2")[..., 0]


def _nibbles(packed: Bytes) -> Bytes:
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _small(block: Bytes, kind: str) -> Read:
    """q4_0, q4_1, q5_0, q5_1: scale, perhaps low, perhaps 32 fifth bits, 16 bytes of low bits."""
    about = KINDS[kind]
    header = tuple(_halves(block, 2 * i) for i in range(len(about.header)))
    at = 2 * len(header)
    codes = _nibbles(block[..., -16:])
    if about.bits == 5:
        codes |= np.unpackbits(block[..., at : at + 4], axis=-1, bitorder="little") << 4
    return codes, header, np.zeros((*block.shape[:2], 0), np.uint8)


def _q8_0(block: Bytes, _: str) -> Read:
    return block[..., 2:] ^ 128, (_halves(block, 0),), np.zeros((*block.shape[:2], 0), np.uint8)


def _sub_scales(packed: Bytes) -> Bytes:
    """12 bytes -> (8, 2) six-bit numbers: scale and low of each sub-block.

    The first four lie in the low six bits of bytes 0..3 (scales) and 4..7 (lows); of the last four, bytes 8..11 have
    the low four bits and the top two bits of bytes 0..7 the rest.
    """
    a, b, c = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scale = np.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], axis=-1)
    low = np.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], axis=-1)
    return np.stack([scale, low], axis=-1)


def _k45(block: Bytes, kind: str) -> Read:
    """q4_k, q5_k: scale, low, 12 bytes of sub-scales, perhaps 32 of fifth bits, four times 32 of low bits."""
    lead = block.shape[:2]
    codes = _nibbles(block[..., -128:].reshape(*lead, 4, 32)).reshape(*lead, 8, 32)
    if kind == "q5_k":
        bits = block[..., 16:48]
        codes |= np.stack([bits >> i & 1 for i in range(8)], axis=2) << 4
    sub = _sub_scales(block[..., 4:16])
    return codes.reshape(*lead, 256), (_halves(block, 0), _halves(block, 2)), sub.reshape(lead[0], -1, 2)


def _q6_k(block: Bytes, _: str) -> Read:
    """128 bytes of low bits, 64 of high bits, 16 signed scales, scale; either half is 128 weights, four runs of 32."""
    lead = block.shape[:2]
    low = block[..., :128].reshape(*lead, 2, 64)
    high = block[..., 128:192].reshape(*lead, 2, 32)
    codes = np.concatenate([low & 15, low >> 4], axis=-1).reshape(*lead, 2, 4, 32)
    codes |= np.stack([high >> 2 * i & 3 for i in range(4)], axis=3) << 4
    return codes.reshape(*lead, 256), (_halves(block, 208),), block[..., 192:208].reshape(lead[0], -1, 2)


_READERS: dict[str, Callable[[Bytes, str], Read]] = {
    "q8_0": _q8_0,
    **dict.fromkeys(("q4_0", "q4_1", "q5_0", "q5_1"), _small),
    **dict.fromkeys(("q4_k", "q5_k"), _k45),
    "q6_k": _q6_k,
}


def from_blocks(kind: str, stored: Bytes, shape: tuple[int, int]) -> Parts:
    """GGUF blocks of a weight (in, out), as stored; sizes have been checked."""
    block = stored.reshape(shape[1], shape[0] // KINDS[kind].length, KINDS[kind].stored)
    codes, header, sub = _READERS[kind](block, kind)
    return Parts(kind, shape[0], BLOCK, codes.reshape(shape[1], -1), header, sub)


# rounding ------------------------------------------------------------------------------------------------------------


def _divided(top: Floats, by: NDArray[np.floating]) -> Floats:
    """top / by, 0 where `by` is."""
    wide = by.astype(np.float32)
    result = np.zeros(np.broadcast_shapes(top.shape, wide.shape), np.float32)
    return np.divide(top, wide, out=result, where=wide != 0)


def _half(values: Floats, kind: str) -> NDArray[np.float16]:
    if np.abs(values).max(initial=0) > 65504:
        raise ValueError(
            f"quantize: {kind} keeps scales as float16, and these weights are too large for that; use int8"
        )
    return values.astype(np.float16)


def _symmetric(blocks: Floats, kind: str) -> tuple[Floats, tuple[NDArray[np.floating], ...]]:
    """The largest weight decides the scale: +-127 steps, or -8 (-16) where only the negative end has that step."""
    offset = KINDS[kind].offset
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1, keepdims=True), axis=-1)[..., 0]
    wanted = np.asarray(np.abs(largest) / 127 if offset == 128 else largest / -offset, np.float32)
    scale = wanted if kind == "int8" else _half(wanted, kind)
    return np.rint(_divided(blocks, scale[..., None])) + offset, (scale,)


def _ranged(blocks: Floats, kind: str) -> tuple[Floats, tuple[NDArray[np.floating], ...]]:
    """From the least to the largest weight in equal steps."""
    low, steps = blocks.min(axis=-1), (1 << KINDS[kind].bits) - 1
    scale, low = _half((blocks.max(axis=-1) - low) / steps, kind), _half(low, kind)
    return np.rint(_divided(blocks - low[..., None].astype(np.float32), scale[..., None])), (scale, low)


def _zero_point(blocks: Floats, kind: str) -> tuple[Floats, tuple[NDArray[np.generic], ...]]:
    """Equal steps with 0 among them, as GPTQ and AWQ write groups."""
    low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
    scale = _half((high - low) / 15, kind)
    zero = np.clip(np.rint(_divided(-low, scale)), 0, 15)
    return np.rint(_divided(blocks, scale[..., None])) + zero[..., None], (scale, zero.astype(np.uint8))


ROUNDINGS = {
    "int8": _symmetric,
    "q8_0": _symmetric,
    "q4_0": _symmetric,
    "q5_0": _symmetric,
    "q4_1": _ranged,
    "q5_1": _ranged,
    "int4": _zero_point,
}


def from_floats(kind: str, weight: Floats, group: int) -> Parts:
    """A weight (in, out), rounded to the nearest code of its block, group or output."""
    width, out = weight.shape
    length = {"int8": width, "int4": group}.get(kind, BLOCK)
    rows = np.pad(np.ascontiguousarray(weight.T), [(0, 0), (0, -width % length)])
    if kind == "int4" and width % length:  # padding must not widen the last group's range: repeat what is there
        rows[:, width:] = rows[:, width - 1 : width]
    codes, header = ROUNDINGS[kind](rows.reshape(out, -1, length), kind)
    codes = np.clip(codes, 0, (1 << KINDS[kind].bits) - 1).astype(np.uint8).reshape(out, -1)
    return whole_blocks(kind, width, group, codes, header)


def whole_blocks(kind: str, width: int, group: int, codes: Bytes, header: tuple[NDArray[np.generic], ...]) -> Parts:
    """Parts without sub-scales from codes (out, at least in)."""
    blocks = blocks_of(width)
    codes = np.pad(codes, [(0, 0), (0, max(0, blocks * BLOCK - codes.shape[1]))])[:, : blocks * BLOCK]
    return Parts(kind, width, group, codes, header, np.zeros((len(codes), blocks, 0), np.uint8))
