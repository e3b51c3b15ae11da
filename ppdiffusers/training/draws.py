"""Random numbers as a function of seed, purpose and place in the run.

Nothing has a state, so a run that is resumed at step n draws at step n what the uninterrupted run would have drawn, and
one purpose (noise, times, crops) never shifts another.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor


@dataclass(frozen=True)
class Draws:
    """All the randomness of a run."""

    seed: int

    def generator(self, purpose: str, *place: int) -> np.random.Generator:
        """A fresh generator for one purpose at one place (step, epoch, example...)."""
        said = f"{self.seed}/{purpose}/{'/'.join(map(str, place))}"
        key = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=16).digest(), "little")
        return np.random.Generator(np.random.Philox(key=key))

    def normal(self, shape: Sequence[int], purpose: str, *place: int) -> Tensor:
        """Standard normal float32 numbers."""
        return paddle.to_tensor(self.generator(purpose, *place).standard_normal(tuple(shape), dtype=np.float32))
