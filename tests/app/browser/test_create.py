"""Create, as a person drives it in a real browser."""

import io
import urllib.request

import numpy as np
import PIL.Image
import pytest


def fetch(address: str) -> PIL.Image.Image:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return PIL.Image.open(io.BytesIO(answer.read()))


@pytest.fixture
def photo(tmp_path):
    """A picture with a different colour at each place."""
    y, x = np.mgrid[0:192, 0:256]
    array = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(array).save(path)
    return path


def test_words_become_a_picture_that_remembers_them(person):
    person.small("a (red:1.2) fox")
    person.page.keyboard.press("Control+Enter")
    person.says("Done")
    image = fetch(person.address + person.picture())
    assert image.size == (64, 64)
    assert image.info["parameters"].startswith("a (red:1.2) fox\nSteps: 2")
    person.says("of 75 tokens", "#create_tokens")
    person.sound()


def test_a_running_job_is_interrupted(person):
    person.small(steps=150, side=128)
    person.generate()
    person.says("left")
    person.page.keyboard.press("Escape")
    person.says("Cancelled")
    person.sound()


def test_a_reload_in_the_middle_loses_nothing(person):
    person.small("kept over a reload", steps=30, side=128)
    person.generate()
    person.says("left")
    person.page.wait_for_timeout(400)  # the form is kept a moment after the last change
    person.page.reload()
    person.page.wait_for_selector("#create_go")
    person.says("Done")
    assert person.page.locator("#create_prompt textarea").input_value() == "kept over a reload"
    assert fetch(person.address + person.picture()).info["parameters"].startswith("kept over a reload")


def test_more_is_queued_while_one_is_made_and_changed_in_the_drawer(person):
    person.small("first", steps=150, side=192)
    person.number("create_count", 16)  # long enough for what follows on any machine
    person.generate()
    person.says("left")
    person.page.fill("#create_prompt textarea", "second")
    person.generate()
    person.page.locator("#queue_open").click()
    waiting = person.page.locator("#ms_drawer .ms-job", has_text="second")
    waiting.get_by_role("button", name="Cancel").click()
    waiting.get_by_text("Cancelled").wait_for()
    person.page.locator("#ms_drawer .ms-job", has_text="first").get_by_role("button", name="Cancel").click()
    person.page.locator("#ms_drawer header button").click()
    person.says("Cancelled")
    person.sound()


def test_a_brushed_mask_repaints_its_place_alone(person, photo):
    person.small(steps=3)
    person.number("create_width", 256)
    person.number("create_height", 192)
    person.page.get_by_label("Repaint a part").check()
    canvas = person.page.locator("#create_editor canvas").first
    canvas.wait_for()
    person.page.wait_for_timeout(1500)  # an editor that has just come takes no picture yet, and does not say so
    person.page.locator("#create_editor input[type=file]").set_input_files(photo)
    person.page.locator("#create_editor button[aria-label='Brush Size']").wait_for()
    person.page.wait_for_timeout(500)
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    person.page.mouse.move(*middle)
    person.page.mouse.down()
    person.page.mouse.move(middle[0] + 6, middle[1] + 4, steps=4)
    person.page.mouse.up()
    person.page.wait_for_timeout(500)
    person.generate()
    person.says("Done")
    both = fetch(person.address + person.picture()), PIL.Image.open(photo)
    made, was = (np.asarray(image.convert("RGB"), int) for image in both)
    assert made.shape == was.shape  # the mask came at the picture's size
    changed = np.abs(made - was).max(axis=-1) > 8
    assert changed[84:108, 116:140].mean() > 0.8
    assert not changed[:40].any(), "above nothing was painted"
    assert not changed[:, :70].any(), "on the left nothing was painted"
    person.sound()


def test_repainting_without_paint_is_told(person, photo):
    person.small()
    person.page.get_by_label("Repaint a part").check()
    person.generate()
    person.says("Choose the picture that you want to repaint")


def test_a_finished_picture_is_the_start_of_the_next(person):
    person.small("one")
    person.generate()
    person.says("Done")
    person.page.locator("#create_send").get_by_role("button", name="Vary").click()
    person.page.locator("#create_init img").wait_for()
    assert person.page.get_by_label("From a picture").is_checked()
    first = person.picture()
    person.generate()
    other = f"document.querySelector('#create_stage .ms-frame a')?.getAttribute('href') !== '{first}'"
    person.page.wait_for_function(other)
    person.says("Done")
    assert "Denoising strength: 0.75" in fetch(person.address + person.picture()).info["parameters"]
    person.sound()


def test_the_weight_of_words_is_changed_by_keys(person):
    area = person.page.locator("#create_prompt textarea")
    area.fill("a red fox")
    area.evaluate("e => { e.focus(); e.setSelectionRange(3, 3); }")
    area.press("Control+ArrowUp")
    assert area.input_value() == "a (red:1.1) fox"
    area.press("Control+ArrowUp")
    assert area.input_value() == "a (red:1.2) fox"
    for _ in range(2):
        area.press("Control+ArrowDown")
    assert area.input_value() == "a red fox"
