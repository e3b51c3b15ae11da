"""Run the project's tests; every argument goes to pytest as it is.

The whole suite runs in several processes (pytest-xdist) that share the cores; a named file or folder in one.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PASSES_ON = True
ROOT = Path(__file__).parents[2]
PROCESSES = 4  # at most: each of them holds Paddle and small models, about 2 GB
ALONE = ("-n", "--numprocesses", "--pdb", "--co", "--collect-only", "-p")  # the user has decided, or wants to look


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""
    parser.usage = f"{parser.prog} [pytest arguments]     for example: {parser.prog} tests/kernels -x -q"


def run(args: argparse.Namespace) -> int:
    """pytest's own exit code; run from the repository root, so that relative paths mean the same everywhere."""
    if not (ROOT / "tests").is_dir():
        raise ValueError(f"{ROOT} has no tests; they come with a clone of the repository, not with the package")
    if importlib.util.find_spec("pytest") is None:
        raise ValueError("pytest is not installed; `python launch.py test` installs it, or: pip install -e '.[dev]'")
    cores = os.cpu_count() or 1
    processes = min(cores, PROCESSES) if importlib.util.find_spec("xdist") and whole(args.rest) else 1
    command, given = [sys.executable, "-m", "pytest", *args.rest], dict(os.environ)
    if processes > 1:
        command += ["-n", str(processes), "--dist", "loadgroup"]
        given.setdefault("MIXSTUDIO_THREADS", str(cores // processes))
    return subprocess.call(command, cwd=ROOT, env=given)


def whole(rest: Sequence[str]) -> bool:
    """Whether these arguments of pytest leave the whole suite to run, in whatever way suits."""
    named = any((ROOT / word.partition("::")[0]).exists() for word in rest if not word.startswith("-"))
    return not named and not any(word == told or word.startswith(f"{told}=") for word in rest for told in ALONE)
