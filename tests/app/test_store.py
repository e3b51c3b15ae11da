"""The catalogue: finds, keeps and forgives."""

import os
import signal
import subprocess
import sys
import textwrap

import PIL.Image
import pytest

from app.jobs import Job, Status
from app.store import Store
from ppdiffusers.pipelines.infotext import extract

TEXT = "a red fox, {style}\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Seed: {seed}, Size: 64x64"


def picture(shade=100):
    return PIL.Image.new("RGB", (64, 64), (shade, 0, 0))


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "outputs")
    yield made
    made.close()


def fill(store, styles=("flat", "3d 100%", "photo")):
    return [store.save(picture(i), TEXT.format(style=s, seed=i), seed=i, extra={"i": i}) for i, s in enumerate(styles)]


def test_a_saved_picture_is_a_file_that_tells_how_it_was_made(store):
    entry = fill(store)[0]
    assert extract(entry.path) == TEXT.format(style="flat", seed=0)
    assert (entry.prompt, entry.width, entry.height, entry.extra) == ("a red fox, flat", 64, 64, {"i": 0})
    assert not list(store.folder.rglob("*.part"))


def test_search_is_by_words_of_the_prompt(store):
    fill(store)
    assert [e.prompt for e in store.find("fox photo")] == ["a red fox, photo"]
    assert [e.prompt for e in store.find("100%")] == ["a red fox, 3d 100%"]
    assert store.find("100_") == []
    assert len(store.find()) == 3
    assert [len(store.find(limit=2, offset=o)) for o in (0, 2)] == [2, 1]


def test_favourites_and_trash(store):
    first, second, _ = fill(store)
    store.favour(first.id)
    assert [e.id for e in store.find(favourites=True)] == [first.id]
    gone = store.trash(second.id)
    assert gone.path.exists()
    assert ".trash" in gone.name
    assert second.id not in [e.id for e in store.find()]
    assert store.restore(second.id).path == second.path
    store.trash(second.id)
    assert store.empty_trash() == 1
    assert not gone.path.exists()
    with pytest.raises(KeyError, match="no picture"):
        store.get(second.id)


def test_files_that_the_catalogue_lost_are_found_again(store):
    entries = fill(store)
    store.trash(entries[2].id)
    folder = store.folder
    store.close()
    for file in folder.glob("catalogue.sqlite*"):
        file.unlink()
    again = Store(folder)
    assert again.recovered == 3
    assert sorted(e.prompt for e in again.find()) == ["a red fox, 3d 100%", "a red fox, flat"]
    assert [e.prompt for e in again.find(trashed=True)] == ["a red fox, photo"]
    again.close()


def test_a_damaged_catalogue_is_made_again_from_the_pictures(store):
    fill(store)
    folder = store.folder
    store.close()
    for file in folder.glob("catalogue.sqlite-*"):
        file.unlink()
    (folder / "catalogue.sqlite").write_bytes(b"this is no database" * 100)
    again = Store(folder)
    assert len(again.find()) == 3
    assert list(folder.glob("catalogue-damaged-*"))
    again.close()


def test_files_deleted_by_hand_are_forgotten(store):
    entries = fill(store)
    entries[0].path.unlink()
    store.close()
    again = Store(store.folder)
    assert len(again.find()) == 2
    again.close()


def test_jobs_that_a_crash_ended_are_told_as_interrupted(store):
    running, done = Job("1", "txt2img", iter, {"prompt": "x"}), Job("2", "txt2img", iter)
    running.become(Status.RUNNING)
    done.become(Status.SUCCEEDED)
    for job in (running, done):
        store.record(job)
    store.close()
    again = Store(store.folder)
    assert {j.id: j.status for j in again.history()} == {"1": "interrupted", "2": "succeeded"}
    assert again.history()[-1].params == {"prompt": "x"} or again.history()[0].params == {"prompt": "x"}
    again.close()


def test_killing_the_process_while_it_saves_breaks_no_file(tmp_path):
    script = textwrap.dedent(f"""
        import PIL.Image, os
        from app.store import Store
        store = Store({str(tmp_path / "outputs")!r})
        image = PIL.Image.effect_noise((512, 512), 90).convert("RGB")
        print("ready", flush=True)
        while True:
            store.save(image, "a fox\\nSteps: 1, Sampler: Euler, Seed: 1, Size: 512x512", seed=1)
    """)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=os.getcwd())
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    store = Store(tmp_path / "outputs")
    files = list(store.folder.glob("2*/*.png"))
    assert files
    for file in files:
        with PIL.Image.open(file) as image:
            image.load()
    assert len(store.find(limit=10_000)) == len(files)
    assert not list(store.folder.rglob("*.part"))
    store.close()
