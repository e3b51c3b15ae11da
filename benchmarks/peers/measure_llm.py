"""What the engines of benchmarks/llm.py share: the same token ids, one way to time, what memory gives."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from measure import peak_mb

BEGINNING, NEW, PROMPT = 32, 128, 512


def resident_mb() -> float:
    """The resident size now, in MB."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


class Loading:
    """Seconds and memory that making a model takes."""

    def __init__(self) -> None:
        self.begin, self.before = time.perf_counter(), resident_mb()

    def done(self) -> dict[str, float]:
        return {"load_seconds": time.perf_counter() - self.begin, "load_mb": resident_mb() - self.before}


def ids(count: int, vocabulary: int) -> list[int]:
    """Token ids without meaning, the same for every engine."""
    return np.random.default_rng(0).integers(3, vocabulary, count).tolist()


def memory_gb_s(threads: int) -> float:
    """Best of plain reading, a maximum over 256 MiB by so many threads."""
    parts = np.split(np.ones(256 << 19, np.int16), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(12):
            begin = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, (256 << 20) / (time.perf_counter() - begin) / 1e9)
    return best


def report(
    tokens: Callable[[], Iterator[object]],
    prompt: Callable[[], object],
    about: dict[str, float],
    options: tuple[int, int],
) -> None:
    """Time NEW tokens after the first of `tokens()`, and `prompt()`; print one line of JSON.

    `about` has the loading's figures and `bytes`, the weights that a token reads; `options` are (runs, threads).
    """
    runs, threads = options
    decode, prefill = [], []
    for i in range(runs + 1):
        begin = time.perf_counter()
        prompt()
        middle = time.perf_counter()
        steps = tokens()
        next(steps)
        first = time.perf_counter()
        for _ in range(NEW):
            next(steps)
        end = time.perf_counter()
        if i:  # the first round warms up
            prefill.append(PROMPT / (middle - begin))
            decode.append(NEW / (end - first))
    peak = peak_mb()
    told = {
        "decode": statistics.median(decode),
        "decode_best": max(decode),
        "prefill": statistics.median(prefill),
        "prefill_best": max(prefill),
        "peak_mb": peak,
        "gb_s": about["bytes"] * statistics.median(decode) / 1e9,
        "memory_gb_s": memory_gb_s(threads),
    }
    sys.stdout.write(json.dumps(told | about) + "\n")
