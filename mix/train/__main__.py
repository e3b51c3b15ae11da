"""`python -m mix.train CONFIG.json [--set path.to.setting=value ...]`: train, one line of JSON an event on stdout.

SIGTERM and Ctrl-C stop after the current step and save; the same call goes on from there. Exit code 0 when the run is
done, 130 when it was stopped, 1 with a sentence on stderr when it can't work.
"""

import argparse
import json
import os
import signal
import sys
from contextlib import closing
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")  # MKL takes its slow path on AMD unless told otherwise


def changes_of(words: list[str]) -> dict[str, Any]:
    """["data.tokens=4096", ...] as nested objects; values are JSON, or text where they are none."""
    found: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, not {word!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *above, name = path.split(".")
        at = found
        for step in above:
            at = at.setdefault(step, {})
        at[name] = value
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mix.train", description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args(argv)
    from mix.train.config import TrainConfig
    from mix.train.loop import run
    from mix.train.telling import told

    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda caught, frame: stopped.append(caught))
    try:
        with closing(run(TrainConfig.from_file(args.config, **changes_of(args.set)))) as events:  # type: ignore[type-var]
            for event in events:
                sys.stdout.write(json.dumps(told(event)) + "\n")
                sys.stdout.flush()
                if stopped:
                    break
    except ValueError as why:
        sys.stderr.write(f"{why}\n")
        return 1
    return 130 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
