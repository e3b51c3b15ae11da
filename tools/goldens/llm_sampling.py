"""Scores after transformers' processors: tests/goldens/llm_sampling.npz.

Run with an interpreter that has torch and transformers, from a folder outside this repository.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

GOLDENS = Path(__file__).parents[2] / "tests" / "goldens"


def main() -> None:
    rng = np.random.RandomState(5)
    scores = (3 * rng.standard_normal((4, 50))).astype(np.float32)
    seen = torch.from_numpy(rng.randint(0, 50, (4, 9)))
    given = torch.from_numpy(scores)
    chain = given
    for step in (TemperatureLogitsWarper(0.7), TopKLogitsWarper(20), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)):
        chain = step(seen, chain)
    out = {
        "repetition": RepetitionPenaltyLogitsProcessor(1.3)(seen, given.clone()),
        "top_k": TopKLogitsWarper(7)(seen, given),
        "top_p": TopPLogitsWarper(0.8)(seen, given),
        "top_p_tiny": TopPLogitsWarper(0.01)(seen, given),
        "min_p": MinPLogitsWarper(0.1)(seen, given),
        "chain": chain,
    }
    arrays = {k: v.numpy() for k, v in out.items()}
    np.savez_compressed(GOLDENS / "llm_sampling.npz", scores=scores, seen=seen.numpy(), **arrays)


if __name__ == "__main__":
    main()
