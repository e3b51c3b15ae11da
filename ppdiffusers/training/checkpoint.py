"""States to resume from: one safetensors file a state, written whole or not at all, the last few kept."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from paddle import Tensor

from ppdiffusers.weights.dtype import BY_PADDLE, paddle_name, to_array
from ppdiffusers.weights.file import open_tensors
from ppdiffusers.weights.write import Entry, write_tensors

_NAME = re.compile(r"step-(\d+)\.safetensors")
_ABOUT = "mixstudio.training"


@dataclass(frozen=True, eq=False)
class State:
    """A run after `step` steps; `about` says what kind of run it is."""

    step: int
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]


def entry(tensor: Tensor, dtype: str | None = None) -> Entry:
    """A tensor to be written, cast when its turn comes."""
    kept = tensor if dtype is None else tensor.astype(cast(Any, dtype))
    return Entry(BY_PADDLE[paddle_name(kept.dtype)], tuple(kept.shape), lambda: to_array(kept)[0])


def save(folder: Path, state: State, keep: int = 2) -> Path:
    """Write a state and drop the oldest ones beyond `keep`."""
    path = folder / f"step-{state.step:06d}.safetensors"
    entries = {name: entry(tensor) for name, tensor in state.tensors.items()}
    write_tensors(path, entries, {_ABOUT: json.dumps({"step": state.step, **state.about})})
    for old in states(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def states(folder: Path) -> list[Path]:
    """The states in a folder, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest(folder: Path) -> State | None:
    """The last state, or None. Raises ValueError where the file is damaged or something else."""
    paths = states(folder)
    if not paths:
        return None
    with open_tensors(paths[-1]) as file:
        if _ABOUT not in file.metadata:
            raise ValueError(f"{paths[-1].name} is not a training state; move it away to start anew")
        about = json.loads(file.metadata[_ABOUT])
        tensors = {key: file.read(key) for key in file.shapes}
    return State(int(about.pop("step")), tensors, about)
