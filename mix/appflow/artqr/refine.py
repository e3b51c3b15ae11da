"""From a picture to one that scans: choose the code's free bits, repair, ask the readers, repair more."""

from collections.abc import Generator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import PIL.Image

from mix.appflow.artqr import scan
from mix.appflow.artqr.adapt import Wish, adapted
from mix.appflow.artqr.draw import Layout
from mix.appflow.artqr.matrix import Code
from mix.appflow.artqr.repair import Look, border, repaired
from mix.appflow.artqr.request import ArtQRRequest
from mix.appflow.artqr.scan import ScanReport
from mix.appflow.artqr.stress import PLAIN, QUICK
from mix.appflow.artqr.tone import array, enlarge, image, luma

WATCHED = (*QUICK, "2x", "noise")  # asked in every round; the full set only where these pass
SIDES = (1.0, 15 / 16, 17 / 16)  # of the picture, tried in turn where a reader does not read it as it is
DARK = 0.3  # an even dark region reads as light in readers with narrow windows, so dark wishes count less
STARS = 0.08  # how much the light ones among dark ones count


@dataclass(frozen=True, eq=False)
class Refined:
    """What came out: the picture, its code, the readers' report, and the rounds it took."""

    image: PIL.Image.Image
    code: Code
    report: ScanReport
    rounds: int
    look: Look


def wish_of(light: np.ndarray, layout: Layout, follow: float) -> Wish:
    """What a picture's luminance (Y, X) would like its modules to be."""
    lead = layout.sample(light, 0.3) - border(light, layout, follow)
    dark = lead < 0
    weight = np.abs(lead) * np.where(dark, DARK, 1.0) + 0.02
    rows, columns = np.indices(dark.shape)
    deep = cv2.GaussianBlur(dark.astype(np.float32), (0, 0), 1.2) > 0.8
    stars = deep & (rows % 2 == 1) & (columns % 2 == 1)  # one in four stays light where all would be dark
    return Wish(dark & ~stars, np.where(stars, np.maximum(weight, STARS), weight))


def fitted(code: Code, light: np.ndarray, layout: Layout, request: ArtQRRequest, avoid: set[int]) -> Code:
    """The code of the same text that agrees best with the picture; `avoid` are masks that were tried."""
    masks = (request.mask,) if request.mask is not None else tuple(m for m in range(8) if m not in avoid)
    return adapted(code, wish_of(light, layout, 0.5), masks or tuple(range(8)), padding=request.follow)


def refine(
    picture: PIL.Image.Image, request: ArtQRRequest, code: Code | None = None
) -> Generator[ScanReport, None, Refined]:
    """Repair until the readers are content or the rounds are used up; yields each round's report, returns the best."""
    layout, rgb, light = _at(picture, request, request.side)
    tried: set[int] = set()
    now = code or fitted(request.code(), light, layout, request, tried)
    look, best, number = request.look, None, 0
    for number in range(1, request.rounds + 1):
        made = image(repaired(rgb, now, layout, look))
        found = scan.scan(made, request.text, WATCHED)
        if found.ok and found.rate() >= request.wish:
            found = scan.scan(made, request.text)
        found = replace(found, modules=scan.modules(made, now, layout))
        yield found
        one = Refined(made, now, found, number, look)
        best = one if best is None or _better(found, best.report) else best
        if found.ok and found.rate() >= request.wish:
            break
        # A reader that fails on the plain picture often trips over one accident: another mask moves everything, and
        # OpenCV's fails for some pictures at one size and reads the same picture at others.
        tried.add(now.mask)
        if not found.ok and not request.size and number % 3 == 0:
            share = SIDES[number // 3 % len(SIDES)]
            layout, rgb, light = _at(picture, request, round(request.side * share / 8) * 8)
        elif not found.ok and number % 2 and request.mask is None and code is None:
            now = fitted(now, light, layout, request, tried)
        else:
            look = look.stronger()
    assert best is not None
    full = best.report
    if len(next(iter(full.read.values()))) <= len(WATCHED) + 1:
        full = replace(scan.scan(best.image, request.text), modules=full.modules)
    return replace(best, report=full, rounds=number)


def _at(picture: PIL.Image.Image, request: ArtQRRequest, side: int) -> tuple[Layout, np.ndarray, np.ndarray]:
    """Layout, picture (Y, X, 3) and its luminance at a size."""
    rgb = enlarge(array(picture), (side, side))
    return request.layout(side), rgb, luma(rgb)


def _better(new: ScanReport, old: ScanReport) -> bool:
    """More readers on the plain picture, then more of the distortions."""

    def score(report: ScanReport) -> tuple[int, float]:
        return sum(row[PLAIN] for row in report.read.values()), report.rate()

    return score(new) > score(old)
