"""What a training run says; `Note` and `Progress` (preparing, caching) are those of generation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image

from ppdiffusers.pipelines.event import Note, Progress


@dataclass(frozen=True)
class TrainStep:
    """One step of the optimiser is done; `loss` is the mean over its batches, `norm` that of the gradient."""

    step: int
    of: int
    loss: float
    rate: float
    norm: float
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)  # what the loss is made of, where it has parts


@dataclass(frozen=True)
class Sample:
    """Pictures of the model as it is now, and the sheet that shows them."""

    step: int
    images: tuple[PIL.Image.Image, ...]
    path: Path


@dataclass(frozen=True)
class Saved:
    """Something was written: a state to resume from, or the result (so far, where it is not final)."""

    step: int
    path: Path
    kind: str  # "state" or "result"
    final: bool = False


Event = Note | Progress | TrainStep | Sample | Saved
__all__ = ["Event", "Note", "Progress", "Sample", "Saved", "TrainStep"]
