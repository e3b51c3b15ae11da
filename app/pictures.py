"""Pictures that come from outside: base64, data URIs, bytes, paths of the command line. Guarded, upright, and kept.

A picture that a job was given is kept by its content below `outputs/.inputs/`, so that history can fill the form again
with mask and reference in place.
"""

import base64
import binascii
import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import Annotated, Any

import PIL.Image
import PIL.ImageOps
from pydantic import BeforeValidator, PlainSerializer, SerializationInfo, ValidationInfo, WithJsonSchema

from app.save import save_picture

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
INPUTS = ".inputs"
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


def read(data: bytes) -> PIL.Image.Image:
    """A picture out of a file's bytes, upright. Raises ValueError for what is none, or is dangerously large."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"the picture has {len(data) / 2**20:.0f} MB; at most {MAX_BYTES // 2**20} MB are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # the next lines judge
            with PIL.Image.open(io.BytesIO(data)) as image:
                _check_area(image.size)
                image.load()
                return upright(image)
    except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as why:
        raise ValueError(f"the data is not a picture that can be read: {why}") from why


def _check_area(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{size[0]} x {size[1]} is more than {MAX_PIXELS // 10**6} megapixels; make it smaller first")


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture as its camera meant it, with what it carries inside (`info`) in place."""
    turned = PIL.ImageOps.exif_transpose(image)
    turned.info = dict(image.info)
    return turned


def open_file(path: str | Path) -> PIL.Image.Image:
    """A picture from a file that the user names. Raises ValueError with a sentence."""
    try:
        return read(Path(path).read_bytes())
    except OSError as why:
        raise ValueError(f"there is no picture {path}: {why.strerror or why}") from None
    except ValueError as why:
        raise ValueError(f"{path}: {why}") from None


def decode(text: str) -> PIL.Image.Image:
    """A picture from base64, with or without a `data:image/png;base64,` in front."""
    if len(text) > MAX_BYTES * 4 // 3 + 100:
        raise ValueError(f"the picture is larger than {MAX_BYTES // 2**20} MB")
    body = text[match.end() :] if (match := _DATA_URI.match(text)) else text
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a picture must be base64 or a data URI, a link is not followed") from None
    return read(data)


def encode(image: PIL.Image.Image, kind: str = "PNG", **options: Any) -> str:
    """A picture as plain base64."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def keep(image: PIL.Image.Image, outputs: Path) -> str:
    """Keep an input picture by its content; gives the name that `recall` knows."""
    image = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGBA")
    name = hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()[:20]
    path = outputs / INPUTS / f"{name}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_picture(image, path, "")
    return f"input:{name}"


def recall(name: str, outputs: Path) -> PIL.Image.Image:
    """The picture that `keep` named. Raises ValueError when it is gone."""
    word = name.removeprefix("input:")
    path = outputs / INPUTS / f"{word}.png"
    if not re.fullmatch(r"[0-9a-f]{20}", word) or not path.is_file():
        raise ValueError(f"the picture {name} is not kept any more; choose it again")
    return open_file(path)


def _validate(value: Any, info: ValidationInfo) -> PIL.Image.Image:
    """Whatever a caller may give as a picture -> the picture."""
    if isinstance(value, PIL.Image.Image):
        _check_area(value.size)
        return value
    if isinstance(value, bytes):
        return read(value)
    if not isinstance(value, str):
        raise ValueError(f"a picture is base64 text or a data URI, not {type(value).__name__}")
    store = (info.context or {}).get("store")
    if value.startswith("gallery:") and store is not None:
        number = value.removeprefix("gallery:")
        if not number.isdigit():
            raise ValueError(f"{value!r} names no picture; it is gallery: and a number")
        try:
            return open_file(store.get(int(number)).path)
        except KeyError as why:
            raise ValueError(str(why.args[0])) from None
    if value.startswith("input:") and store is not None:
        return recall(value, store.folder)
    return decode(value)


def _serialise(image: PIL.Image.Image, info: SerializationInfo) -> str:
    outputs = (info.context or {}).get("outputs")
    return keep(image, outputs) if outputs is not None else f"a picture of {image.width} x {image.height}"


Picture = Annotated[
    PIL.Image.Image,
    BeforeValidator(_validate),
    PlainSerializer(_serialise, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "description": "base64, a data URI, gallery:<number>, or input:<name>"}),
]
