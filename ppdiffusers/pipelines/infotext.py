"""Generation parameters as the text that WebUI, Civitai and others read: prompt, negative prompt, one line of `Key:
value` pairs.

Format facts: the last line counts as parameters only with three pairs or more; a value with a comma, a newline or a
colon is a JSON string. PNG keeps the text in a `parameters` chunk, JPEG and WebP in EXIF UserComment (encoding
"UNICODE", UTF-16 big endian).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image
from PIL.PngImagePlugin import PngInfo

_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_NEGATIVE = "Negative prompt:"
_USER_COMMENT = 0x9286
_EXIF_IFD = 0x8769
_UNICODE = b"UNICODE\0"


@dataclass(frozen=True)
class Infotext:
    """The three parts of an infotext; `values` keeps the order of the keys, all values are strings."""

    prompt: str = ""
    negative_prompt: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self.prompt]
        if self.negative_prompt:
            lines.append(f"{_NEGATIVE} {self.negative_prompt}")
        lines.append(", ".join(f"{key}: {_quote(value)}" for key, value in self.values.items()))
        return "\n".join(lines)

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of the `Size` entry."""
        match = re.fullmatch(r"(\d+)x(\d+)", self.values.get("Size", ""))
        return (int(match[1]), int(match[2])) if match else None


def _quote(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ",\n:") else value


def _unquote(value: str) -> str:
    if not (len(value) > 1 and value[0] == '"' and value[-1] == '"'):
        return value
    try:
        return str(json.loads(value))
    except json.JSONDecodeError:
        return value


def parse(text: str) -> Infotext:
    """The parts of an infotext. Text without a parameter line is all prompt; nothing raises."""
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    prompt: list[str] = []
    negative: list[str] = []
    part = prompt
    for line in lines:
        if line.strip().startswith(_NEGATIVE):
            part, line = negative, line.strip().removeprefix(_NEGATIVE)
        part.append(line.strip())
    values = {key.strip(): _unquote(value.strip()) for key, value in pairs}
    return Infotext("\n".join(prompt).strip(), "\n".join(negative).strip(), values)


def embed_options(infotext: str, image_format: str) -> dict[str, object]:
    """Keyword arguments for `PIL.Image.save` that put the infotext into a PNG, JPEG or WebP file."""
    if image_format.upper() == "PNG":
        info = PngInfo()
        if infotext.isascii():
            info.add_text("parameters", infotext)
        else:  # tEXt is Latin-1; iTXt keeps every script
            info.add_itxt("parameters", infotext)
        return {"pnginfo": info}
    exif = PIL.Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _UNICODE + infotext.encode("utf-16-be")
    return {"exif": exif.tobytes()}


def extract(image: PIL.Image.Image | str | Path) -> str | None:
    """The infotext inside a picture, or None."""
    if not isinstance(image, PIL.Image.Image):
        with PIL.Image.open(image) as opened:
            opened.load()
            return extract(opened)
    if isinstance(text := image.info.get("parameters"), str):
        return text
    comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    return None if comment is None else _decode_comment(comment)


def _decode_comment(comment: bytes | str) -> str:
    if isinstance(comment, str):
        return comment
    if comment.startswith(_UNICODE):
        body = comment[len(_UNICODE) :]
        # The order of bytes is not in the tag; ASCII-range text has its zero bytes first when big endian.
        little = body[1::2].count(0) > body[0::2].count(0)
        return body.decode("utf-16-le" if little else "utf-16-be", errors="replace")
    return comment.removeprefix(b"ASCII\0\0\0").decode("utf-8", errors="replace")
