"""The whole way of a job through the studio, on a tiny checkpoint."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from app.catalog import Catalog
from app.jobs import Status
from app.requests import ControlParams, GenerateParams
from app.requests_qr import QrParams
from app.services import Saved
from app.services_qr import to_request
from app.studio import Studio, results
from ppdiffusers.pipelines.event import Preview, Progress
from ppdiffusers.weights.plan import drain
from tests.app.conftest import VALUES


def done(job, seconds=60):
    assert job.wait(seconds), f"{job.kind} is still {job.status} after {seconds} s"
    return job


def test_a_job_ends_with_its_picture_in_the_gallery(studio):
    job = done(studio.submit(GenerateParams(prompt="a fox", **VALUES)))
    assert (job.status, job.error) == (Status.SUCCEEDED, None)
    (saved,) = results(job)
    (entry,) = studio.store.find("fox")
    assert entry == saved.entry
    assert entry.job == job.id
    assert "Seed: 1" in entry.infotext
    assert saved.picture().size == (64, 64)
    assert any(isinstance(event, Progress) for event in job.events)
    (past,) = studio.store.history()
    assert (past.status, past.params["prompt"]) == ("succeeded", "a fox")


def test_the_same_seed_gives_the_same_picture_in_any_batch(studio):
    many = done(studio.submit(GenerateParams(prompt="x", count=3, batch_size=2, **VALUES)))
    alone = done(studio.submit(GenerateParams(prompt="x", **VALUES | {"seed": 3})))
    third, same = list(results(many))[2], next(results(alone))
    assert third.index == 2
    assert [one.seed for one in results(many)] == [1, 2, 3]
    difference = np.asarray(third.picture()).astype(int) - np.asarray(same.picture())
    assert abs(difference).max() <= 1


def test_progress_of_several_batches_runs_once_to_its_end(studio):
    job = done(studio.submit(GenerateParams(prompt="x", count=3, batch_size=1, **VALUES)))
    steps = [
        event for event in job.events if isinstance(event, Progress) and not event.note.startswith(("load", "pack"))
    ]
    assert [event.step for event in steps] == sorted(event.step for event in steps)
    assert steps[-1].step == steps[-1].of


def test_a_skipped_batch_is_left_out_and_the_next_one_made(studio):
    job = studio.submit(GenerateParams(prompt="x", count=2, batch_size=1, **VALUES | {"steps": 30}))
    for _, event in job.follow():
        if isinstance(event, Progress) and event.note == "denoising":
            job.skip()
            break
    done(job)
    assert job.status is Status.SUCCEEDED
    assert [saved.index for saved in results(job)] == [1]


def test_cancelling_ends_a_running_job_without_a_picture(studio):
    job = studio.submit(GenerateParams(prompt="x", **VALUES | {"steps": 500}))
    for _, event in job.follow():
        if isinstance(event, Preview):
            studio.cancel(job)
            break
    done(job)
    assert job.status is Status.CANCELED
    assert not studio.store.find()


def test_input_pictures_are_kept_with_the_history_and_can_be_used_again(studio):
    photo = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 64, 3), dtype=np.uint8))
    job = done(studio.submit(GenerateParams(prompt="x", init_image=photo, mask=photo.convert("L"), **VALUES)))
    assert job.status is Status.SUCCEEDED, job.error
    kept = studio.store.history()[0].params
    again = studio.parse(GenerateParams, kept)
    assert np.array_equal(np.asarray(again.init_image), np.asarray(photo))
    assert again.mask.mode == "L"
    fresh = studio.parse(GenerateParams, {"init_image": f"gallery:{next(results(job)).entry.id}"})
    assert fresh.init_image.size == (64, 64)
    assert not studio.store.find("nothing like it")


def test_pictures_that_are_not_to_be_kept_come_with_the_job(studio):
    job = done(studio.submit(GenerateParams(prompt="x", save=False, **VALUES)))
    (saved,) = results(job)
    assert isinstance(saved, Saved)
    assert saved.entry is None
    assert saved.picture().size == (64, 64)
    assert not studio.store.find()


def test_kept_inputs_do_not_show_up_in_the_gallery_after_a_restart(data):
    photo = PIL.Image.new("RGB", (64, 64), "red")
    with Studio.open(data, model="tiny", dtype="float32") as studio:
        done(studio.submit(GenerateParams(prompt="x", init_image=photo, **VALUES)))
    with Studio.open(data) as studio:
        assert len(studio.store.find()) == 1


def test_a_job_for_a_model_that_is_not_there_fails_with_what_there_is(studio):
    job = done(studio.submit(GenerateParams(model="dreamshaper", **VALUES)))
    assert job.status is Status.FAILED
    assert "'dreamshaper'" in job.error
    assert "tiny" in job.error


def test_styles_are_put_into_the_prompt(studio):
    job = done(studio.submit(GenerateParams(prompt="a fox", styles=["Ink"], **VALUES)))
    assert next(results(job)).infotext.startswith("a fox, ink drawing")
    failed = done(studio.submit(GenerateParams(styles=["Inkk"], **VALUES)))
    assert "'Inkk'" in failed.error


def test_a_studio_without_any_model_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr("app.catalog.EMBEDDED", tmp_path / "none")
    with Studio.open(tmp_path) as empty:
        job = done(empty.submit(GenerateParams(prompt="x")))
        assert "models add" in job.error


def test_a_job_that_the_process_left_behind_is_called_interrupted(data):
    first = Studio.open(data, model="tiny")
    first.worker.finished = lambda job: None  # as if the process had died before it could write
    job = first.submit(GenerateParams(prompt="x", **VALUES | {"steps": 400}))
    time.sleep(0.2)
    first.close()
    with Studio.open(data) as second:
        assert [(past.id, past.status) for past in second.store.history()] == [(job.id, "interrupted")]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 0}, "steps"),
        ({"width": 100}, "width"),
        ({"width": -64}, "width"),
        ({"width": 10**6}, "width"),
        ({"cfg_scale": float("nan")}, "cfg_scale"),
        ({"prompt": "x" * 200_000}, "prompt"),
        ({"seed": 2**40}, "seed"),
        ({"init_image": "not a picture"}, "init_image"),
        ({"init_image": "gallery:99"}, "no picture 99"),
        ({"init_image": "gallery:../../etc/passwd"}, "names no picture"),
        ({"init_image": "input:../../etc/passwd"}, "not kept any more"),
        ({"init_image": "http://127.0.0.1/x.png"}, "a link is not followed"),
        ({"mask": "iVBORw0KGgo="}, "mask"),
        ({"mask": PIL.Image.new("L", (64, 64))}, "init_image"),
        ({"unknown": 1}, "unknown"),
        ({"controls": [{"model": "x", "preprocessor": "magic"}]}, "canny"),
        ({"controls": [{"model": "x"}]}, "needs a picture"),
        ({"count": 10_000}, "count"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(studio, values, words):
    with pytest.raises(ValueError, match="(?s)" + words.replace("[", r"\[")):
        studio.parse(GenerateParams, values)


def test_an_unknown_sampler_fails_the_job_with_the_known_ones(studio):
    job = done(studio.submit(GenerateParams(**VALUES | {"sampler": "Oiler"})))
    assert job.status is Status.FAILED
    assert "Euler" in job.error


def test_models_are_dropped_least_recently_used_when_memory_is_full(data, tiny_checkpoint):
    (data / "models" / "Stable-diffusion" / "second").symlink_to(tiny_checkpoint, target_is_directory=True)
    with Studio.open(data, model="tiny", dtype="float32", memory_gb=1e-6) as small:
        for name in ("tiny", "second"):
            done(small.submit(GenerateParams(model=name, **VALUES)))
            assert len(small.runtime.loaded()) == 1
        assert small.runtime.last == "second"
        small.runtime.relieve()
        assert not small.runtime.loaded()


def test_a_control_unit_takes_the_init_picture_where_it_has_none():
    unit = ControlParams(model="x", preprocessor="canny")
    assert GenerateParams(init_image=PIL.Image.new("RGB", (64, 64)), controls=[unit]).controls[0].image is None


def test_the_catalogue_finds_a_model_by_every_name(data):
    catalog = Catalog(Studio.open(data).settings)
    assert catalog.find("checkpoint", "tiny").path.name == "tiny"
    assert catalog.find("checkpoint", "TINY").name == "tiny"
    assert catalog.find("checkpoint", "tiny.safetensors").name == "tiny"
    with pytest.raises(KeyError, match="there are: "):
        catalog.find("checkpoint", "big")


def test_choices_in_a_prompt_are_made_by_the_seed_of_each_picture(studio, data):
    (data / "wildcards").mkdir()
    (data / "wildcards" / "animal.txt").write_text("fox\nowl\nfrog\nbear\n")
    asked = GenerateParams(prompt="a {red|green|blue} __animal__", **VALUES | {"count": 6, "batch_size": 2})
    said = [[one.infotext.splitlines()[0] for one in results(done(studio.submit(asked)))] for _ in range(2)]
    assert said[0] == said[1]
    assert len(set(said[0])) > 2
    assert all(set(line.split()) & {"fox", "owl", "frog", "bear"} for line in said[0])
    with pytest.raises(ValueError, match=r"no wildcard __bird__; there are animal"):
        studio.submit(GenerateParams(prompt="a __bird__", **VALUES))


WORKS = """
import sys
from app import environment
environment.prepare()
from app.requests import GenerateParams
from app.studio import Studio
from app.studio import results
with Studio.open(sys.argv[1], model="tiny", dtype="float32") as studio:
    values = {"sampler": "Euler", "steps": 1, "width": 64, "height": 64, "count": 2, "batch_size": 2}
    jobs = [studio.submit(GenerateParams(prompt=f"number {i}", seed=i, **values)) for i in range(60)]
    for job in jobs:
        job.wait()
        print(job.id, *(one.entry.name for one in results(job)), flush=True)
"""


def test_a_killed_studio_loses_no_finished_picture_and_tells_what_was_cut_off(data):
    told = []
    for pause in (0.05, 0.31):
        process = subprocess.Popen([sys.executable, "-c", WORKS, str(data)], stdout=subprocess.PIPE, text=True)
        told += [process.stdout.readline().split() for _ in range(3)]
        time.sleep(pause)
        process.kill()
        told += [line.split() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.wait()
    with Studio.open(data, model="tiny", dtype="float32") as studio:
        kept = {entry.name: entry for entry in studio.store.find(limit=1000)}
        states = {past.id: past.status for past in studio.store.history(1000)}
    for job, *names in told:
        assert states[job] == "succeeded"
        assert set(names) <= set(kept)
    for entry in kept.values():
        with PIL.Image.open(entry.path) as image:
            image.load()
    assert "interrupted" in states.values()
    assert not {"queued", "running"} & set(states.values())
    assert not list(data.rglob("*.part"))


def test_a_model_tells_what_it_is_good_at(data, tiny_checkpoint):
    folder = data / "models" / "Stable-diffusion" / "told"
    shutil.copytree(tiny_checkpoint, folder)
    told = {"recommended": {"steps": 12, "redraw": 0.2}, "note": "It draws foxes.", "examples": ["a fox", "two foxes"]}
    (folder / "mixstudio.json").write_text(json.dumps(told))
    with Studio.open(data, model="tiny") as studio:
        about = studio.runtime.about("told")
        assert (about.note, about.examples) == ("It draws foxes.", ("a fox", "two foxes"))
        assert studio.runtime.recommended("told")["steps"] == 12
        for asked, redraw in ((QrParams(text="x", model="told"), 0.2), (QrParams(text="x", model="tiny"), 0.5)):
            assert drain(to_request(studio, asked)).steering.redraw == redraw
        assert drain(to_request(studio, QrParams(text="x", model="told", redraw=0.0))).steering.redraw == 0
        assert studio.runtime.about("tiny").examples == ()
        assert studio.runtime.about("nothing of that name").note == ""
        (folder / "mixstudio.json").write_text("[1, 2")
        assert studio.runtime.about("told").note == ""
