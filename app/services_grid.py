"""The X/Y/Z grid as a job: cell after cell, then the sheet."""

import secrets
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import PIL.Image

from app.grid import Cell, Plan, sheet
from app.requests_grid import GridParams
from app.services import Saved, generate, service
from ppdiffusers.pipelines.infotext import Infotext, parse

if TYPE_CHECKING:
    from app.studio import Studio

PER_CELL = 100  # units of progress


@service("grid")
def grid(studio: "Studio", params: GridParams) -> Iterator[Any]:
    """Every cell is checked before the first is made; the sheet comes last."""
    planned = params.plan(secrets.randbelow(2**32))
    _check_names(studio, planned)
    pictures: dict[tuple[int, int, int], PIL.Image.Image] = {}
    first: Saved | None = None
    for number, cell in enumerate(planned.cells):
        made = None
        started: Any = _cell(studio, params, cell, number, len(planned.cells))
        with closing(started) as events:
            for event in events:
                if isinstance(event, Saved):
                    made = event
                if not isinstance(event, Saved) or params.each:
                    yield event
        if made is not None:  # it may have been skipped
            pictures[cell.place] = made.picture()
            first = first or made
    if first is None:
        return
    text = _told(params, planned, first)
    yield studio.keep(
        sheet(planned, pictures, params.legend), text, first.seed, save=params.save, extra={"grid": list(planned.shape)}
    )


def _cell(studio: "Studio", params: GridParams, cell: Cell, number: int, of: int) -> Iterator[Any]:
    """One cell's events, its progress as a part of the whole."""
    from ppdiffusers.pipelines.event import Progress

    own = cell.params.model_copy(update={"save": params.each})
    started: Any = generate(studio, own)
    with closing(started) as events:
        for event in events:
            if isinstance(event, Progress):
                done = number * PER_CELL + PER_CELL * event.step // max(event.of, 1)
                event = Progress(done, of * PER_CELL, f"picture {number + 1} of {of}: {event.note}".rstrip(": "))
            yield event


def _check_names(studio: "Studio", planned: Plan) -> None:
    """Samplers, checkpoints and VAEs by name: a slip is told before an hour of work, not after."""
    from ppdiffusers.sampling.menu import choose

    for name in {cell.params.model for cell in planned.cells}:
        studio.runtime.choose(name)
    for name in {cell.params.vae for cell in planned.cells} - {"", "None", "Automatic"}:
        studio.catalog.find("vae", name)
    for sampler, schedule in {(cell.params.sampler, cell.params.schedule) for cell in planned.cells}:
        choose(sampler or "DPM++ 2M", schedule)


def _told(params: GridParams, planned: Plan, first: Saved) -> str:
    """The first picture's settings and the axes, in the WebUI's words."""
    info = parse(first.infotext)
    values = dict(info.values) | {"Script": "X/Y/Z plot"}
    for letter, one, axis in zip("XYZ", planned.lines, (params.x, params.y, params.z), strict=True):
        if one is not None:
            values |= {f"{letter} Type": axis.name, f"{letter} Values": axis.values}
    return str(Infotext(info.prompt, info.negative_prompt, values))
