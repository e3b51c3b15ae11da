"""Composites: which part of the canvas is which photo's at a balance, and the joint that nobody sees.

A field says how early each place becomes B's; the mask at a balance is the field cut at that level, so masks only grow.
Y X height and width; fields and masks (Y, X) float32 in [0, 1].
"""

import math

import cv2
import numpy as np
import PIL.Image

from mix.appflow.blend.bands import masked
from mix.appflow.blend.request import BlendRequest
from mix.appflow.blend.salience import guided, ranks
from ppdiffusers.pipelines import pixels

YIELD = 0.25  # how much a straight seam gives way to what catches the eye
REACH = 0.2  # of the longer side: how far colours run over a seam


def field(request: BlendRequest, a: np.ndarray, contest: np.ndarray) -> np.ndarray:
    """How early each place becomes B's, from 1 (first) to 0 (last)."""
    height, width = a.shape[:2]
    grey = cv2.cvtColor(a, cv2.COLOR_RGB2GRAY)
    match request.shape:
        case "subject":
            return ranks(guided(contest, grey, max(4, max(a.shape) // 40), 1e-3))
        case "shadows":
            dark = 1 - guided(grey, grey, max(2, max(a.shape) // 100), 1e-2)
            return (0.6 * ranks(dark) + 0.4 * dark).clip(0, 1)
        case "mask" if request.mask is not None:
            return _grown(pixels.load_mask(request.mask, (width, height)))
        case straight:
            return ranks((1 - YIELD) * _straight(straight, width, height) + YIELD * (contest + 1) / 2)


def _straight(shape: str, width: int, height: int) -> np.ndarray:
    """A field that rises evenly over the canvas."""
    y, x = np.linspace(0, 1, height, dtype=np.float32)[:, None], np.linspace(0, 1, width, dtype=np.float32)[None]
    match shape:
        case "left-right":
            return x + 0 * y
        case "top-bottom":
            return y + 0 * x
        case "diagonal":
            return (x + y) / 2
        case _:
            return 1 - np.hypot((x - 0.5) * width, (y - 0.5) * height) / (0.5 * math.hypot(width, height))


def _grown(mask: PIL.Image.Image) -> np.ndarray:
    """A field whose cut at balance 0.5 is the mask as drawn; before, it shrinks, and after, it grows."""
    inside = (np.asarray(mask) > 127).astype(np.uint8)
    if not inside.any() or inside.all():
        raise ValueError("the mask is all black or all white: paint white where the second photo shall be")
    deep, far = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (inside, 1 - inside))
    return np.where(inside > 0, 0.5 + 0.5 * deep / deep.max(), 0.5 - 0.5 * far / far.max()).astype(np.float32)


def cut(places: np.ndarray, balance: float, softness: float) -> np.ndarray:
    """B's mask at a balance: everything A's at 0, everything B's at 1; its border is `softness` of the field wide."""
    soft = max(softness, 0.02)
    ramp = ((balance * (1 + soft) - (1 - places)) / soft).clip(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def composite(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Both photos under the mask: bands joined with fitting softness, then the gradients of both, so that no colour
    jumps. Exactly A under a black mask and B under a white one."""
    target = masked(a, b, mask)
    steps = [_forward(p) for p in (a, b)]
    gradients = [one + (other - one) * mask[..., None] for one, other in zip(*steps, strict=True)]
    return np.stack([_solved(target[..., i], *(g[..., i] for g in gradients)) for i in range(3)], axis=2)


def _forward(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences to the right and to the neighbour below; 0 at the border."""
    right, below = np.zeros_like(picture), np.zeros_like(picture)
    right[:, :-1] = picture[:, 1:] - picture[:, :-1]
    below[:-1] = picture[1:] - picture[:-1]
    return right, below


def _solved(target: np.ndarray, right: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The picture that has these gradients as nearly as possible while staying near the target: screened Poisson
    equation with free borders, solved by the cosine transform (Bhat et al. 2008)."""
    height, width = target.shape
    divergence = right.copy()
    divergence[:, 1:] -= right[:, :-1]
    divergence += below
    divergence[1:] -= below[:-1]
    near = (1 / (REACH * max(height, width))) ** 2
    y, x = (2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in (height, width))
    spectrum = cv2.dct((near * target - divergence).astype(np.float64)) / (near + y[:, None] + x[None])
    return cv2.idct(spectrum).astype(np.float32)


def zone(mask: np.ndarray) -> np.ndarray:
    """Where the joint is, to be painted anew: 1 along the border of the mask, fading out to both sides."""
    border = (4 * mask * (1 - mask)).astype(np.float32)
    reach = max(3, max(mask.shape) // 48)
    wide = cv2.dilate(border, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2))
    return cv2.GaussianBlur(wide, (0, 0), reach / 2).clip(0, 1)
