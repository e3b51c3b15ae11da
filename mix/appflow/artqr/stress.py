"""What happens to a code between the screen and a phone: smaller, blurred, compressed, tilted, pale, noisy.

Each distortion takes and gives (Y, X, 3) uint8 RGB. All are fixed (no random state from outside), so that a report
can be made again.
"""

from collections.abc import Callable

import cv2
import numpy as np

Distortion = Callable[[np.ndarray], np.ndarray]
PAPER = (240, 240, 240)  # what a tilted picture lies on


def scaled(factor: float) -> Distortion:
    """Another size, as screens and cameras do it."""

    def distort(image: np.ndarray) -> np.ndarray:
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)

    return distort


def blurred(part: float) -> Distortion:
    """Out of focus: a Gaussian whose deviation is `part` of the width."""
    return lambda image: cv2.GaussianBlur(image, (0, 0), part * image.shape[1])


def jpeg(quality: int) -> Distortion:
    """Through a JPEG file."""

    def distort(image: np.ndarray) -> np.ndarray:
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)

    return distort


def toned(gain: float, shift: float) -> Distortion:
    """Values times gain (around middle grey) plus shift, both in parts of full scale."""

    def distort(image: np.ndarray) -> np.ndarray:
        values = (image.astype(np.float32) - 127.5) * gain + 127.5 + 255 * shift
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)

    return distort


def rotated(degrees: float) -> Distortion:
    """Turned, on paper."""

    def distort(image: np.ndarray) -> np.ndarray:
        y, x = image.shape[:2]
        turn = np.deg2rad(abs(degrees))
        width = round(x * np.cos(turn) + y * np.sin(turn)) + 16
        height = round(y * np.cos(turn) + x * np.sin(turn)) + 16
        matrix = cv2.getRotationMatrix2D((x / 2, y / 2), degrees, 1.0)
        matrix[:, 2] += (width - x) / 2, (height - y) / 2
        return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=PAPER)

    return distort


def tilted(depth: float) -> Distortion:
    """Seen from the side: the far edge is shorter by `depth`, on paper."""

    def distort(image: np.ndarray) -> np.ndarray:
        y, x = image.shape[:2]
        inset, pad = depth * y / 2, 0.05
        source = np.array([[0, 0], [x, 0], [x, y], [0, y]], np.float32)
        target = np.array([[0, 0], [x * (1 - depth / 2), inset], [x * (1 - depth / 2), y - inset], [0, y]], np.float32)
        target = target * (1 - 2 * pad) + np.array([x, y], np.float32) * pad
        matrix = cv2.getPerspectiveTransform(source, target)
        return cv2.warpPerspective(image, matrix, (x, y), flags=cv2.INTER_LINEAR, borderValue=PAPER)

    return distort


def noisy(deviation: float) -> Distortion:
    """A dark room's noise; deviation in parts of full scale."""

    def distort(image: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(12345).normal(0, 255 * deviation, image.shape)
        return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)

    return distort


PLAIN = "1x"
STRESS: dict[str, Distortion] = {
    "1/2": scaled(0.5),
    "1/4": scaled(0.25),
    "2x": scaled(2.0),
    "blur": blurred(1 / 256),
    "jpeg 50": jpeg(50),
    "brighter": toned(1.0, 0.2),
    "darker": toned(1.0, -0.2),
    "more contrast": toned(1.4, 0.0),
    "less contrast": toned(0.7, 0.0),
    "pale": toned(0.4, 0.1),
    "turned 15": rotated(15),
    "turned -15": rotated(-15),
    "perspective": tilted(0.15),
    "noise": noisy(0.03),
}
QUICK = ("1/4", "blur", "pale", "turned 15", "perspective")  # the ones that fail first
