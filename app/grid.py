"""The X/Y/Z grid: one setting varied along each axis, and a labelled sheet of what comes out.

Axes carry the WebUI's names. Values are written as there: a comma list (`"a, b", c` with quotes), and for numbers the
ranges `1-5`, `1-10 (+2)`, `10-1 (-3)`, `0-1 [5]`.
"""

import csv
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from app.requests import GenerateParams

MAX_CELLS = 400
MAX_SHEET = 12_000  # pixels a side; larger sheets are made of smaller pictures
_INT = r"[+-]?\d+"
_FLOAT = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_LORA = re.compile(r"<lora:([^:>]+)((?::[^:>]*)*)>", re.IGNORECASE)

Change = Callable[[GenerateParams, Any, Sequence[Any]], dict[str, Any]]


@dataclass(frozen=True)
class Axis:
    """A setting that can be varied: how its values are read, what a value changes, how dear a change is.

    cost: 0 to 1; the dearest axis is changed least often, as loading another checkpoint takes longer than a step.
    """

    name: str
    read: Callable[[str], list[Any]]
    change: Change
    cost: float = 0.0


# --- reading values ---


def words(text: str) -> list[str]:
    """A comma list; quotes keep commas inside."""
    rows = list(csv.reader([text.replace("\n", ",")], skipinitialspace=True))
    return [word.strip() for word in (rows[0] if rows else []) if word.strip()]


def integers(text: str) -> list[int]:
    """Whole numbers and ranges of them. Raises ValueError naming the part that is neither."""
    return [value for part in words(text) for value in _span(part, int, _INT)]


def floats(text: str) -> list[float]:
    """Numbers and ranges of them. Raises ValueError naming the part that is neither."""
    return [value for part in words(text) for value in _span(part, float, _FLOAT)]


def _span(part: str, kind: Callable[[Any], Any], number: str) -> list[Any]:
    """One part of a list: a number, `1-5`, `1-5 (+2)` or `1-5 [3]`."""
    part = part.strip()
    if re.fullmatch(number, part):
        return [kind(part)]
    pattern = rf"({number})\s*-\s*({number})\s*(?:\(\s*({number})\s*\)|\[\s*(\d+)\s*\])?"
    match = re.fullmatch(pattern, part)
    if match is None:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{part!r} is neither {what} nor a range like 1-5, 1-10 (+2) or 1-10 [5]")
    low, high = kind(match[1]), kind(match[2])
    if match[4] is not None:
        return _spread(low, high, int(match[4]), kind)
    step = kind(match[3]) if match[3] is not None else kind(1 if high >= low else -1)
    if step == 0 or (high - low) * step < 0:
        raise ValueError(f"{part!r}: steps of {step} never lead from {low} to {high}")
    count = int((high - low) / step + 1e-9) + 1
    if count > MAX_CELLS:
        raise ValueError(f"{part!r} has {count} values; at most {MAX_CELLS} are made")
    return [kind(round(low + i * step, 9)) for i in range(count)]


def _spread(low: Any, high: Any, count: int, kind: Callable[[Any], Any]) -> list[Any]:
    if not 1 <= count <= MAX_CELLS:
        raise ValueError(f"a range has 1 to {MAX_CELLS} values, not {count}")
    if count == 1:
        return [low]
    return [kind(round(low + (high - low) * i / (count - 1), 9)) for i in range(count)]


def sizes(text: str) -> list[tuple[int, int]]:
    """`512x768, 768x512`."""
    found = []
    for part in words(text):
        match = re.fullmatch(r"(\d+)\s*[x\u00d7]\s*(\d+)", part.lower())
        if match is None:
            raise ValueError(f"{part!r} is not a size like 512x768")
        found.append((int(match[1]), int(match[2])))
    return found


def orders(text: str) -> list[tuple[str, ...]]:
    """All orders of some words."""
    found = words(text)
    if len(found) > 5:
        raise ValueError(f"{len(found)} words have too many orders; give at most 5")
    return list(itertools.permutations(found))


# --- what a value changes ---


def _field(name: str) -> Change:
    return lambda params, value, values: {name: value}


def _hires(name: str) -> Change:
    def change(params: GenerateParams, value: Any, values: Sequence[Any]) -> dict[str, Any]:
        if params.hires is None:
            raise ValueError("switch the second pass (hires fix) on to vary it")
        return {"hires": {**params.hires.model_dump(), name: value}}

    return change


def _control(name: str) -> Change:
    def change(params: GenerateParams, value: Any, values: Sequence[Any]) -> dict[str, Any]:
        if not params.controls:
            raise ValueError("switch a ControlNet on to vary it")
        first, *others = [{**dict(unit)} for unit in params.controls]
        return {"controls": [{**first, name: value}, *others]}

    return change


def _replaced(params: GenerateParams, value: Any, values: Sequence[Any]) -> dict[str, Any]:
    """Prompt S/R: the first value is looked for, each value takes its place."""
    search = str(values[0])
    if search not in params.prompt and search not in params.negative_prompt:
        raise ValueError(f"Prompt S/R: {search!r} is in neither prompt; the first value is what gets replaced")
    return {
        "prompt": params.prompt.replace(search, str(value)),
        "negative_prompt": params.negative_prompt.replace(search, str(value)),
    }


def _ordered(params: GenerateParams, value: Any, values: Sequence[Any]) -> dict[str, Any]:
    """The words of the prompt in another order: each takes the place of the one that stood there."""
    places = sorted(((params.prompt.find(word), word) for word in value), key=lambda found: found[0])
    if places and places[0][0] < 0:
        raise ValueError(f"Prompt order: {places[0][1]!r} is not in the prompt")
    out, end = [], 0
    for (place, old), new in zip(places, value, strict=True):
        out += [params.prompt[end:place], new]
        end = place + len(old)
    return {"prompt": "".join(out) + params.prompt[end:]}


def _weighed(params: GenerateParams, value: Any, values: Sequence[Any]) -> dict[str, Any]:
    """Every LoRA of the prompt at another weight."""
    prompt, count = _LORA.subn(lambda tag: f"<lora:{tag[1]}:{value:g}>", params.prompt)
    if not count:
        raise ValueError("LoRA weight: there is no <lora:name:1> in the prompt")
    return {"prompt": prompt}


def _sized(params: GenerateParams, value: Any, values: Sequence[Any]) -> dict[str, Any]:
    return {"width": value[0], "height": value[1]}


def _styled(params: GenerateParams, value: Any, values: Sequence[Any]) -> dict[str, Any]:
    return {"styles": [*params.styles, value] if value != "None" else params.styles}


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis("Seed", integers, _field("seed")),
        Axis("Steps", integers, _field("steps")),
        Axis("CFG Scale", floats, _field("cfg_scale")),
        Axis("CFG rescale", floats, _field("cfg_rescale")),
        Axis("Sampler", words, _field("sampler")),
        Axis("Schedule type", words, _field("schedule")),
        Axis("Size", sizes, _sized),
        Axis("Width", integers, _field("width")),
        Axis("Height", integers, _field("height")),
        Axis("Denoising", floats, _field("strength")),
        Axis("Prompt S/R", words, _replaced),
        Axis("Prompt order", orders, _ordered),
        Axis("Styles", words, _styled),
        Axis("Checkpoint name", words, _field("model"), cost=1.0),
        Axis("VAE", words, _field("vae"), cost=0.7),
        Axis("LoRA weight", floats, _weighed, cost=0.3),
        Axis("Clip skip", integers, _field("clip_skip"), cost=0.1),
        Axis("Eta", floats, _field("eta")),
        Axis("Var. seed", integers, _field("variation_seed")),
        Axis("Var. strength", floats, _field("variation_strength")),
        Axis("Mask blur", floats, _field("mask_blur")),
        Axis("Hires steps", integers, _hires("steps")),
        Axis("Hires denoising", floats, _hires("strength")),
        Axis("Hires scale", floats, _hires("scale")),
        Axis("ControlNet weight", floats, _control("weight")),
        Axis("ControlNet start", floats, _control("start")),
        Axis("ControlNet end", floats, _control("end")),
    )
}


@dataclass(frozen=True)
class Line:
    """One axis of a grid with its values."""

    axis: Axis
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        """What stands beside the pictures."""
        return [label(self.axis.name, value) for value in self.values]


def label(name: str, value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, tuple):
        value = " ".join(value) if isinstance(value[0], str) else f"{value[0]}x{value[1]}"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if name in ("Prompt S/R", "Prompt order") else f"{name}: {text}"


def line(name: str, text: str) -> Line | None:
    """The axis by a name as the WebUI has it; None where it is left out. Raises ValueError with a sentence."""
    if name in ("", "Nothing"):
        return None
    if name not in AXES:
        raise ValueError(f"there is no axis {name!r}; there are {', '.join(AXES)}")
    try:
        values = tuple(AXES[name].read(text))
    except ValueError as why:
        raise ValueError(f"{name}: {why}") from None
    if not values:
        raise ValueError(f"{name}: give the values, for example 1-5 or a, b, c")
    return Line(AXES[name], values)


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture of a grid: its place and what it asks for."""

    place: tuple[int, int, int]  # x, y, z
    params: GenerateParams


@dataclass(frozen=True, eq=False)
class Plan:
    """All cells in the order in which they are made, dear changes seldom."""

    lines: tuple[Line | None, Line | None, Line | None]
    cells: tuple[Cell, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many values along x, y and z."""
        x, y, z = (1 if one is None else len(one.values) for one in self.lines)
        return x, y, z

    def cost(self, default_steps: int = 20) -> dict[str, int]:
        """What the grid takes: pictures, sampling steps, and how often another checkpoint is loaded."""
        steps, loads, model = 0, 0, None
        for cell in self.cells:
            own = cell.params.steps or default_steps
            part = cell.params.strength if cell.params.init_image is not None else 1
            again = (cell.params.hires.steps or own) * cell.params.hires.strength if cell.params.hires else 0
            steps += round(own * part + again)
            loads += cell.params.model != model
            model = cell.params.model
        return {"pictures": len(self.cells), "steps": steps, "loads": loads}


def plan(base: GenerateParams, lines: Sequence[Line | None]) -> Plan:
    """Every combination as checked params. Raises ValueError where one cannot be, before anything is made."""
    x, y, z = lines
    counts = [1 if one is None else len(one.values) for one in lines]
    total = counts[0] * counts[1] * counts[2]
    if total > MAX_CELLS:
        raise ValueError(f"{counts[0]} x {counts[1]} x {counts[2]} are {total} pictures; at most {MAX_CELLS} are made")
    order = sorted(range(3), key=lambda i: -lines[i].axis.cost if lines[i] is not None else 0.0)  # type: ignore[union-attr]
    cells = []
    for steps in itertools.product(*(range(counts[i]) for i in order)):
        place = tuple(step for _, step in sorted(zip(order, steps, strict=True)))
        cells.append(Cell(place, _cell(base, lines, place)))  # type: ignore[arg-type]
    return Plan((x, y, z), tuple(cells))


def _cell(base: GenerateParams, lines: Sequence[Line | None], place: Sequence[int]) -> GenerateParams:
    params = base
    for one, at in zip(lines, place, strict=True):
        if one is not None:
            params = changed(params, one.axis.change(params, one.values[at], one.values))
    return params


def changed(params: GenerateParams, values: Mapping[str, Any]) -> GenerateParams:
    """The params with some fields changed, and checked again."""
    now = {name: getattr(params, name) for name in params.model_fields_set}
    return GenerateParams(**{**now, **values})


# --- the sheet ---


def sheet(
    plan_: Plan, pictures: Mapping[tuple[int, int, int], PIL.Image.Image], legend: bool = True
) -> PIL.Image.Image:
    """All pictures with their labels: x to the right, y down, one block a z. Missing cells stay empty."""
    across, down, blocks = plan_.shape
    width = max((p.width for p in pictures.values()), default=64)
    height = max((p.height for p in pictures.values()), default=64)
    scale = min(1.0, MAX_SHEET / max(width * across, height * down * blocks))
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    size = max(14, min(width, height) // 14)
    left = size * 9 if legend and plan_.lines[1] else 0
    top = round(size * 2.4) if legend and plan_.lines[0] else 0
    head = round(size * 2.4) if legend and plan_.lines[2] else 0
    block = head + top + down * height
    whole = PIL.Image.new("RGB", (left + across * width, blocks * block), "white")
    draw, font = PIL.ImageDraw.Draw(whole), PIL.ImageFont.load_default(size)
    for (x, y, z), picture in pictures.items():
        fitting = picture.convert("RGB").resize((round(picture.width * scale), round(picture.height * scale)))
        whole.paste(fitting, (left + x * width, z * block + head + top + y * height))
    for z in range(blocks):
        if head:
            _write(draw, font, plan_.lines[2], z, (0, z * block, whole.width, z * block + head))
        for x in range(across if top else 0):
            at = left + x * width, z * block + head
            _write(draw, font, plan_.lines[0], x, (*at, at[0] + width, at[1] + top))
        for y in range(down if left else 0):
            at = 0, z * block + head + top + y * height
            _write(draw, font, plan_.lines[1], y, (*at, left, at[1] + height))
    return whole


def _write(draw: Any, font: Any, one: Line | None, index: int, box: tuple[int, int, int, int]) -> None:
    """A label in the middle of a box, broken into lines that fit, cut where they do not."""
    if one is None:
        return
    room = box[2] - box[0] - 8
    rows = [""]
    for word in re.findall(r"\S+\s*", one.labels[index]):
        if rows[-1] and draw.textlength(rows[-1] + word, font=font) > room:
            rows.append("")
        rows[-1] += word
    most = max(1, int((box[3] - box[1]) // (font.size * 1.2)))
    text = "\n".join(row.strip() for row in rows[:most])
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    draw.multiline_text(middle, text, fill="#222", font=font, anchor="mm", align="center")
