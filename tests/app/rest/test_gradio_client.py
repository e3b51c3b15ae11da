"""Gradio's own client, unchanged, against the whole live application."""

import time

import PIL.Image
import pytest

from app import server
from tests.app.conftest import serving

gradio_client = pytest.importorskip("gradio_client")
TINY = {"width": 64, "height": 64, "steps": 2}
HIDDEN = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def studio(lasting_studio):
    return lasting_studio


@pytest.fixture(scope="module")
def client(studio):
    with serving(server.make(studio)) as port:
        yield gradio_client.Client(f"http://127.0.0.1:{port}/", verbose=False)


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "blue")]
    for path in paths:
        PIL.Image.new("RGB", (96, 64), path.stem).save(path)
    return [gradio_client.handle_file(path) for path in paths]


def test_generate_gives_pictures_and_says_how_far_it_is(client, studio):
    job = client.submit("a fox", **TINY, seed=5, count=2, api_name="/generate")
    files, state = job.result(timeout=120)
    assert [PIL.Image.open(file).size for file in files] == [(64, 64)] * 2
    assert state["status"] == "succeeded"
    assert [p["seed"] for p in state["pictures"]] == [5, 6]
    assert {told["status"] for _, told in job.outputs()} <= {"queued", "running", "succeeded"}


def test_the_same_seed_gives_the_same_file(client):
    twice = [client.predict("a fox", **TINY, seed=7, api_name="/generate")[0][0] for _ in range(2)]
    first, second = (PIL.Image.open(file).tobytes() for file in twice)
    assert first == second


def test_blend_takes_uploads(client, photos):
    more = {"method": "dissolve", "model": "none", "size": 256}
    files, state = client.predict(*photos, balance=1.0, settings=more, api_name="/blend")
    assert state["status"] == "succeeded"
    red, _, blue = PIL.Image.open(files[0]).convert("RGB").getpixel((20, 20))
    assert blue > 200 > 60 > red


def test_any_kind_of_job_by_name(client, tmp_path):
    job = {"base": {"prompt": "a fox", **TINY, "seed": 1}, "x": {"name": "Seed", "values": "1,2"}}
    files, state = client.predict("grid", job, api_name="/job")
    assert state["kind"] == "grid"
    assert len(files) == 1


@pytest.mark.parametrize(
    ("endpoint", "told", "sentence"),
    [
        ("/generate", {"prompt": "x", "settings": {"steps": -1}}, "steps"),
        ("/generate", {"prompt": "x", "settings": {"sampler": "nope"}}, "nope"),
        ("/blend", {"image_a": HIDDEN, "image_b": HIDDEN}, "file"),
        ("/job", {"kind": "nope", "settings": {}}, "there is no kind of job"),
        ("/job", {"kind": "enlarge", "settings": {"image": "/etc/hostname"}}, "image"),
        ("/job", {"kind": "generate", "settings": [1]}, "object"),
    ],
)
def test_wrong_requests_are_told_why(client, endpoint, told, sentence):
    with pytest.raises(gradio_client.exceptions.AppError, match=sentence):
        client.predict(**told, api_name=endpoint)


def test_a_client_that_cancels_ends_its_job(client, studio):
    job = client.submit("a fox", **{**TINY, "steps": 900}, seed=1, api_name="/generate")
    while not job.outputs():
        time.sleep(0.05)
    job.cancel()
    deadline = time.monotonic() + 30
    while any(not one.status.final for one in studio.jobs()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert studio.jobs()[-1].status.value == "canceled"
