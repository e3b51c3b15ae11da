"""How good a code looks, why one failed, and what would help."""

import PIL.Image

from mix.appflow.artqr.matrix import smallest
from mix.appflow.artqr.request import ArtQRRequest
from mix.appflow.artqr.scan import ScanReport
from mix.appflow.artqr.stress import PLAIN
from mix.appflow.similarity import colours, structural


def similarity(made: PIL.Image.Image, reference: PIL.Image.Image) -> float:
    """How much of the picture is left, 0 to 1: its structure at the size of a thumbnail, and its colours."""
    return max(0.0, 0.5 * structural(made, reference, 64) + 0.5 * colours(made, reference))


def reasons(request: ArtQRRequest, report: ScanReport) -> tuple[str, ...]:
    """Why a code failed and what to change, the most helpful first."""
    blind = [reader for reader, row in report.read.items() if not row[PLAIN]]
    said = [f"not read by {', '.join(blind)}"]
    if report.misread:
        said.append(f"a reader found other text: {report.misread[:60]!r}")
    if report.modules is not None and report.modules.spare < 0:
        said.append("more modules are wrong than the error correction repairs")
    if len(request.text.encode("utf-8")) > 60:
        said.append("shorten the link: fewer, larger modules scan more easily")
    if request.strength < 0.9:
        said.append(f"move the strength towards the code, for example to {min(1.0, request.strength + 0.2):.1f}")
    if request.mask is not None:
        said.append("let the mask pattern be chosen, or try another")
    if request.size and request.layout(request.size).module < 12:
        said.append("make the picture larger, or let the code take more of it")
    if request.version > smallest(request.text, request.level) + 3:
        said.append("choose a smaller version, or leave it automatic")
    if request.quiet < 2:
        said.append("leave a quiet zone of 2 modules or more")
    return tuple(said)
