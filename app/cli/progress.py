"""A progress bar on stderr: redrawn in a terminal, a line now and then in a log, nothing when asked to be quiet."""

import sys
import time
from collections.abc import Generator
from types import TracebackType
from typing import Any, TypeVar

WIDTH = 28
R = TypeVar("R")


class Bar:
    """Shows step of total with the time it took and an estimate of what is left; notes scroll above it."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = sys.stderr.isatty()
        self.began = time.monotonic()
        self._note, self._said = "", 0.0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, step: int, of: int, note: str = "") -> None:
        """Redraw; a new kind of work (loading, denoising) starts the clock anew."""
        if self.quiet:
            return
        now = time.monotonic()
        if step <= 1:
            self.began = now
        if not self.live:
            self._log(step, of, note, now)
            return
        part = step / max(of, 1)
        left = (now - self.began) * (1 - part) / part if step > 1 else 0.0
        bar = "#" * round(WIDTH * part)
        sys.stderr.write(
            f"\r\033[K{note:<20} [{bar:<{WIDTH}}] {step}/{of}" + (f"  {left:.0f} s left" if left >= 1 else "")
        )
        sys.stderr.flush()

    def _log(self, step: int, of: int, note: str, now: float) -> None:
        if note != self._note or step == of or now - self._said > 10:
            sys.stderr.write(f"{note}: {step}/{of}\n")
            self._note, self._said = note, now

    def follow(self, work: Generator[Any, None, R]) -> R:
        """Show the progress of `work` to its end; what it returns."""
        while True:
            try:
                event = next(work)
            except StopIteration as finished:
                return finished.value
            self.show(event.step, event.of, event.note)

    def note(self, text: str, warning: bool = False) -> None:
        """A sentence of its own."""
        if not self.quiet:
            self.clear()
            sys.stderr.write(f"{'warning: ' if warning else ''}{text}\n")

    def clear(self) -> None:
        """Take the bar away, so that something else can be printed."""
        if self.live and not self.quiet:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
