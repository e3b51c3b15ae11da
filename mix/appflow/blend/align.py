"""Two photos of any size and orientation onto one canvas: the shape between theirs, cut around what catches the eye.

Pictures leave here as (Y, X, 3) float32 arrays in [0, 1].
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import PIL.Image

from mix.appflow.blend.request import BlendRequest
from mix.appflow.blend.salience import best_window, salience
from ppdiffusers.pipelines import pixels

LEAST_MATCHES = 18  # agreeing points of interest that two photos of the same thing have
WIDEST = 2.2  # a canvas is at most so much longer than wide


@dataclass(frozen=True, eq=False)
class Pair:
    """Both photos at the result's size, and a sentence for each thing that was done and matters."""

    a: np.ndarray  # (Y, X, 3)
    b: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.a.shape[1], self.a.shape[0]


def align(request: BlendRequest) -> Pair:
    """Upright, over white where transparent, at one size."""
    a, b = pixels.load_image(request.a), pixels.load_image(request.b)
    size = canvas_size(request, a.size, b.size)
    notes = []
    first = _fitted(a, size, request)
    if request.match:
        moved = matched(first, b)
        if moved is not None:
            return Pair(first, moved, ("the photos show the same thing; the second was moved onto the first",))
        notes.append("the photos do not seem to show the same thing, so they were not matched")
    if min(*a.size, *b.size) < min(size) // 2:
        notes.append("one of the photos is much smaller than the result and will look soft")
    return Pair(first, _fitted(b, size, request), tuple(notes))


def canvas_size(request: BlendRequest, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """The result's (width, height): as asked for, or the shape between those of the photos, whichever comes first."""
    if request.width and request.height:
        return request.width, request.height
    between = math.sqrt(a[0] / a[1] * b[0] / b[1])
    between = min(max(between, 1 / WIDEST), WIDEST)
    longer = min(request.size, max(*a, *b, 256))
    width, height = (longer, longer / between) if between >= 1 else (longer * between, longer)
    return max(128, round(width / 8) * 8), max(128, round(height / 8) * 8)


def _fitted(photo: PIL.Image.Image, size: tuple[int, int], request: BlendRequest) -> np.ndarray:
    if request.align == "crop" and request.focus:
        photo = photo.crop(focus_box(photo, size))
    return to_array(pixels.fit(photo, size, request.align))


def focus_box(photo: PIL.Image.Image, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest box of the shape of `size` (left, top, right, bottom) that holds most of what catches the eye."""
    width, height = photo.size
    scale = min(width / size[0], height / size[1])
    box = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    if box == photo.size:
        return 0, 0, width, height
    shrink = min(1.0, 256 / max(photo.size))
    small = photo.resize((max(8, round(width * shrink)), max(8, round(height * shrink))), PIL.Image.Resampling.BOX)
    ratio = small.width / width, small.height / height
    window = max(1, round(box[0] * ratio[0])), max(1, round(box[1] * ratio[1]))
    left, top = best_window(salience(to_array(small)) ** 2, window)
    left = min(round(left / ratio[0]), width - box[0])
    top = min(round(top / ratio[1]), height - box[1])
    return left, top, left + box[0], top + box[1]


def matched(first: np.ndarray, second: PIL.Image.Image) -> np.ndarray | None:
    """The second photo moved, turned and scaled onto the first (Y, X, 3), or None where they have too little in common.

    ORB points, matched both ways, and the similarity that most of them agree on (RANSAC).
    """
    height, width = first.shape[:2]
    second = second.copy()
    second.thumbnail((2 * max(width, height),) * 2, pixels.RESAMPLE)
    other = to_array(second)
    orb = cv2.ORB.create(nfeatures=1500)
    found: list[tuple[Any, Any]] = [orb.detectAndCompute(_grey(p), None) for p in (first, other)]  # type: ignore
    points, marks = [f[0] for f in found], [f[1] for f in found]
    if any(m is None for m in marks):
        return None
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(marks[1], marks[0])
    if len(pairs) < LEAST_MATCHES:
        return None
    source = np.array([points[1][m.queryIdx].pt for m in pairs], np.float32)
    target = np.array([points[0][m.trainIdx].pt for m in pairs], np.float32)
    cv2.setRNGSeed(0)
    solved: Any = cv2.estimateAffinePartial2D(source, target, method=cv2.RANSAC, ransacReprojThreshold=5.0)
    move, inside = solved
    if move is None or int(inside.sum()) < max(LEAST_MATCHES, len(pairs) // 12):
        return None
    if not 0.2 < math.hypot(move[0, 0], move[1, 0]) < 5:
        return None
    return cv2.warpAffine(other, move, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT).clip(0, 1)


def _grey(picture: np.ndarray) -> np.ndarray:
    return (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) * 255).astype(np.uint8)


def to_array(image: PIL.Image.Image) -> np.ndarray:
    """(Y, X, 3) float32 in [0, 1]."""
    return np.asarray(image.convert("RGB"), np.float32) / 255


def to_image(picture: np.ndarray) -> PIL.Image.Image:
    """The picture of an array; values outside [0, 1] are clipped."""
    return PIL.Image.fromarray(np.rint(picture.clip(0, 1) * 255).astype(np.uint8))
