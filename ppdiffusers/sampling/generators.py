"""Normal numbers with the very bit streams of torch, so that a seed means the same picture here and elsewhere.

Facts used: torch's CPU generator is MT19937 seeded with the low 32 bits of the seed; its CUDA generator is cuRAND's
Philox4x32-10 (Salmon et al. 2011) with the seed as key, one subsequence per element and one counter tick per call; both
turn uniform numbers into normal ones by Box & Muller (1958).
"""

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]
TWO_PI = 2 * math.pi


class Generator(Protocol):
    """A seeded stream of normal numbers; drawing twice goes on where the first draw ended."""

    def normal(self, shape: tuple[int, ...]) -> Floats32: ...


class CpuGenerator:
    """`torch.randn(shape, generator=torch.Generator().manual_seed(seed))`, equal to the last bits of fp32."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.RandomState(
            seed & 0xFFFFFFFF
        )._bit_generator  # RandomState seeds MT19937 as its authors do
        self._spare: float | None = (
            None  # Box-Muller gives numbers in pairs; torch keeps the second for the next small draw
        )

    def normal(self, shape: tuple[int, ...]) -> Floats32:
        size = math.prod(shape)
        if size < 16:
            return np.array([self._one() for _ in range(size)], dtype=np.float32).reshape(shape)
        uniform = self._uniform(size)
        out = np.empty(size, dtype=np.float32)
        whole = size - size % 16
        out[:whole] = pair_in_blocks(uniform[:whole])
        if (
            whole != size
        ):  # the tail is a fresh block of 16 over the last 16 places, part of the previous block is overwritten
            out[-16:] = pair_in_blocks(self._uniform(16))
        return out.reshape(shape)

    def _uniform(self, size: int) -> Floats32:
        """24 random bits each, in [0, 1)."""
        raw = self._bits.random_raw(size).astype(np.uint32)
        return (raw & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2**-24)

    def _one(self) -> float:
        """One number in double precision, as torch draws when there are fewer than 16."""
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        angle, height = (self._double() for _ in range(2))
        radius = math.sqrt(-2 * math.log1p(-height))
        self._spare = radius * math.sin(TWO_PI * angle)
        return radius * math.cos(TWO_PI * angle)

    def _double(self) -> float:
        high, low = (int(word) for word in self._bits.random_raw(2))
        return ((high << 32 | low) & ((1 << 53) - 1)) * 2.0**-53


def pair_in_blocks(uniform: Floats32) -> Floats32:
    """Box-Muller over blocks of 16: the first 8 are heights, the last 8 angles; cosines come first, sines second."""
    blocks = uniform.reshape(-1, 2, 8)
    radius = np.sqrt(-2 * np.log((np.float32(1) - blocks[:, 0]).astype(np.float64)).astype(np.float32))
    angle = (np.float32(TWO_PI) * blocks[:, 1]).astype(np.float64)  # the fp32 product, then an exact cosine
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    return (radius[:, None] * waves).reshape(-1)


class CudaGenerator:
    """`torch.randn(shape, device="cuda", generator=...manual_seed(seed))` without a GPU (WebUI's "RNG: GPU" and "NV").

    Equal to the GPU's numbers while a draw has no more elements than the GPU has threads (fewer than 2^15 is safe
    anywhere).
    """

    def __init__(self, seed: int) -> None:
        self._key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
        self._calls = 0

    def normal(self, shape: tuple[int, ...]) -> Floats32:
        counter = np.zeros((4, math.prod(shape)), dtype=np.uint32)
        counter[0] = self._calls
        counter[2] = np.arange(counter.shape[1])
        self._calls += 1
        height, angle = philox(counter, self._key)[:2].astype(np.float64)
        turn = float(np.float32(2**-32 * TWO_PI))
        radius = np.sqrt(-2 * np.log(height * 2**-32 + 2**-33))
        return (radius * np.sin(angle * turn + turn / 2)).astype(np.float32).reshape(shape)


def philox(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32 with 10 rounds (Salmon et al. 2011): counter (4, N) -> (4, N) random words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    left, right = np.empty((2, counter.shape[1]), dtype="<u8")
    left_low, left_high, right_low, right_high = (p.view("<u4")[half::2] for p in (left, right) for half in (0, 1))
    for _ in range(10):
        np.multiply(c0, np.uint64(0xD2511F53), out=left)
        np.multiply(c2, np.uint64(0xCD9E8D57), out=right)
        c0, c2 = right_high ^ c1 ^ np.uint32(k0), left_high ^ c3 ^ np.uint32(k1)
        c1, c3 = right_low.copy(), left_low.copy()
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


GENERATORS: dict[str, type[CpuGenerator] | type[CudaGenerator]] = {"cpu": CpuGenerator, "gpu": CudaGenerator}
