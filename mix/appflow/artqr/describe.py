"""The settings of a code as text in its picture, in the words and form of an infotext, so that a form can be filled."""

import PIL.Image

from mix.appflow.artqr.matrix import Code
from mix.appflow.artqr.request import ArtQRRequest
from ppdiffusers.pipelines.describe import version as product
from ppdiffusers.pipelines.infotext import Infotext, parse


def infotext(request: ArtQRRequest, painted: str, code: Code, image: PIL.Image.Image) -> str:
    """The painting's infotext with the code's settings added; `painted` is empty where a picture was given."""
    known = parse(painted) if painted else Infotext(request.prompt, request.negative_prompt)
    values = dict(known.values)
    version = values.pop("Version", f"MixStudio {product()}")
    values["Seed"] = str(request.seed)
    values["Size"] = f"{image.width}x{image.height}"
    values |= {
        "QR text": request.text,
        "QR strength": f"{request.strength:g}",
        "QR error correction": request.level,
        "QR version": str(code.version),
        "QR mask": str(code.mask),
        "QR shape": request.shape,
        "QR quiet zone": f"{request.quiet:g}",
    }
    if request.scale != 1:
        values["QR scale"] = f"{request.scale:g}"
        values["QR place"] = f"{request.place[0]:g} {request.place[1]:g}"
    if not request.follow:
        values["QR follows picture"] = "no"
    if request.steering.rate is not None:
        values["QR guidance"] = f"{request.steering.rate:g}"
    values["Version"] = version
    return str(Infotext(known.prompt, known.negative_prompt, values))
