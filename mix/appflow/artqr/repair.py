"""The last step: change as little of a finished picture as makes it scan.

Only luminance moves, and only in modules that are on the wrong side of the border between dark and light or too near
to it; each gets just as much as it lacks, in the shape of a module with soft edges. Hue, texture and everything that
happens to be right already stay as they are. The border itself follows the picture: in a bright sky a dark module need
not be black, only darker than the sky by the margin.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from mix.appflow.artqr.draw import Layout, Shape, dots, ink
from mix.appflow.artqr.eyes import weakest
from mix.appflow.artqr.matrix import ALIGNMENT, DATA, FINDER, FORMAT, TIMING, VERSION, Code
from mix.appflow.artqr.tone import luma, to_luma

CENTRE, WHOLE = 0.16, 0.38  # deviations of the Gaussians that judge a module's middle and all of it, in modules
# Readers look for these first and nothing corrects them: they get a larger margin than data.
STEP = 0.14  # luminance a round for a module whose share is wrong by 1
EXTRA = {DATA: 0.0, TIMING: 0.03, ALIGNMENT: 0.06, FORMAT: 0.05, VERSION: 0.02, FINDER: 0.2}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How much a module must differ from the border, in parts of full scale, and how it is drawn."""

    margin: float = 0.16  # of a module's middle
    body: float = 0.06  # of its whole area
    follow: float = 0.5  # how far the border follows the picture's local brightness
    texture: float = 0.5  # how much of what crosses the border inside a module is left
    shape: Shape = "rounded"
    quiet: float = 0.06  # how much lighter the quiet zone is than the code beside it is on average
    share: float = 0.25  # how far a module's light share is from the code's mean, as readers with local means count
    paper: float = 0.8  # the least luminance of the quiet zone
    rounds: int = 9

    def stronger(self, by: float = 0.04) -> "Look":
        """The next try, where this one did not scan."""
        return replace(
            self,
            margin=min(self.margin + by, 0.45),
            body=min(self.body + by, 0.35),
            follow=self.follow * 0.85,
            quiet=min(self.quiet + by, 0.4),
            share=min(self.share + by / 2, 0.4),
            rounds=min(self.rounds + 3, 18),
        )


def border(light: np.ndarray, layout: Layout, follow: float) -> np.ndarray:
    """(n, n) luminance that separates dark from light around each module."""
    local = layout.sample(light, 2.5)
    return (1 - follow) * middle(layout.sample(light, 0.3)) + follow * np.clip(local, 0.12, 0.88)


def middle(values: np.ndarray) -> float:
    """One luminance that separates dark from light modules best (Otsu 1979), kept off the ends of the scale."""
    found, _ = cv2.threshold(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
    return float(np.clip((found + 0.5) / 255, 0.3, 0.7))


def repaired(rgb: np.ndarray, code: Code, layout: Layout, look: Look) -> np.ndarray:
    """The picture (Y, X, 3) with every module beyond the border by the look's margin, as readers see it.

    A few rounds: neighbours overlap, values clip, and what readers compare with moves along. Dark modules among dark
    ones get a dent, darker in the middle than around, because readers with narrow windows take an even region as light.
    """
    light = luma(rgb)
    edge = border(light, layout, look.follow)
    sign = np.where(code.modules, -1.0, 1.0).astype(np.float32)
    extra = np.vectorize(EXTRA.get)(code.grid.kinds).astype(np.float32)
    single = code.grid.kinds != FINDER  # those are drawn whole
    amount, dent = np.zeros_like(sign), np.zeros_like(sign)
    stencil, disc = _stencil(layout, look.shape), _stencil(layout, "dot")
    now = _dressed(light, code, layout, edge, look)
    for number in range(look.rounds):
        lacks = np.maximum(
            look.margin + extra - sign * (layout.sample(now, CENTRE) - edge),
            look.body + extra - sign * (layout.sample(now, WHOLE) - edge),
        )
        blurry = np.maximum(look.share - weakest(now, layout, sign), 0) * single
        lacks = np.where(single, lacks, -1)
        if lacks.max() < 0.01 and blurry.max() < 0.05:
            break
        easy = (lacks < -0.05) & (blurry == 0) & (number < look.rounds / 2)  # neighbours have helped: take some back
        amount = np.where(easy, 0.85 * amount, amount + np.maximum(lacks, 0))
        amount = np.minimum(amount + np.where(sign > 0, STEP, STEP / 2) * blurry, 1.2)
        dent = np.minimum(dent + np.where(sign < 0, STEP, 0) * blurry, 0.2)
        dots_in, around = disc(dent), layout.spread(dent)
        now = np.maximum(light + stencil(amount * sign), around - dots_in) - dots_in
        now = _dressed(now, code, layout, edge, look)
    return to_luma(rgb, now)


def _dressed(light: np.ndarray, code: Code, layout: Layout, edge: np.ndarray, look: Look) -> np.ndarray:
    """Luminance with what does not depend on single modules: calm texture, finder patterns, quiet zone."""
    now = _calmer(np.clip(light, 0, 1), code, layout, edge, look)
    return _quiet(_finders(now, code, layout, edge, look), layout, edge, look)


def _stencil(layout: Layout, shape: Shape) -> Callable[[np.ndarray], np.ndarray]:
    """A function (n, n) -> (Y, X): corrections in the shape of modules, with soft edges."""
    disc = cv2.GaussianBlur(dots(layout), (0, 0), max(0.07 * layout.module, 0.3)) if shape == "dot" else None
    soft = {"square": 0.07, "rounded": 0.2, "dot": 0.0}[shape]

    def spread(amount: np.ndarray) -> np.ndarray:
        field = layout.spread(amount, None)
        if disc is None:
            field = cv2.GaussianBlur(field, (0, 0), max(soft * layout.module, 0.3))
        else:
            field *= disc
        return field * layout.inside

    return spread


def _calmer(light: np.ndarray, code: Code, layout: Layout, edge: np.ndarray, look: Look) -> np.ndarray:
    """Luminance whose texture does not cross the border inside a module: readers would count it as other modules."""
    sign = cv2.GaussianBlur(layout.spread(np.where(code.modules, -1.0, 1.0)), (0, 0), 0.12 * layout.module)
    level = cv2.GaussianBlur(layout.spread(edge, 0.5), (0, 0), 0.5 * layout.module)
    over = np.maximum(-(light - level) * np.sign(sign), 0) * np.abs(sign)  # how far on the wrong side
    return light + (1 - look.texture) * over * np.sign(sign)


def _finders(light: np.ndarray, code: Code, layout: Layout, edge: np.ndarray, look: Look) -> np.ndarray:
    """The three corners, exact everywhere: no reader finds a code without them."""
    kinds = code.grid.kinds
    dark = ink(code, layout, "square" if look.shape == "square" else "rounded")
    dark = cv2.GaussianBlur(dark, (0, 0), max(0.05 * layout.module, 0.3))
    here = layout.spread((kinds == FINDER).astype(np.float32))
    level = layout.spread(edge, 0.5)
    gap = look.margin + EXTRA[FINDER]
    low, high = np.clip(level - gap, 0.02, 1), np.clip(level + gap, 0, 0.98)
    darker = np.minimum(light, low * (0.75 + 0.25 * light))
    lighter = 1 - np.minimum(1 - light, (1 - high) * (0.75 + 0.25 * (1 - light)))
    return np.where(here > 0, lighter * (1 - dark) + darker * dark, light)


def _quiet(light: np.ndarray, layout: Layout, edge: np.ndarray, look: Look) -> np.ndarray:
    """The zone around the code: even, and at least as light as its light modules; it fades into what lies beyond.

    Even, because specks in it grow together with the finder patterns in readers that follow outlines.
    """
    if layout.quiet <= 0:
        return light
    away = layout.distance
    share = (away > 0).astype(np.float32)  # at once: a dark line between would tie the finder patterns together
    if layout.left - layout.quiet * layout.module >= 1:  # else it ends with the picture: nothing to fade into
        share *= np.clip((layout.quiet - away) / max(0.35 * layout.quiet, 0.2), 0, 1)
    inside = layout.inside.astype(np.float32)
    near, weight = (_blurred(values, 1.5 * layout.module) for values in (light * inside, inside))
    even = _blurred(light, 1.2 * layout.module)
    even = even + 0.15 * np.clip(light - even, -0.2, 0.2)
    least = np.clip(near / np.maximum(weight, 1e-3) + look.quiet, look.paper, 0.97)
    return light * (1 - share) + np.maximum(even, least) * share


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """A wide Gaussian blur, at an eighth of the size where that shows no difference."""
    step = int(min(8, max(1, sigma // 2)))
    size = (values.shape[1], values.shape[0])
    small = cv2.resize(values, (max(1, size[0] // step), max(1, size[1] // step)), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / step, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(blurred, size, interpolation=cv2.INTER_LINEAR)
