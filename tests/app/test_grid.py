"""The X/Y/Z grid: ranges as people write them, axes that change what they say, one sheet at the end."""

import PIL.Image
import pytest
from pydantic import ValidationError

from app.demo import add_tiny
from app.grid import AXES, floats, integers, line, plan, sheet, sizes, words
from app.jobs import Status
from app.requests import GenerateParams, HiresParams
from app.requests_grid import GridParams
from app.services import kinds
from app.studio import Studio, results
from ppdiffusers.pipelines.infotext import extract


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1, 2,5", [1, 2, 5]),
        ("1-5", [1, 2, 3, 4, 5]),
        ("5-2", [5, 4, 3, 2]),
        ("1-10 (+2)", [1, 3, 5, 7, 9]),
        ("10-1(-3)", [10, 7, 4, 1]),
        ("1-10 [4]", [1, 4, 7, 10]),
        ("3, 7-9", [3, 7, 8, 9]),
        ("-3--1", [-3, -2, -1]),
        ("", []),
    ],
)
def test_whole_numbers_and_ranges(text, values):
    assert integers(text) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5, .75", [0.5, 0.75]),
        ("0-1 [5]", [0, 0.25, 0.5, 0.75, 1]),
        ("0-0.3 (+0.1)", [0, 0.1, 0.2, 0.3]),
        ("1-3", [1, 2, 3]),
    ],
)
def test_numbers_and_ranges(text, values):
    assert floats(text) == pytest.approx(values)


@pytest.mark.parametrize("text", ["a", "1-", "1-5 (-1)", "1-5 (+0)", "1-9999999", "1-2 [0]"])
def test_a_range_that_leads_nowhere_is_told(text):
    with pytest.raises(ValueError, match=r"range|steps of|at most"):
        integers(text)


def test_lists_keep_what_is_quoted():
    assert words('cat, "dog, sitting", fox') == ["cat", "dog, sitting", "fox"]
    assert sizes("512x768, 64X128") == [(512, 768), (64, 128)]


BASE = GenerateParams(prompt="a cat on a mat <lora:ink:0.8>", steps=4, seed=5, width=64, height=64)


def made(name, text, base=BASE):
    return [cell.params for cell in plan(base, [line(name, text), None, None]).cells]


def test_axes_change_what_they_say():
    assert [p.steps for p in made("Steps", "2-4")] == [2, 3, 4]
    assert [p.prompt[:5] for p in made("Prompt S/R", "cat, dog")] == ["a cat", "a dog"]
    assert [p.prompt[-7:] for p in made("LoRA weight", "0.5, 1")] == ["nk:0.5>", ":ink:1>"]
    assert [(p.width, p.height) for p in made("Size", "64x128")] == [(64, 128)]
    orders = [p.prompt for p in made("Prompt order", "cat, mat")]
    assert orders[1].startswith("a mat on a cat")
    twice = BASE.model_copy(update={"hires": HiresParams()})
    assert [p.hires.strength for p in made("Hires denoising", "0.2", twice)] == [0.2]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Stepz", "1", "there is no axis"),
        ("Steps", "", "give the values"),
        ("Steps", "0", "greater than or equal to 1"),
        ("Prompt S/R", "horse, dog", "neither prompt"),
        ("Hires steps", "3", "second pass"),
        ("ControlNet weight", "1", "ControlNet on"),
        ("Seed", "1-401", "at most 400"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_made(name, text, message):
    with pytest.raises(ValidationError, match=message):
        GridParams(base=BASE, x={"name": name, "values": text})


def test_dear_changes_are_seldom_and_the_cost_is_known():
    lines = [line("Checkpoint name", "a, b"), line("Steps", "2, 3"), None]
    planned = plan(BASE, lines)
    assert [cell.params.model for cell in planned.cells] == ["a", "a", "b", "b"]
    assert planned.cost() == {"pictures": 4, "steps": 10, "loads": 2}
    assert plan(BASE, [lines[1], lines[0], None]).cost()["loads"] == 2


def test_the_sheet_has_every_picture_and_room_for_labels():
    planned = plan(BASE, [line("Steps", "2-4"), line("CFG Scale", "1, 7"), None])
    pictures = {cell.place: PIL.Image.new("RGB", (64, 64), "red") for cell in planned.cells}
    plain, labelled = sheet(planned, pictures, legend=False), sheet(planned, pictures)
    assert plain.size == (192, 128)
    assert plain.getcolors() == [(192 * 128, (255, 0, 0))]
    assert labelled.width > 192
    assert labelled.height > 128


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    name = add_tiny(folder)
    with Studio.open(folder, model=name) as opened:
        yield opened


def ask(**values) -> GridParams:
    x, y = {"name": "Steps", "values": "1-2"}, {"name": "Seed", "values": "1, 2"}
    return GridParams(base={"prompt": "a cat", "width": 64, "height": 64}, **{"x": x, "y": y, **values})


def test_a_grid_is_a_job_that_ends_with_its_sheet(studio):
    assert kinds()["grid"] is GridParams
    job = studio.submit(ask())
    assert job.wait(120)
    assert job.status is Status.SUCCEEDED, job.error
    (saved,) = results(job)
    assert "Script: X/Y/Z plot, X Type: Steps, X Values: 1-2" in (extract(saved.entry.path) or "")
    assert job.done == job.of == 400


def test_single_pictures_are_kept_where_wished_and_a_cancel_ends_it(studio):
    job = studio.submit(ask(each=True))
    for _, event in job.follow():
        if type(event).__name__ == "Saved":
            studio.cancel(job)
            break
    assert job.wait(60)
    assert job.status is Status.CANCELED
    assert 1 <= len(list(results(job))) < 5


def test_a_slip_in_a_name_ends_the_job_at_once(studio):
    job = studio.submit(ask(x={"name": "Sampler", "values": "Euler, Euleer"}))
    assert job.wait(60)
    assert job.status is Status.FAILED
    assert "did you mean" in (job.error or "")
    assert not list(results(job))


def test_every_axis_has_a_name_that_the_webui_knows():
    assert {"Seed", "Steps", "CFG Scale", "Prompt S/R", "Checkpoint name", "Denoising"} <= set(AXES)
