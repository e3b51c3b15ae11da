"""GGUF blocks of every quantised kind with random bits, and the numbers that ggml's own Python package reads from them.

Run with the reference environment (`pip install gguf`), not in the repository's root:
`python <repo>/tools/goldens/quant_blocks.py`.
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

OUT = Path(__file__).parents[2] / "tests" / "goldens" / "quant_blocks.npz"
ROWS, WIDTH = 5, 512
HALVES = {  # where float16 scales lie in a block, which random bits would often make infinite
    "Q8_0": (34, 32, [0]),
    "Q4_0": (18, 32, [0]),
    "Q4_1": (20, 32, [0, 2]),
    "Q5_0": (22, 32, [0]),
    "Q5_1": (24, 32, [0, 2]),
    "Q4_K": (144, 256, [0, 2]),
    "Q5_K": (176, 256, [0, 2]),
    "Q6_K": (210, 256, [208]),
}


def main() -> None:
    """Write the file."""
    random, found = np.random.default_rng(7), {}
    for name, (size, length, scales) in HALVES.items():
        blocks = random.integers(0, 256, (ROWS, WIDTH // length, size), dtype=np.uint8)
        for at in scales:
            halves = random.standard_normal(blocks.shape[:2]).astype(np.float16)
            blocks[..., at : at + 2] = halves[..., None].view(np.uint8)
        raw = blocks.reshape(ROWS, -1)
        found[f"{name.lower()}.raw"] = raw
        found[f"{name.lower()}.values"] = quants.dequantize(raw, Type[name]).astype(np.float32)
    np.savez_compressed(OUT, **found)


if __name__ == "__main__":
    main()
