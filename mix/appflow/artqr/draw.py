"""Where a code lies in a picture, and the pictures of it that generators want: plain, soft, and for ControlNets.

Y X height and width of the picture, n modules a side. Module coordinates (u right, v down) run from 0 to n over the
code; whole numbers are edges between modules.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
import PIL.Image

from mix.appflow.artqr.matrix import FINDER, Code

Shape = Literal["square", "rounded", "dot"]
SHAPES: tuple[Shape, ...] = ("square", "rounded", "dot")
Surround = Literal["white", "grey", "noise"]


@dataclass(frozen=True)
class Layout:
    """A code of n modules with its top left corner at (left, top), `module` pixels a module, `quiet` modules around."""

    width: int
    height: int
    n: int
    left: float
    top: float
    module: float
    quiet: float

    @classmethod
    def fit(
        cls,
        size: tuple[int, int],
        n: int,
        quiet: float = 2.0,
        *,
        scale: float = 1.0,
        place: tuple[float, float] = (0.5, 0.5),
    ) -> "Layout":
        """Code and quiet zone on the part `scale` of the shorter side; `place` shifts it, 0 left or top, 1 right or
        bottom.
        """
        if not 0.2 <= scale <= 1:
            raise ValueError(f"the code takes between 0.2 and 1 of the picture's shorter side, got {scale}")
        if not 0 <= quiet <= 8:
            raise ValueError(f"the quiet zone has 0 to 8 modules, got {quiet}")
        if not all(0 <= at <= 1 for at in place):
            raise ValueError(f"the code's place runs from 0 to 1 on both axes, got {place}")
        width, height = size
        side = scale * min(size)
        module = side / (n + 2 * quiet)
        left, top = ((whole - side) * at + quiet * module for whole, at in zip(size, place, strict=True))
        return cls(width, height, n, left, top, module, quiet)

    def at(self, width: int, height: int) -> "Layout":
        """The same layout in a picture of another size (of the same shape)."""
        k = width / self.width
        return Layout(width, height, self.n, self.left * k, self.top * k, self.module * k, self.quiet)

    @cached_property
    def u(self) -> np.ndarray:
        """(X,) module coordinate of each pixel's centre."""
        return ((np.arange(self.width) + 0.5 - self.left) / self.module).astype(np.float32)

    @cached_property
    def v(self) -> np.ndarray:
        """(Y,) module coordinate of each pixel's centre."""
        return ((np.arange(self.height) + 0.5 - self.top) / self.module).astype(np.float32)

    @cached_property
    def inside(self) -> np.ndarray:
        """(Y, X) bool: the code's pixels."""
        return ((self.v >= 0) & (self.v < self.n))[:, None] & ((self.u >= 0) & (self.u < self.n))[None]

    def spread(self, values: np.ndarray, outside: float | None = 0.0) -> np.ndarray:
        """(n, n) -> (Y, X): each module's value on its pixels; beyond the code `outside`, None continues the edges."""
        rows = np.clip(np.floor(self.v).astype(int), 0, self.n - 1)
        columns = np.clip(np.floor(self.u).astype(int), 0, self.n - 1)
        full = values.astype(np.float32)[rows][:, columns]
        return full if outside is None else np.where(self.inside, full, np.float32(outside))

    def sample(self, image: np.ndarray, sigma: float) -> np.ndarray:
        """(Y, X) -> (n, n): the Gaussian mean around each module's centre, `sigma` in modules."""
        blurred = cv2.GaussianBlur(image, (0, 0), max(sigma * self.module, 0.3), borderType=cv2.BORDER_REPLICATE)
        at = (np.arange(self.n, dtype=np.float32) + 0.5) * self.module - 0.5
        columns, rows = np.meshgrid(at + self.left, at + self.top)
        return cv2.remap(blurred, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR)

    @cached_property
    def distance(self) -> np.ndarray:
        """(Y, X): modules from the code's edge, 0 inside."""
        du = np.maximum(np.maximum(-self.u, self.u - self.n), 0)[None]
        dv = np.maximum(np.maximum(-self.v, self.v - self.n), 0)[:, None]
        return np.maximum(du, dv)


def ink(code: Code, layout: Layout, shape: Shape = "square") -> np.ndarray:
    """(Y, X) in [0, 1]: 1 where the code is dark. Finder patterns are whole; other modules have the shape."""
    dark = layout.spread(code.modules.astype(np.float32))
    if shape == "square":
        return dark
    if shape == "rounded":
        return rounded(dark, layout.module)
    if shape != "dot":
        raise ValueError(f"modules are {', '.join(SHAPES)}, not {shape!r}")
    finder = layout.spread((code.grid.kinds == FINDER).astype(np.float32))
    return np.where(finder > 0, rounded(dark, layout.module), dark * dots(layout))


def rounded(dark: np.ndarray, module: float) -> np.ndarray:
    """Corners rounded off, inner and outer alike, by a blur and a steep edge."""
    blurred = cv2.GaussianBlur(dark, (0, 0), 0.22 * module)
    return np.clip((blurred - 0.5) * max(module * 0.55, 1) + 0.5, 0, 1)


def dots(layout: Layout, radius: float = 0.44) -> np.ndarray:
    """(Y, X): a soft-edged disc in each module."""
    du, dv = layout.u - np.floor(layout.u) - 0.5, layout.v - np.floor(layout.v) - 0.5
    away = np.hypot(du[None], dv[:, None])
    return np.clip((radius - away) * layout.module + 0.5, 0, 1)


def picture(
    code: Code, layout: Layout, shape: Shape = "square", surround: Surround = "white", seed: int = 0
) -> PIL.Image.Image:
    """The plain code as a picture; beyond the quiet zone lies white, middle grey or noise."""
    light = 1 - ink(code, layout, shape)
    beyond = layout.distance > layout.quiet
    if surround == "grey":
        light[beyond] = 0.5
    elif surround == "noise":
        noise = np.random.default_rng(seed).random((layout.height, layout.width)).astype(np.float32)
        light[beyond] = cv2.GaussianBlur(noise, (0, 0), max(layout.module / 3, 0.5))[beyond]
    elif surround != "white":
        raise ValueError(f"around the code is white, grey or noise, not {surround!r}")
    return PIL.Image.fromarray(np.rint(light * 255).astype(np.uint8), "L").convert("RGB")


def control(code: Code, layout: Layout, shape: Shape = "square") -> PIL.Image.Image:
    """The picture for a ControlNet: dark and light modules, and middle grey, "as you like", beyond the quiet zone."""
    return picture(code, layout, shape, "grey")
