"""Running an engine in a process of its own, and keeping a table's rows: shared by the benchmarks beside peers."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def environment(threads: int) -> dict[str, str]:
    """The threads for every runtime; peers must not see our packages."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return env | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def run(engine: str, what: str, folder: Path, words: Sequence[object], threads: int) -> dict[str, Any]:
    """`peers/<name>_<what>.py FOLDER DTYPE words...` for the engine "<name>-<dtype>"; the figures that it prints."""
    name, _, dtype = engine.partition("-")
    env = environment(threads)
    python = sys.executable if name == "ours" else os.environ["MIXSTUDIO_REFERENCE_PYTHON"]
    if name == "ours":
        env["PYTHONPATH"] = str(HERE.parent)
    command = [python, str(HERE / "peers" / f"{name}_{what}.py"), str(folder), dtype, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"{engine} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def keep(name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Append rows to data/<name>.csv."""
    path = HERE / "data" / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([columns, *rows] if fresh else rows)
