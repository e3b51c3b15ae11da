"""Does it scan? Independent readers, under distortions, and the text they read compared with the one that was wanted.

Readers: OpenCV's two detectors and ZXing-C++ always, ZBar where its library is installed. They fail on different
codes, which is why all are asked.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image

from mix.appflow.artqr.draw import Layout
from mix.appflow.artqr.matrix import DATA, FINDER, KINDS, Code
from mix.appflow.artqr.stress import PLAIN, QUICK, STRESS
from mix.appflow.artqr.tone import array, luma

Reader = Callable[[np.ndarray], str | None]  # (Y, X, 3) uint8 RGB -> the text, or None


@functools.cache
def readers() -> Mapping[str, Reader]:
    """The readers that are installed, by name."""
    with suppress(AttributeError):  # OpenCV warns on every ECI header, and reads it
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    found: dict[str, Reader] = {
        "OpenCV": _opencv(cv2.QRCodeDetector()),
        "OpenCV (ArUco)": _opencv(cv2.QRCodeDetectorAruco()),
    }
    import zxingcpp

    kinds = zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode)

    def zxing(image: np.ndarray) -> str | None:
        codes = zxingcpp.read_barcodes(image, formats=kinds, text_mode=zxingcpp.TextMode.Plain)
        return codes[0].text if codes else None

    found["ZXing"] = zxing
    with suppress(ImportError):  # pyzbar is an extra, and needs the system's libzbar
        from pyzbar import pyzbar

        def zbar(image: np.ndarray) -> str | None:
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            codes = pyzbar.decode(grey, symbols=[pyzbar.ZBarSymbol.QRCODE])
            return codes[0].data.decode("utf-8", "replace") if codes else None

        found["ZBar"] = zbar
    return found


def _opencv(detector: cv2.QRCodeDetector | cv2.QRCodeDetectorAruco) -> Reader:
    def read(image: np.ndarray) -> str | None:
        try:
            text, *_ = detector.detectAndDecode(image[..., ::-1])
        except (cv2.error, UnicodeDecodeError):  # it raises on some pictures instead of finding nothing
            return None
        return text or None

    return read


@dataclass(frozen=True)
class Modules:
    """How many modules and codewords are on the wrong side of the local threshold, as a reader samples them."""

    wrong: Mapping[str, int]  # by kind of module
    of: Mapping[str, int]
    bad_codewords: tuple[int, ...]  # a Reed-Solomon block
    budget: tuple[int, ...]  # what each block corrects

    @property
    def spare(self) -> float:
        """The part of the correction that is left in the worst block: 1 nothing wrong, 0 or less unreadable."""
        return min(1 - bad / max(most, 1) for bad, most in zip(self.bad_codewords, self.budget, strict=True))


@dataclass(frozen=True)
class ScanReport:
    """Which reader read the wanted text under which distortion."""

    read: Mapping[str, Mapping[str, bool]]  # reader -> distortion -> right
    modules: Modules | None = None
    misread: str = ""  # a text that was read but not wanted

    @property
    def ok(self) -> bool:
        """Every reader reads the undistorted picture."""
        return all(row[PLAIN] for row in self.read.values())

    def rate(self, reader: str | None = None) -> float:
        """The part of distortions (the plain picture left out) that are read, by one reader or over all."""
        rows = [self.read[reader]] if reader else list(self.read.values())
        cells = [right for row in rows for name, right in row.items() if name != PLAIN]
        return sum(cells) / len(cells) if cells else float(self.ok)

    @property
    def margin(self) -> float:
        """0 to 1, how far it is from failing: half from the distortions, half from the correction left unused."""
        if not self.ok:
            return 0.0
        spare = self.modules.spare if self.modules else 1.0
        return self.rate() * (0.5 + 0.5 * max(0.0, spare))

    def failures(self) -> list[str]:
        """ "ZBar: 1/4, pale" and the like."""
        return [
            f"{reader}: {', '.join(lost)}"
            for reader, row in self.read.items()
            if (lost := [name for name, right in row.items() if not right])
        ]


def scan(image: PIL.Image.Image, text: str, stress: Iterable[str] = tuple(STRESS)) -> ScanReport:
    """Ask every reader about the picture, plain and under each named distortion."""
    pixels = np.ascontiguousarray(np.asarray(image.convert("RGB")))
    read: dict[str, dict[str, bool]] = {name: {} for name in readers()}
    misread = ""
    for name in (PLAIN, *stress):
        seen = pixels if name == PLAIN else STRESS[name](pixels)
        for reader, ask in readers().items():
            said = ask(seen)
            read[reader][name] = same(said, text)
            if said and not read[reader][name]:
                misread = said
    return ScanReport(read, misread=misread)


def quick(image: PIL.Image.Image, text: str) -> ScanReport:
    """The plain picture and the distortions that fail first."""
    return scan(image, text, QUICK)


def same(said: str | None, wanted: str) -> bool:
    """Whether it is the wanted text, character by character; line ends may differ, readers rewrite them."""
    return said is not None and said.replace("\r\n", "\n") == wanted.replace("\r\n", "\n")


def report(image: PIL.Image.Image, text: str, code: Code | None = None, layout: Layout | None = None) -> ScanReport:
    """The full report; with code and layout also which modules are wrong."""
    found = scan(image, text)
    if code is None or layout is None:
        return found
    return ScanReport(found.read, modules(image, code, layout), found.misread)


def modules(image: PIL.Image.Image, code: Code, layout: Layout) -> Modules:
    """Count wrong modules against the correction budget."""
    light = luma(array(image))
    centre = layout.sample(light, 0.2)
    dark = centre < threshold(light, layout)
    return judge(dark, code)


def threshold(light: np.ndarray, layout: Layout) -> np.ndarray:
    """(n, n): what a reader would call the border between dark and light around each module: halfway between the local
    mean and the middle of the whole code.
    """
    local = layout.sample(light, 3.0)
    whole = layout.sample(light, 0.3)
    low, high = np.percentile(whole, 10), np.percentile(whole, 90)
    return 0.5 * local + 0.5 * (low + high) / 2


def judge(dark: np.ndarray, code: Code) -> Modules:
    """Count what differs from the code; (n, n) bool."""
    wrong = dark != code.modules
    kinds = code.grid.kinds
    places = code.grid.places[: 8 * len(code.codewords)]
    bad = wrong[places[:, 0], places[:, 1]].reshape(-1, 8).any(axis=1)
    return Modules(
        {name: int(wrong[kinds == kind].sum()) for kind, name in enumerate(KINDS)},
        {name: int((kinds == kind).sum()) for kind, name in enumerate(KINDS)},
        tuple(int(bad[list(block.data + block.check)].sum()) for block in code.blocks),
        tuple(block.corrects for block in code.blocks),
    )


__all__ = ["DATA", "FINDER", "Modules", "ScanReport", "judge", "modules", "quick", "readers", "report", "same", "scan"]
