"""Run the project's tests; every argument goes to pytest as it is."""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

PASSES_ON = True
ROOT = Path(__file__).parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""
    parser.usage = f"{parser.prog} [pytest arguments]     for example: {parser.prog} tests/kernels -x -q"


def run(args: argparse.Namespace) -> int:
    """pytest's own exit code; run from the repository root, so that relative paths mean the same everywhere."""
    if not (ROOT / "tests").is_dir():
        raise ValueError(f"{ROOT} has no tests; they come with a clone of the repository, not with the package")
    if importlib.util.find_spec("pytest") is None:
        raise ValueError("pytest is not installed; `python launch.py test` installs it, or: pip install -e '.[dev]'")
    return subprocess.call([sys.executable, "-m", "pytest", *args.rest], cwd=ROOT)
