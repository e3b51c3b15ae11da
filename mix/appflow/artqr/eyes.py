"""How readers see a module, as numbers that a repair can push: positive is light, negative dark, near 0 a guess.

Readers differ in what they compare a pixel with. ZXing and ZBar look at a module's middle against the mean of a few
modules around. OpenCV compares every pixel with a Gaussian mean 83 pixels wide whatever the picture's size, and counts
how much of a module is left light: in large pictures that is so local that an even dark region reads as light. Hence
the view at several sizes.
"""

import cv2
import numpy as np

from mix.appflow.artqr.draw import Layout

SCALES = (0.25, 0.5, 1.0, 2.0)
_WINDOW, _BELOW = 83, 2  # pixels, and how much darker (of 255) than the mean counts as dark


def shares(light: np.ndarray, layout: Layout, scale: float = 1.0) -> np.ndarray:
    """(n, n) in [-1, 1]: each module's light share at a size of the picture, less the whole code's."""
    window = _WINDOW
    if scale > 1:  # a larger picture under the same window is the same picture under a smaller one
        window = round(_WINDOW / scale) // 2 * 2 + 1
    elif scale < 1:
        size = (round(layout.width * scale), round(layout.height * scale))
        light, layout = cv2.resize(light, size, interpolation=cv2.INTER_AREA), layout.at(*size)
    grey = np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)
    white = cv2.adaptiveThreshold(grey, 1, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, window, _BELOW)
    share = _means(white, layout)
    return share - share.mean()


def _means(white: np.ndarray, layout: Layout) -> np.ndarray:
    """(n, n): the mean over each module's pixels."""
    total = cv2.integral(white).astype(np.float32)
    lines = np.arange(layout.n + 1) * layout.module
    rows = np.clip(np.rint(layout.top + lines).astype(int), 0, layout.height)
    columns = np.clip(np.rint(layout.left + lines).astype(int), 0, layout.width)
    corners = total[rows[:, None], columns[None]]
    sums = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
    return sums / np.maximum(np.diff(rows)[:, None] * np.diff(columns)[None], 1)


def weakest(light: np.ndarray, layout: Layout, sign: np.ndarray) -> np.ndarray:
    """(n, n): over the sizes, the least agreement of each module's share with its sign (1 light, -1 dark)."""
    return np.min([sign * shares(light, layout, scale) for scale in SCALES], axis=0)
