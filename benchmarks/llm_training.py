"""Training a language model of SmolLM2-135M's size beside transformers and peft: tokens a second, kernels and packing.

    python benchmarks/llm_training.py [--method full,lora] [--engines ours-bf16,torch-bf16] [--rounds 2]

Engines take turns, step by step, so that all see the machine alike; the best step counts. Peers need an interpreter
with torch, transformers and peft: name it in MIXSTUDIO_REFERENCE_PYTHON. Results go to benchmarks/data.

`even` is four texts of 512 tokens: no padding anywhere, so the kernels alone differ. `mixed` is one pass over 32 texts
of very different lengths (see `lengths`); peers take padded batches of 8 in the given order, ours the same ones
(`padded`) or best-fit packs of 2,048 tokens. Tokens are those of texts, never padding. Two figures each: by
the clock, and by processor seconds divided by threads, which hardly minds what else runs on the machine.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from engines import environment, keep

HERE = Path(__file__).parent
ROOT = HERE.parent
EVEN = [[512] * 4]
COLUMNS = ("date", "method", "engine", "set", "threads", "tokens_s", "tokens_s_by_processor", "steps")


def lengths(count: int = 32) -> list[int]:
    """Lengths as conversations have them: many short ones, a few long ones."""
    drawn = np.random.default_rng(7).lognormal(np.log(110), 0.9, count)
    return np.clip(drawn, 16, 768).astype(int).tolist()


def mixed(pack: bool) -> list[list[int]]:
    """The batches of one pass over the mixed set."""
    every = lengths()
    if not pack:
        return [every[i : i + 8] for i in range(0, len(every), 8)]
    sys.path.insert(0, str(ROOT))
    from mix.train.packing import best_fit

    return [[every[i] for i in row] for row in best_fit(every, 2048)]


class Engine:
    """A process that trains on command."""

    def __init__(self, name: str, method: str, batches: str, threads: int) -> None:
        kind, dtype = name.split("-")
        python = sys.executable if kind == "ours" else os.environ["MIXSTUDIO_REFERENCE_PYTHON"]
        script = str(HERE / "peers" / f"{kind}_steps.py")
        words = [python, script, method, dtype, str(threads), batches]
        env = environment(threads) | {"OMP_WAIT_POLICY": "PASSIVE"}
        where = ROOT if kind == "ours" else "/"
        pipe = subprocess.PIPE
        self.name, self.batches = name, batches
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=env, cwd=where)

    def step(self, texts: Sequence[int]) -> dict[str, float]:
        """One step on texts of these lengths."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write((json.dumps(list(texts)) + "\n").encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended: run benchmarks/peers/{self.name.split('-')[0]}_steps.py to see why")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(engines: Sequence[Engine], work: dict[str, list[list[int]]], rounds: int) -> dict[str, tuple[float, float]]:
    """(seconds, processor seconds) of all batches of an engine's work, each the best of `rounds`."""
    best: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds + 1):  # the first one sets up products for their shapes
        for number in range(max(map(len, work.values()))):
            for engine in engines:
                if number >= len(work[engine.batches]):
                    continue
                told = engine.step(work[engine.batches][number])
                if turn:
                    now = [told["seconds"], told["processor"]]
                    had = best.setdefault((engine.name + engine.batches, number), now)
                    best[engine.name + engine.batches, number] = [min(a, b) for a, b in zip(now, had, strict=True)]
    found = {}
    for engine in engines:
        key = engine.name + engine.batches
        every = [best[key, n] for n in range(len(work[engine.batches]))]
        found[key] = (sum(e[0] for e in every), sum(e[1] for e in every))
    return found


def rows_of(args: argparse.Namespace, method: str) -> list[tuple[Any, ...]]:
    """All figures of one way of training."""
    rows: list[tuple[Any, ...]] = []
    names = args.engines.split(",")
    for kind in args.sets.split(","):
        ways = [(n, "padded") for n in names] + [(n, "pack") for n in names if n.startswith("ours") and kind == "mixed"]
        engines = [Engine(n, method, way, args.threads) for n, way in ways]
        work = {way: EVEN if kind == "even" else mixed(way == "pack") for way in ("padded", "pack")}
        times = measure(engines, work, args.rounds)
        for engine in engines:
            seconds, processor = times[engine.name + engine.batches]
            tokens = sum(map(sum, work[engine.batches]))
            label = kind if kind == "even" else f"mixed, {engine.batches}"
            figures = (f"{tokens / seconds:.0f}", f"{tokens / (processor / args.threads):.0f}")
            today = datetime.date.today().isoformat()
            rows.append((today, method, engine.name, label, args.threads, *figures, len(work[engine.batches])))
            sys.stdout.write(" | ".join(map(str, rows[-1][1:])) + "\n")
            sys.stdout.flush()
            engine.close()
    return rows


def main() -> None:
    """Run the engines, print and keep a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="full,lora")
    parser.add_argument("--engines", default="ours-bf16,ours-fp32,torch-bf16,torch-amp,torch-fp32")
    parser.add_argument("--sets", default="even,mixed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    sys.stdout.write(" | ".join(COLUMNS[1:]) + "\n")
    rows = [row for method in args.method.split(",") for row in rows_of(args, method)]
    keep("llm_training", COLUMNS, rows)


if __name__ == "__main__":
    main()
