"""Luminance and nothing else: change how light a picture is, pixel by pixel, keeping hue and texture.

Pictures are (Y, X, 3) float32 in [0, 1]; luminance is Rec. 601 luma, which is what the readers look at.
"""

import cv2
import numpy as np
import PIL.Image

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_GAIN = 2.2  # how far colours are scaled up before white is mixed in


def array(image: PIL.Image.Image) -> np.ndarray:
    """A picture as (Y, X, 3) in [0, 1]."""
    return np.asarray(image.convert("RGB"), np.float32) / 255.0


def image(rgb: np.ndarray) -> PIL.Image.Image:
    """(Y, X, 3) in [0, 1] as a picture."""
    return PIL.Image.fromarray(np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8))


def luma(rgb: np.ndarray) -> np.ndarray:
    """(Y, X) luminance."""
    return rgb @ _LUMA


def to_luma(rgb: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The picture with the luminance `target` (Y, X), exactly.

    Darker: all channels are scaled down, so that colours stay what they are. Lighter: they are scaled up while they
    have room, the rest of the way white is mixed in.
    """
    target = np.clip(target, 0, 1)
    now = luma(rgb)
    top = np.maximum(rgb.max(axis=2), 1e-4)
    gain = np.minimum(target / np.maximum(now, 1e-4), np.minimum(1 / top, _GAIN))
    scaled = rgb * gain[..., None]
    left = luma(scaled)
    white = np.clip((target - left) / np.maximum(1 - left, 1e-4), 0, 1)
    return scaled + (1 - scaled) * white[..., None]


def enlarge(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture at another size (width, height)."""
    if (rgb.shape[1], rgb.shape[0]) == size:
        return rgb
    larger = size[0] > rgb.shape[1]
    return np.clip(cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC if larger else cv2.INTER_AREA), 0, 1)
