"""Blending as the page, HTTP and the terminal ask for it: params, jobs, pictures that are kept, the command line."""

import json

import PIL.Image
import pytest
from pydantic import ValidationError

from app import catalog
from app.cli import main
from app.jobs import Status
from app.requests_blend import BlendParams
from app.services import kinds
from app.studio import Studio, results
from app.ui.blend import params_of
from ppdiffusers.pipelines.infotext import extract
from tests.mix.appflow.blend.conftest import beach, flower

PLAIN = {"method": "composite", "model": "none", "size": 160}


@pytest.fixture(autouse=True)
def no_models(tmp_path, monkeypatch):
    """As if nothing were shipped: these tests are about what a job is, not about a model."""
    monkeypatch.setattr(catalog, "EMBEDDED", tmp_path / "nothing")


@pytest.fixture
def studio(tmp_path):
    with Studio.open(tmp_path) as opened:
        yield opened


def params(**values) -> BlendParams:
    return BlendParams(image_a=beach(), image_b=flower(), **{**PLAIN, **values})


def test_blend_is_a_kind_of_job():
    assert kinds()["blend"] is BlendParams
    assert "image_a" in BlendParams.model_json_schema()["required"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"balance": 2}, "less than or equal to 1"),
        ({"strip": 1}, "2 to 21"),
        ({"method": "latent"}, "needs a model"),
        ({"shape": "mask"}, "needs the mask"),
        ({"width": 256}, "both width and height"),
        ({"image_a": PIL.Image.new("RGB", (3, 3))}, "too small"),
        ({"image_a": "no picture"}, "base64"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(values, message):
    with pytest.raises(ValidationError, match=message):
        BlendParams(**{"image_a": beach(), "image_b": flower(), **PLAIN, **values})


def test_a_strip_is_one_job_whose_pictures_know_their_balance(studio):
    job = studio.submit(params(strip=3, seed=7))
    assert job.wait(60)
    assert job.status is Status.SUCCEEDED, job.error
    found = [saved.entry for saved in results(job)]
    assert [entry.extra["blend"]["balance"] for entry in found] == [0, 0.5, 1]
    likes = [entry.extra["blend"]["like_a"] for entry in found]
    assert likes == sorted(likes, reverse=True)
    assert "Balance: 0.5" in (extract(found[1].path) or "")
    assert job.done == job.of


def test_cancelling_a_strip_keeps_what_is_done(studio):
    job = studio.submit(params(strip=21))
    for _, event in job.follow():
        if type(event).__name__ == "Saved":
            studio.cancel(job)
            break
    assert job.wait(60)
    assert job.status is Status.CANCELED
    assert 1 <= len(list(results(job))) < 21


def test_without_any_model_pixels_are_blended_and_latents_refused(studio):
    job = studio.submit(params(model=""))
    assert job.wait(60)
    assert job.status is Status.SUCCEEDED
    job = studio.submit(params(model="", method="latent"))
    assert job.wait(60)
    assert job.status is Status.FAILED
    assert "no checkpoint" in (job.error or "")


def test_the_form_asks_for_what_it_shows():
    values = {"image_a": beach(), "image_b": flower(), "mask": beach(), **PLAIN, "shape": "subject"}
    values |= {"steps": 20.0, "seed": -1.0, "size": 256.0, "prompt": "sea"}
    asked = params_of(values, 5)
    assert (asked.strip, asked.size, asked.mask) == (5, 256, None)
    with pytest.raises(ValueError, match="both photos"):
        params_of(values | {"image_b": None}, 0)


def test_the_command_line_writes_a_strip_and_says_so(tmp_path, capsys):
    beach().save(tmp_path / "a.png")
    flower().save(tmp_path / "b.jpg")
    words = ["blend", str(tmp_path / "a.png"), str(tmp_path / "b.jpg"), "--data", str(tmp_path / "data"), "--json"]
    words += ["--out", str(tmp_path / "mix.png"), "--method", "composite", "--model", "none", "--size", "160"]
    assert main([*words, "--strip", "2"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["path"] for event in told if event["event"] == "image"] == [
        str(tmp_path / f"mix-{i}.png") for i in (1, 2)
    ]
    assert "Blend: composite" in (extract(tmp_path / "mix-1.png") or "")
    assert main([*words, "--balance", "3"]) == 1
    assert "balance" in capsys.readouterr().err
    assert main(["blend", "nothing.png", *words[2:]]) == 1
    assert "no picture" in capsys.readouterr().err
    assert main([*words[:6], "--method", "latent", "--out", str(tmp_path / "c.png")]) == 1
    assert "no checkpoint" in capsys.readouterr().err
