"""The loop that all trainers share: accumulate, clip, step, average, log, sample, save, resume.

A run lives in a folder: state/ (to resume from), log.jsonl, loss.png, sheets/, cache/. A step is a function of the
weights and of its number alone (see `draws`), so a run that is closed, killed or crashed goes on from its last state
bit for bit as if it had not been interrupted.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import paddle
import PIL.Image
from paddle import Tensor

from ppdiffusers.training import checkpoint, rates
from ppdiffusers.training.event import Event, Note, Sample, Saved, TrainStep
from ppdiffusers.training.journal import Journal, sheet
from ppdiffusers.training.optimiser import AdamW, AdamWConfig, Average
from ppdiffusers.weights.write import replacing

# What may differ between a run and its continuation; all else would make it another run.
MAY_CHANGE = ("save_every", "sample_every", "keep")
MOST_LOST = 20  # steps in a row without a finite gradient before the run gives up


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast, how often. A step takes `accumulate` batches; `average` is the decay of averaged weights.

    save_every, sample_every: in steps, 0 for only at the end (never, for samples).
    """

    steps: int = 1000
    rate: float = 1e-4
    schedule: str = "cosine"
    warmup: int = 0
    accumulate: int = 1
    average: float = 0.0
    save_every: int = 500
    sample_every: int = 0
    keep: int = 2
    adamw: AdamWConfig = field(default_factory=AdamWConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.accumulate < 1:
            raise ValueError(f"a run needs at least 1 step of 1 batch, got {self.steps} of {self.accumulate}")
        if not 0 < self.rate < 10:
            raise ValueError(f"the learning rate must be above 0 (1e-4 is usual), got {self.rate}")
        if not 0 <= self.average < 1:
            raise ValueError(f"the decay of averaged weights must be in [0, 1), got {self.average}")
        rates.share(0, self.steps, self.schedule, self.warmup)


@dataclass(frozen=True, eq=False)
class Loss:
    """What a batch gives: the number to be made small, and what it is made of."""

    value: Tensor
    parts: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """What the loop drives."""

    name: str

    def about(self) -> dict[str, Any]:
        """What kind of run this is, in JSON's terms: a run is resumed only by a task that says the same."""
        ...

    def prepare(self, folder: Path) -> Iterator[Event]:
        """Everything that is done once: encoding pictures, freezing weights, making new ones."""
        ...

    def trainable(self) -> Mapping[str, Tensor]:
        """The parameters that move, by lasting names."""
        ...

    def factors(self) -> Mapping[str, float]:
        """Factors of the learning rate by the beginnings of names."""
        ...

    def loss(self, number: int) -> Loss:
        """The loss of batch `number`, counted from 0 over the whole run."""
        ...

    def samples(self) -> tuple[Sequence[PIL.Image.Image], Sequence[str]]:
        """Pictures of the model as it is now, each with a line of text."""
        ...

    def save(self, step: int) -> Path:
        """Write the result as it is now; gives where it is."""
        ...

    def close(self) -> None:
        """Leave the models as they were found, except for what was trained in place."""
        ...


@dataclass(eq=False)
class Run:
    """A run in progress."""

    task: Task
    config: LoopConfig
    folder: Path
    journal: Journal
    optimiser: AdamW
    average: Average | None
    step: int = 0
    saved: int = -1  # the step of the last state on the disk
    written: bool = False  # whether this process has written the result
    lost: int = 0

    @classmethod
    def start(cls, task: Task, config: LoopConfig, folder: Path) -> "Run":
        optimiser = AdamW(task.trainable(), config.adamw, task.factors())
        average = Average(optimiser, config.average) if config.average else None
        return cls(task, config, folder, Journal(folder / "log.jsonl"), optimiser, average)

    # --- stepping ---

    def advance(self) -> Iterator[Event]:
        """One step of the optimiser."""
        began, number = time.monotonic(), self.step + 1
        total, parts = 0.0, dict[str, float]()
        for i in range(self.config.accumulate):
            loss = self.task.loss(self.step * self.config.accumulate + i)
            loss.value.backward()
            share = 1.0 / self.config.accumulate
            self.optimiser.gather(share)
            total += float(loss.value) * share
            for name, value in loss.parts.items():
                parts[name] = parts.get(name, 0.0) + value * share
        c = self.config
        rate = c.rate * rates.share(self.step, c.steps, c.schedule, c.warmup)
        norm = self.optimiser.step(number, rate)
        self.step = number
        if not math.isfinite(norm) or not math.isfinite(total):
            yield self._lose()
        else:
            self.lost = 0
        if self.average is not None:
            self.average.update(number)
        event = TrainStep(number, c.steps, total, rate, norm, time.monotonic() - began, parts)
        self.journal.add({k: v for k, v in dataclasses.asdict(event).items() if k not in ("of", "parts")} | parts)
        yield event

    def _lose(self) -> Note:
        self.lost += 1
        if self.lost >= MOST_LOST:
            raise ValueError(
                f"{MOST_LOST} steps in a row had no finite gradient; lower the learning rate, train in float32, "
                "or look for a broken picture"
            )
        return Note(f"step {self.step} was left out: its gradient is not finite", warning=True)

    # --- looking and saving ---

    def shown(self) -> Any:
        """The weights that count: averaged ones where the run averages."""
        return nullcontext() if self.average is None else self.average.shown()

    def sample(self) -> Any:
        """Look at the model as it is now; gives the event that says what was seen."""
        with self.shown(), paddle.no_grad():
            images, captions = self.task.samples()
        path = self.folder / "sheets" / f"step-{self.step:06d}.png"
        with replacing(path) as file:
            sheet(images, captions).save(file, "PNG")
        return Sample(self.step, tuple(images), path)

    def save_state(self) -> Saved:
        tensors = self.optimiser.state() | ({} if self.average is None else self.average.state())
        state = checkpoint.State(self.step, tensors, {"run": self.about()})
        path = checkpoint.save(self.folder / "state", state, self.config.keep)
        self.journal.plot(self.folder / "loss.png", self.task.name)
        self.saved = self.step
        return Saved(self.step, path, "state")

    def save_result(self) -> Saved:
        with self.shown(), paddle.no_grad():
            path = self.task.save(self.step)
        self.written = True
        return Saved(self.step, path, "result", final=self.step == self.config.steps)

    # --- resuming ---

    def about(self) -> dict[str, Any]:
        """What makes this run this run."""
        loop = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in MAY_CHANGE}
        return {"task": self.task.name, **self.task.about(), **loop}

    def resume(self) -> Iterator[Event]:
        """Go back to the newest state, if there is one."""
        state = checkpoint.newest(self.folder / "state")
        if state is None:
            self.journal.cut(-1)
            return
        theirs, ours = state.about["run"], plain(self.about())
        if differ := sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)):
            told = "; ".join(f"{key} was {theirs.get(key)!r}, is now {ours.get(key)!r}" for key in differ[:3])
            raise ValueError(
                f"{self.folder} holds a run with other settings: {told}. Give the same ones to go on, or another "
                "folder to start anew"
            )
        self.optimiser.load(state.tensors)
        if self.average is not None:
            self.average.load(state.tensors)
        self.step = self.saved = state.step
        self.journal.cut(state.step)
        yield Note(f"going on from step {state.step}")


def train(task: Task, config: LoopConfig, folder: str | Path, kind: type[Run] = Run) -> Iterator[Event]:
    """Run a task to its end, or on from where it was stopped; yields what happens.

    Closing the generator stops it after the current step and saves state and result. Raises ValueError, with a
    sentence, for settings that can't work and for a folder that holds another run. `kind` says how a run is looked at.
    """
    folder = Path(folder)
    try:
        yield from task.prepare(folder)
        run = kind.start(task, config, folder)
        yield from run.resume()
        try:
            yield from _steps(run)
        except GeneratorExit:
            _keep(run)
            raise
    finally:
        task.close()


def _steps(run: Run) -> Iterator[Event]:
    config = run.config
    while run.step < config.steps:
        yield from run.advance()
        if config.sample_every and run.step % config.sample_every == 0:
            yield run.sample()
        if run.step == config.steps or (config.save_every and run.step % config.save_every == 0):
            yield run.save_state()
            yield run.save_result()
    if run.saved == config.steps and not run.written:  # it was already done when it was started
        yield run.save_result()


def _keep(run: Run) -> None:
    if run.step > 0 and run.saved != run.step:
        run.save_state()
        run.save_result()


def plain(value: Any) -> Any:
    """A value as it comes back from JSON: tuples as lists."""
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
