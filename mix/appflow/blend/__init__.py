"""Two photos made one: `Blend(bundle).stream(BlendRequest(a=..., b=..., balance=0.5))`.

Names are imported when they are first used.
"""

from importlib import import_module
from typing import Any

PUBLIC = {
    "ALIGNMENTS": "mix.appflow.blend.request",
    "METHODS": "mix.appflow.blend.request",
    "SHAPES": "mix.appflow.blend.request",
    "Blend": "mix.appflow.blend.run",
    "Blended": "mix.appflow.blend.run",
    "BlendRequest": "mix.appflow.blend.request",
    "Guide": "mix.appflow.blend.request",
    "balances": "mix.appflow.blend.request",
    "check_photo": "mix.appflow.blend.request",
}
__all__ = sorted(PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"mix.appflow.blend has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
