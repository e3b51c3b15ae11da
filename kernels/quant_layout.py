"""How quantised weights lie in memory: tiles of 16 outputs whose bytes stream in the order that the kernels read them.

csrc/cpu/quant.h describes the layout; this is the same in numpy, for packing and for machines without the kernels.
Shapes: O outputs (padded to 16), B blocks of 32 inputs, S supers (runs of blocks with one header), G 8 groups of 4
inputs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE, BLOCK = 16, 32
Bytes = NDArray[Any]  # uint8; numpy's stubs take uint8 & 15 for a signed number


@dataclass(frozen=True)
class Kind:
    """One way to write a weight: its codes and what turns them into numbers."""

    id: int  # enum Quant in csrc/cpu/quant.h
    bits: int
    offset: int  # a code stands for code - offset
    header: tuple[str, ...]  # dtypes of the values that an output has once in a super: scale, then low or zero point
    sub: int = 0  # one-byte values that an output has in each block besides
    supers: int = 1  # blocks of a super; 0: all, or as the weight's group says
    stored: int = 0  # bytes of a GGUF block, 0 where the format has no such kind
    length: int = 32  # weights of a GGUF block


KINDS = {
    "q8_0": Kind(0, 8, 128, ("<f2",), stored=34),
    "q4_0": Kind(1, 4, 8, ("<f2",), stored=18),
    "q4_1": Kind(2, 4, 0, ("<f2", "<f2"), stored=20),
    "q5_0": Kind(3, 5, 16, ("<f2",), stored=22),
    "q5_1": Kind(4, 5, 0, ("<f2", "<f2"), stored=24),
    "q4_k": Kind(5, 4, 0, ("<f2", "<f2"), 2, 8, 144, 256),
    "q5_k": Kind(6, 5, 0, ("<f2", "<f2"), 2, 8, 176, 256),
    "q6_k": Kind(7, 6, 32, ("<f2",), 2, 8, 210, 256),
    "int8": Kind(8, 8, 128, ("<f4",), supers=0),
    "int4": Kind(9, 4, 0, ("<f2", "u1"), supers=0),
}


@dataclass(frozen=True, eq=False)
class Parts:
    """A weight as plain arrays, one row an output: what formats are read into and the layout is made from."""

    kind: str
    width: int  # inputs that count; codes beyond are padding
    group: int
    codes: Bytes  # (O, 32 B)
    header: tuple[NDArray[np.generic], ...]  # (O, S) each
    sub: Bytes  # (O, B, Kind.sub)


def blocks_of(width: int) -> int:
    """Blocks that hold `width` inputs."""
    return -(-width // BLOCK)


def run_of(kind: str, width: int, group: int) -> int:
    """Blocks of a super."""
    return KINDS[kind].supers or (blocks_of(width) if kind == "int8" else group // BLOCK)


def size_of(kind: str, shape: tuple[int, int], group: int) -> int:
    """Bytes of a weight (in, out) in the layout."""
    about, run = KINDS[kind], run_of(kind, shape[0], group)
    supers = -(-blocks_of(shape[0]) // run)
    header = sum(np.dtype(t).itemsize for t in about.header)
    return -(-shape[1] // TILE) * TILE * supers * (header + run * (about.sub + BLOCK * about.bits // 8))


def _pack_codes(grouped: Bytes, bits: int) -> Bytes:
    """(T, B, G, 64) codes -> (T, B, 8 bits x 64 / 8) bytes."""
    if bits == 8:
        return grouped.reshape(*grouped.shape[:2], -1)
    low = grouped & 15
    planes = [low[:, :, :4] | low[:, :, 4:] << 4]
    if bits == 5:
        high = grouped >> 4
        planes.append(sum((high[:, :, g : g + 1] << g for g in range(1, 8)), high[:, :, :1]))
    if bits == 6:
        high = grouped >> 4
        planes += [
            sum((high[:, :, h + g : h + g + 1] << 2 * g for g in range(1, 4)), high[:, :, h : h + 1]) for h in (0, 4)
        ]
    return np.concatenate(planes, axis=2).reshape(*grouped.shape[:2], -1)


def _unpack_codes(packed: Bytes, bits: int) -> Bytes:
    """The inverse of `_pack_codes`."""
    planes = packed.reshape(*packed.shape[:2], -1, 64)
    if bits == 8:
        return planes
    codes = np.concatenate([planes[:, :, :4] & 15, planes[:, :, :4] >> 4], axis=2)
    if bits == 5:
        codes |= np.stack([planes[:, :, 4] >> g & 1 for g in range(8)], axis=2) << 4
    if bits == 6:
        codes |= np.stack([planes[:, :, 4 + g // 4] >> 2 * (g % 4) & 3 for g in range(8)], axis=2) << 4
    return codes


def _whole(rows: NDArray[np.generic], supers: int) -> NDArray[np.generic]:
    """Rows (O, N, ...) padded with zeros to whole tiles and `supers` of the second axis."""
    pad = [(0, -rows.shape[0] % TILE), (0, supers - rows.shape[1]), *((0, 0) for _ in rows.shape[2:])]
    return np.pad(rows, pad) if any(after for _, after in pad) else rows


def interleave(parts: Parts) -> Bytes:
    """The layout's bytes, flat."""
    about, run = KINDS[parts.kind], run_of(parts.kind, parts.width, parts.group)
    supers = parts.header[0].shape[1]
    # a lane of four codes moves as one 32-bit number
    lanes = np.ascontiguousarray(_whole(parts.codes, supers * run * BLOCK)).view("<u4")
    tiles = lanes.shape[0] // TILE
    lanes = lanes.reshape(tiles, TILE, supers * run, 8).transpose(0, 2, 3, 1)
    grouped = np.ascontiguousarray(lanes).view(np.uint8).reshape(tiles, supers * run, 8, 64)
    pieces = [_pack_codes(grouped, about.bits)]
    if about.sub:
        sub = _whole(parts.sub, supers * run).reshape(tiles, TILE, supers * run, about.sub).transpose(0, 2, 3, 1)
        pieces.insert(0, np.ascontiguousarray(sub).reshape(tiles, supers * run, -1))
    body = np.concatenate(pieces, axis=2).reshape(tiles, supers, -1)
    header = [
        np.ascontiguousarray(_whole(h, supers).reshape(tiles, TILE, supers).transpose(0, 2, 1)).view(np.uint8)
        for h in parts.header
    ]
    return np.concatenate([*header, body], axis=2).reshape(-1)


def separate(kind: str, shape: tuple[int, int], group: int, layout: Bytes) -> Parts:
    """The inverse of `interleave`, for a weight (in, out)."""
    about, run = KINDS[kind], run_of(kind, shape[0], group)
    supers, tiles = -(-blocks_of(shape[0]) // run), -(-shape[1] // TILE)
    rest, header = layout.reshape(tiles, supers, -1), []
    for dtype in about.header:
        size = TILE * np.dtype(dtype).itemsize
        values = np.ascontiguousarray(rest[:, :, :size]).view(dtype)
        header.append(values.transpose(0, 2, 1).reshape(tiles * TILE, supers)[: shape[1]])
        rest = rest[:, :, size:]
    rest = np.ascontiguousarray(rest).reshape(tiles, supers * run, -1)
    sub = rest[:, :, : TILE * about.sub].reshape(tiles, supers * run, about.sub, TILE).transpose(0, 3, 1, 2)
    grouped = _unpack_codes(np.ascontiguousarray(rest[:, :, TILE * about.sub :]), about.bits)
    lanes = grouped.reshape(tiles, supers * run, 8, TILE, 4).transpose(0, 3, 1, 2, 4)
    blocks = blocks_of(shape[0])
    codes = lanes.reshape(tiles * TILE, -1)[: shape[1], : blocks * BLOCK]
    sub = sub.reshape(tiles * TILE, supers * run, about.sub)[: shape[1], :blocks]
    return Parts(kind, shape[0], group, codes, tuple(header), sub)


def values(parts: Parts) -> NDArray[np.float32]:
    """The exact weights (O, in): scale * (code - offset) + low in float32, as the formats define them."""
    about, run = KINDS[parts.kind], run_of(parts.kind, parts.width, parts.group)
    rows, blocks = parts.codes.shape[0], parts.codes.shape[1] // BLOCK
    codes = parts.codes.reshape(rows, blocks, BLOCK).astype(np.float32) - np.float32(about.offset)
    scale, *lows = (np.repeat(h.astype(np.float32), run, axis=1)[:, :blocks, None] for h in parts.header)
    if parts.kind == "int4":
        lows = [-scale * lows[0]]  # a scale of 11 bits times a number below 16: exact
    if parts.kind in ("q4_k", "q5_k"):
        scale, lows = scale * parts.sub[:, :, :1], [-lows[0] * parts.sub[:, :, 1:]]
    if parts.kind == "q6_k":
        scale = np.repeat(scale * parts.sub.view(np.int8), 16, axis=2)
    found = sum(lows, codes * scale)  # without a low nothing is added: -0 stays -0
    return found.reshape(rows, -1)[:, : parts.width]
