"""Two photos blended, and a grid made, as a person does it in a real browser."""

import io
import urllib.request

import PIL.Image

from tests.mix.appflow.blend.conftest import beach, flower


def fetch(address: str) -> PIL.Image.Image:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return PIL.Image.open(io.BytesIO(answer.read()))


def test_two_photos_become_a_strip_and_a_click_chooses_a_balance(person, tmp_path):
    page = person.page
    beach().save(tmp_path / "a.png")
    flower().save(tmp_path / "b.png")
    person.tab("Blend")
    for name in "ab":
        page.locator(f"#blend_image_{name} input[type=file]").first.set_input_files(tmp_path / f"{name}.png")
        page.locator(f"#blend_image_{name} img").first.wait_for()
    page.get_by_label("Join: parts").check()
    page.locator("#blend_strip").click()
    person.says("Done", "#blend_status")
    tiles = page.locator("#blend_stage [data-pick]")
    assert tiles.count() == 5
    tiles.nth(1).click()
    page.wait_for_function("document.querySelector('#blend_balance input[type=number]').value === '0.25'")
    person.says("Balance 0.25", "#blend_told")
    assert page.locator("#blend_slider img").count() == 2
    shown = page.locator("#blend_stage .ms-frame a").get_attribute("href") or ""
    assert "Balance: 0.25" in fetch(person.address + shown).info["parameters"]
    person.sound()


def test_without_photos_the_blend_says_what_is_missing_and_examples_help(person):
    page = person.page
    person.tab("Blend")
    page.locator("#blend_go").click()
    person.says("Choose both photos first.", "#blend_status")
    page.locator("#blend_examples").click()
    page.locator("#blend_image_b img").first.wait_for()
    page.get_by_label("Overlay: one half").check()
    page.locator("#blend_go").click()
    person.says("Done", "#blend_status")
    person.says("Balance 0.50", "#blend_told")
    person.sound()


def test_a_grid_tells_its_cost_and_ends_with_a_sheet(person):
    page = person.page
    person.small("a fox", steps=1)
    page.locator("#create_grid_fold button.label-wrap").click()
    page.locator("#create_grid_x input").click()
    page.get_by_role("option", name="Steps", exact=True).click()
    page.fill("#create_grid_x_values textarea, #create_grid_x_values input", "1-3")
    person.says("3 pictures, 6 steps", "#create_grid_cost")
    page.locator("#create_grid_go").click()
    person.says("Done")
    image = fetch(person.address + person.picture())
    assert image.width >= 3 * 64
    assert "X Type: Steps, X Values: 1-3" in image.info["parameters"]
    person.sound()
