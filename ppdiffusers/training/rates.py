"""Learning rates over a run, as a share of the peak."""

import math

SCHEDULES = ("constant", "linear", "cosine")


def share(step: int, steps: int, schedule: str = "constant", warmup: int = 0, final: float = 0.0) -> float:
    """The share of the peak rate at step 0 .. steps - 1: up a line for `warmup` steps, then flat or down to `final`."""
    if schedule not in SCHEDULES:
        raise ValueError(f"no learning-rate schedule is called {schedule!r}; there are {', '.join(SCHEDULES)}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    left = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))}[schedule]
    return left if schedule == "constant" else final + (1.0 - final) * max(left, 0.0)
