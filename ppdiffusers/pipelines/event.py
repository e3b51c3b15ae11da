"""What a running generation says: a stream of these values, ended by one `Image` a picture."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
from paddle import Tensor


@dataclass(frozen=True)
class Note:
    """A sentence for the person who waits; `warning` marks what they should act on (an unknown LoRA, a cut prompt)."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Progress:
    """`step` of `of` units of work are done; the units cover the whole request, hires pass and decoding included."""

    step: int
    of: int
    note: str = ""


@dataclass(frozen=True)
class Preview:
    """A small, rough view of the pictures as they are now, one a picture of the batch."""

    step: int
    images: tuple[PIL.Image.Image, ...]


@dataclass(frozen=True)
class Image:
    """A finished picture with the text that reproduces it (WebUI's infotext)."""

    image: PIL.Image.Image
    index: int
    seed: int
    infotext: str
    array: np.ndarray | None = None  # (Y, X, 3) float32 in [0, 1], where the request asks for it


@dataclass(frozen=True, eq=False)
class Latents:
    """The result before decoding (B, C, Y, X), scaled; instead of pictures where the request asks for it."""

    latents: Tensor
    indices: tuple[int, ...]


Event = Note | Progress | Preview | Image | Latents
