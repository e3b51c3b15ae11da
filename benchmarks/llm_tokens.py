"""Do ours and llama.cpp say the same? Greedy tokens of 20 prompts, and how far scores are from exact products.

    python benchmarks/llm_tokens.py SmolLM2-135M-Instruct.Q4_1.gguf

Three runs on one file: ours with exact products (whose tokens are transformers' on the dequantised file, see
tests/mix/llm/test_smollm2.py), ours, and llama.cpp. Both of the latter round what enters a matrix to 8 bits. The
distance of scores is the root mean square of the difference over that of the exact scores, both around their mean,
along the exact answers, so that all score the same texts. llama.cpp: name an interpreter that has llama_cpp in
MIXSTUDIO_REFERENCE_PYTHON.
"""

import argparse
import os
import sys
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
from engines import run

ASKED = Path(__file__).parents[1] / "tests" / "goldens" / "smollm2.npz"
ENGINES = {"exact": "ours-exact", "ours": "ours-stored", "llama.cpp": "llamacpp-stored"}
Told = dict[str, np.ndarray]


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Relative root mean square of two tables of scores, each row around its mean."""
    one, other = one - one.mean(axis=1, keepdims=True), other - other.mean(axis=1, keepdims=True)
    return float(np.sqrt(np.square(one - other).mean() / np.square(other).mean()))


def compared(one: Told, other: Told, exact: Told, count: int) -> dict[str, object]:
    """How many answers are equal, and how close the choice was, by exact scores, where others part."""
    margins, same = [], 0
    for i in range(count):
        differs = np.nonzero(one[f"tokens{i}"] != other[f"tokens{i}"])[0]
        same += not differs.size
        along = exact[f"tokens{i}"][: differs[0]] if differs.size else []
        if differs.size and np.array_equal(along, one[f"tokens{i}"][: differs[0]]):  # exact scores are of this text
            best = np.sort(exact[f"scores{i}"][differs[0]])[-2:]
            margins.append(float(best[1] - best[0]))
    apart = [distance(one[f"scores{i}"], other[f"scores{i}"]) for i in range(count)]
    return {
        "equal": f"{same} of {count}",
        "distance": round(float(np.median(apart)), 4),
        "margin at the first difference": f"{np.median(margins):.2f}, at most {max(margins):.2f}" if margins else "-",
    }


def main() -> None:
    """Run the three, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path(os.environ.get("MIXSTUDIO_SMOLLM2", "")))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if not args.file.is_file():
        parser.error("name a GGUF file, or set MIXSTUDIO_SMOLLM2")
    told: dict[str, Told] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, engine in ENGINES.items():
            out = Path(scratch) / f"{name}.npz"
            run(engine, "tokens", args.file.parent.resolve(), [args.file.name, ASKED, out, args.threads], args.threads)
            with np.load(out) as file:
                told[name] = dict(file)
    count = sum(key.startswith("tokens") for key in told["exact"])
    for one, other in combinations(told, 2):
        row = compared(told[one], told[other], told["exact"], count)
        sys.stdout.write(f"{one} and {other}: " + ", ".join(f"{k} {v}" for k, v in row.items()) + "\n")


if __name__ == "__main__":
    main()
