"""Where a photo catches the eye, and filters that know edges. Plain image processing, no model.

Y X height and width; pictures are (Y, X, 3) float32 in [0, 1], maps (Y, X) float32.
"""

import cv2
import numpy as np

SIDE = 128  # of the copy that is looked at


def salience(picture: np.ndarray) -> np.ndarray:
    """(Y, X) in [0, 1], larger where more is to be seen; evenly spread, so that two photos' maps can compete.

    The spectral residual (Hou & Zhang 2007), the distance to the photo's mean colour (Achanta et al. 2009) and local
    contrast, multiplied with a mild preference for the middle, drawn to the edges of the photo by a guided filter.
    """
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    soft = cv2.GaussianBlur(lab, (0, 0), 1.5)
    colour = np.linalg.norm(soft - soft.mean(axis=(0, 1)), axis=2)
    grey = lab[..., 0] / 100
    contrast = np.sqrt(cv2.GaussianBlur((grey - cv2.GaussianBlur(grey, (0, 0), 4)) ** 2, (0, 0), 4))
    parts = [spectral_residual(grey), colour, contrast]
    total = sum(ranks(part) for part in parts) * (0.6 + 0.4 * _middle(grey.shape))
    total = guided(np.asarray(total, np.float32), grey, max(4, SIDE // 16), 1e-3)
    even = ranks(cv2.GaussianBlur(total, (0, 0), 2))
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def spectral_residual(grey: np.ndarray) -> np.ndarray:
    """What is unusual in the spectrum of a grey picture (Y, X), back in its place."""
    spectrum = np.fft.fft2(grey)
    amplitude = np.log(np.abs(spectrum) + 1e-8)
    residual = amplitude - cv2.blur(amplitude, (3, 3))
    map_ = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return cv2.GaussianBlur(map_.astype(np.float32), (0, 0), 3)


def ranks(values: np.ndarray) -> np.ndarray:
    """Each value's place among all, from 0 to 1, equal ones sharing a place: a flat map becomes 0.5 everywhere."""
    flat = values.ravel()
    line = np.sort(flat)
    places = np.searchsorted(line, flat, "left") + np.searchsorted(line, flat, "right")
    return (places / (2 * len(flat))).astype(np.float32).reshape(values.shape)


def guided(values: np.ndarray, guide: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Smooth `values` but for the edges of `guide` (He, Sun & Tang 2010); all (Y, X)."""
    slope, offset = guided_line(values, guide, radius, eps)
    return slope * guide + offset


def guided_line(values: np.ndarray, guide: np.ndarray, radius: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """The guided filter's slope and offset (Y, X), which may be enlarged and applied to a larger guide."""
    size = (2 * radius + 1, 2 * radius + 1)

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, size, borderType=cv2.BORDER_REFLECT)

    guide, values = guide.astype(np.float32), values.astype(np.float32)
    mean_guide, mean_values = mean(guide), mean(values)
    slope = (mean(guide * values) - mean_guide * mean_values) / (mean(guide * guide) - mean_guide**2 + eps)
    return mean(slope), mean(mean_values - slope * mean_guide)


def _middle(shape: tuple[int, ...]) -> np.ndarray:
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape[:2])
    return np.exp(-(x[None] ** 2 + y[:, None] ** 2))


def best_window(map_: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """(left, top) of the window of (width, height) that holds most of the map. Where all are alike it is in the middle,
    or a little above: heads are cut more often than feet are missed.
    """
    width, height = min(size[0], map_.shape[1]), min(size[1], map_.shape[0])
    sums = cv2.integral(map_.astype(np.float64))
    found = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    y, x = np.arange(found.shape[0]) - 0.35 * (found.shape[0] - 1), np.arange(found.shape[1]) - (found.shape[1] - 1) / 2
    away = (y[:, None] / max(found.shape[0], 1)) ** 2 + (x[None] / max(found.shape[1], 1)) ** 2
    top, left = np.unravel_index(np.argmax(found / (width * height) - 0.15 * away), found.shape)
    return int(left), int(top)
