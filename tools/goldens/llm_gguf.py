"""Blocks of every GGML format with the numbers they stand for, by the package gguf: tests/goldens/llm_gguf_blocks.npz.

Run with an interpreter that has gguf: python tools/goldens/llm_gguf.py
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

GOLDENS = Path(__file__).parents[2] / "tests" / "goldens"
KINDS = (Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0)
K_KINDS = (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K)


def sane(raw: np.ndarray, halves: tuple[int, ...]) -> np.ndarray:
    """Random blocks whose half floats are ordinary numbers."""
    for at in halves:
        scale = np.random.RandomState(at + 1).standard_normal(len(raw)).astype(np.float16)
        raw[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return raw


def main() -> None:
    rng = np.random.RandomState(3)
    found: dict[str, np.ndarray] = {}
    for kind in KINDS:
        raw = gguf.quantize(rng.standard_normal((4, 256)).astype(np.float32), kind)
        found |= {f"{kind.name}_raw": raw.view(np.uint8), f"{kind.name}_out": gguf.dequantize(raw, kind)}
    places = {Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,)}
    for kind in K_KINDS:
        size = gguf.GGML_QUANT_SIZES[kind][1]
        raw = sane(rng.randint(0, 256, (3, size)).astype(np.uint8), places[kind])
        found |= {f"{kind.name}_raw": raw, f"{kind.name}_out": gguf.dequantize(raw, kind)}
    path = GOLDENS / "llm_gguf_blocks.npz"
    np.savez_compressed(path, **found)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
