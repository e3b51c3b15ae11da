"""From a photograph to what a ControlNet reads. Each preprocessor is a function of a picture; none needs a model."""

from collections.abc import Callable

import cv2
import numpy as np
import PIL.Image

Preprocess = Callable[[PIL.Image.Image, float, float], PIL.Image.Image]


def _as_is(image: PIL.Image.Image, low: float, high: float) -> PIL.Image.Image:
    return image.convert("RGB")


def canny(image: PIL.Image.Image, low: float = 100, high: float = 200) -> PIL.Image.Image:
    """White edges on black (Canny 1986); the two numbers are hysteresis thresholds of 0 to 255."""
    edges = cv2.Canny(np.asarray(image.convert("RGB")), low, high)
    return PIL.Image.fromarray(edges).convert("RGB")


def luminance(image: PIL.Image.Image, low: float = 0, high: float = 255) -> PIL.Image.Image:
    """Brightness alone; darker than `low` is black, lighter than `high` white."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    spread = np.clip((grey - low) / max(high - low, 1), 0, 1) * 255
    return PIL.Image.fromarray(spread.round().astype(np.uint8)).convert("RGB")


def invert(image: PIL.Image.Image, low: float = 0, high: float = 255) -> PIL.Image.Image:
    """Drawings: black lines on white -> white on black, as the scribble and lineart nets read them."""
    return PIL.Image.fromarray(255 - np.asarray(image.convert("L"))).convert("RGB")


def blur(image: PIL.Image.Image, low: float = 0, high: float = 255) -> PIL.Image.Image:
    """What the tile nets read: the picture without its detail."""
    small = cv2.GaussianBlur(np.asarray(image.convert("RGB")), (0, 0), max(image.size) / 96)
    return PIL.Image.fromarray(small)


PREPROCESSORS: dict[str, Preprocess] = {
    "none": _as_is,
    "canny": canny,
    "luminance": luminance,
    "invert": invert,
    "blur": blur,
}
DEFAULTS = {"canny": (100.0, 200.0)}  # of low and high; others 0 and 255


def preprocess(
    name: str, image: PIL.Image.Image, low: float | None = None, high: float | None = None
) -> PIL.Image.Image:
    """The picture as the named preprocessor makes it. Raises ValueError for a name that there is not."""
    if name not in PREPROCESSORS:
        raise ValueError(f"there is no preprocessor {name!r}; there are {', '.join(PREPROCESSORS)}")
    usual = DEFAULTS.get(name, (0.0, 255.0))
    return PREPROCESSORS[name](image, usual[0] if low is None else low, usual[1] if high is None else high)
