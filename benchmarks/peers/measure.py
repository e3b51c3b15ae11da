"""Timing shared by all engines: one warm-up, then runs; peak memory of the process as Linux tells it."""

import json
import sys
import time
from collections.abc import Callable

import numpy as np


def peak_mb() -> float:
    """The largest resident size so far, in MB."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def report(step: Callable[[], np.ndarray], runs: int) -> None:
    """Time `step`, keep its output in output.npy and print one line of JSON."""
    output = step()
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    np.save("output.npy", output.astype(np.float32))
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}) + "\n")
