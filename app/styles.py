"""Styles: named pieces of prompt in the WebUI's `styles.csv` (name, prompt, negative_prompt).

`{prompt}` inside a style is where the user's words go; without it the style is appended after a comma.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppdiffusers.weights.write import write_text

LARGEST = 4_000_000  # bytes of a table
COLUMNS = ("name", "prompt", "negative_prompt")


@dataclass(frozen=True)
class Style:
    """A named piece of prompt."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


# What a fresh studio offers; written into styles.csv at the first change.
BUILT_IN = (
    Style("Flat illustration", "{prompt}, flat style, clean shapes, simple colours"),
    Style("3D icon", "{prompt}, 3d style, soft light, rounded"),
    Style("Outline drawing", "{prompt}, outline style, black lines on white", "colour"),
    Style("Photograph", "photo of {prompt}, natural light, sharp", "drawing, painting"),
    Style("Watercolour", "{prompt}, watercolour painting, soft edges, paper texture"),
    Style("Ink", "{prompt}, ink drawing, fine lines, high contrast", "colour"),
)


def load(path: Path) -> list[Style]:
    """The styles of a file; the built-in ones without one. Raises ValueError for a file that is no such table."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return list(BUILT_IN)
    except OSError as why:
        raise ValueError(f"{path} cannot be read: {why}") from why
    return parse(data, str(path))


def parse(data: bytes, name: str) -> list[Style]:
    """The styles in a table's bytes; `name` is for the sentence of the ValueError when it is no such table."""
    if len(data) > LARGEST:
        raise ValueError(f"{name} has {len(data):,} bytes; a table of styles has at most {LARGEST:,}")
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        if rows.fieldnames is None or "name" not in rows.fieldnames:
            raise ValueError(f"{name} has no column called name; its first line must be {','.join(COLUMNS)}")
        # Very old tables of the WebUI call the prompt "text".
        told = [(row.get("name"), row.get("prompt") or row.get("text"), row.get("negative_prompt")) for row in rows]
    except (UnicodeDecodeError, csv.Error) as why:
        raise ValueError(f"{name} cannot be read: {why}") from None
    found = [Style(*(str(value or "") for value in one)) for one in told]
    return [style for style in found if style.name.strip()]


def merge(ours: Iterable[Style], theirs: Iterable[Style]) -> list[Style]:
    """Both tables; a style of theirs with the name of one of ours takes its place."""
    return list({style.name: style for style in (*ours, *theirs)}.values())


def save(path: Path, styles: Iterable[Style]) -> None:
    """Write the table as the WebUI does."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    writer.writerows((style.name, style.prompt, style.negative_prompt) for style in styles)
    write_text(path, buffer.getvalue())


def apply(names: Sequence[str], prompt: str, negative: str, styles: Sequence[Style]) -> tuple[str, str]:
    """Both prompts with the named styles put in, in order. Raises ValueError for a name that there is not."""
    by_name = {style.name: style for style in styles}
    for name in names:
        if name not in by_name:
            raise ValueError(f"there is no style {name!r}; there are {', '.join(by_name) or 'none'}")
        prompt = _put(by_name[name].prompt, prompt)
        negative = _put(by_name[name].negative_prompt, negative)
    return prompt, negative


def _put(style: str, text: str) -> str:
    if "{prompt}" in style:
        return style.replace("{prompt}", text)
    return ", ".join(part for part in (text.strip(), style.strip()) if part)
