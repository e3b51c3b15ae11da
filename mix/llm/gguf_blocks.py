"""GGML's number formats: blocks of numbers that share a scale, and what they stand for.

A block is a run of bytes; `raw` below is (blocks, bytes a block) uint8, results are (blocks, numbers) float32. The
formats are defined by the structs of ggml-common.h; d and m are half floats, q small whole numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CHUNK = 1 << 16  # blocks turned into numbers at a time, so that the work stays in cache and memory stays low


@dataclass(frozen=True)
class Blocks:
    """One format: so many numbers in so many bytes."""

    name: str
    numbers: int
    bytes: int
    decode: Callable[[np.ndarray], np.ndarray]


def half(raw: np.ndarray, at: int) -> np.ndarray:
    """The half float at a byte of each block, (blocks, 1) float32."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16).astype(np.float32)


def nibbles(raw: np.ndarray) -> np.ndarray:
    """(blocks, n) bytes -> (blocks, 2n): all low halves, then all high halves."""
    return np.concatenate([raw & 15, raw >> 4], axis=1)


def high_bits(raw: np.ndarray) -> np.ndarray:
    """(blocks, 4) bytes -> (blocks, 32) with 16 where the bit is set, lowest bit first."""
    return np.unpackbits(np.ascontiguousarray(raw), axis=1, bitorder="little") << 4


def _f32(raw: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(raw).view(np.float32)


def _f16(raw: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _bf16(raw: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(raw).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _q8_0(raw: np.ndarray) -> np.ndarray:
    return half(raw, 0) * np.ascontiguousarray(raw[:, 2:]).view(np.int8).astype(np.float32)


def _q4_0(raw: np.ndarray) -> np.ndarray:
    return half(raw, 0) * (nibbles(raw[:, 2:]).astype(np.float32) - 8)


def _q4_1(raw: np.ndarray) -> np.ndarray:
    return half(raw, 0) * nibbles(raw[:, 4:]).astype(np.float32) + half(raw, 2)


def _q5_0(raw: np.ndarray) -> np.ndarray:
    return half(raw, 0) * ((nibbles(raw[:, 6:]) | high_bits(raw[:, 2:6])).astype(np.float32) - 16)


def _q5_1(raw: np.ndarray) -> np.ndarray:
    return half(raw, 0) * (nibbles(raw[:, 8:]) | high_bits(raw[:, 4:8])).astype(np.float32) + half(raw, 2)


def scales_and_mins(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """12 bytes -> eight 6-bit scales and eight 6-bit mins: four whole, the others with their top bits elsewhere."""
    low, mid, high = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
    mins = np.concatenate([mid & 63, (high >> 4) | (mid >> 6 << 4)], axis=1)
    return scales, mins


def _k_numbers(raw: np.ndarray, q: np.ndarray) -> np.ndarray:
    """d * scale * q - m * min of (blocks, 8, 32) whole numbers."""
    scales, mins = scales_and_mins(raw[:, 4:16])
    d, m = half(raw, 0) * scales.astype(np.float32), half(raw, 2) * mins.astype(np.float32)
    return (d[:, :, None] * q.astype(np.float32) - m[:, :, None]).reshape(len(raw), 256)


def _q4_k(raw: np.ndarray) -> np.ndarray:
    q = raw[:, 16:].reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    return _k_numbers(raw, (q & 15).reshape(-1, 8, 32))


def _q5_k(raw: np.ndarray) -> np.ndarray:
    q = raw[:, 48:].reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    top = (raw[:, 16:48].reshape(-1, 1, 32) >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)) & 1
    return _k_numbers(raw, (q & 15).reshape(-1, 8, 32) | (top << 4))


def _q6_k(raw: np.ndarray) -> np.ndarray:
    low = raw[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    low = (low & 15).reshape(-1, 8, 32)
    top = raw[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    q = (low | (top & 3).reshape(-1, 8, 32) << 4).astype(np.float32) - 32
    scales = np.ascontiguousarray(raw[:, 192:208]).view(np.int8).astype(np.float32) * half(raw, 208)
    return (scales[:, :, None] * q.reshape(-1, 16, 16)).reshape(-1, 256)


BLOCKS: dict[int, Blocks] = {
    0: Blocks("F32", 1, 4, _f32),
    1: Blocks("F16", 1, 2, _f16),
    2: Blocks("Q4_0", 32, 18, _q4_0),
    3: Blocks("Q4_1", 32, 20, _q4_1),
    6: Blocks("Q5_0", 32, 22, _q5_0),
    7: Blocks("Q5_1", 32, 24, _q5_1),
    8: Blocks("Q8_0", 32, 34, _q8_0),
    12: Blocks("Q4_K", 256, 144, _q4_k),
    13: Blocks("Q5_K", 256, 176, _q5_k),
    14: Blocks("Q6_K", 256, 210, _q6_k),
    30: Blocks("BF16", 1, 2, _bf16),
}


def dequantise(blocks: Blocks, raw: np.ndarray) -> np.ndarray:
    """All numbers of a run of blocks, flat, float32."""
    rows = raw.reshape(-1, blocks.bytes)
    out = np.empty((len(rows), blocks.numbers), np.float32)
    chunk = CHUNK if blocks.numbers > 1 else CHUNK * 64
    for at in range(0, len(rows), chunk):
        out[at : at + chunk] = blocks.decode(np.asarray(rows[at : at + chunk]))
    return out.reshape(-1)
