"""Training language models: fine-tuning on conversations and pretraining on text, whole models or adapters.

`run(TrainConfig(...))` is a generator of events; closing it stops after the current step and saves, starting again goes
on bit for bit. `python -m mix.train config.json` prints the events as JSON, one a line.
"""

from importlib import import_module
from typing import Any

PUBLIC = {
    "Evaluated": "mix.train.loop",
    "TrainConfig": "mix.train.config",
    "run": "mix.train.loop",
}
__all__ = sorted(PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"mix.train has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
