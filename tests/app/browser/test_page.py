"""The page as a whole: language, theme, phone, gallery, PNG Info."""

import io

import PIL.Image
from PIL.PngImagePlugin import PngInfo

INFOTEXT = (
    "castle on a hill\nNegative prompt: fog\nSteps: 17, Sampler: Euler a, CFG scale: 5.5, Seed: 4711, Size: 256x320"
)


def make(person, prompt: str) -> None:
    person.small(prompt)
    person.generate()
    person.says("Done")


def test_the_language_changes_in_place_and_is_remembered(person):
    person.page.fill("#create_prompt textarea", "typed before")
    person.page.locator("#language_toggle").click()
    person.says("生成", "#create_go")
    assert person.page.locator("#create_prompt textarea").input_value() == "typed before"
    person.page.get_by_label("从图片开始").wait_for()
    person.tab("设置")
    person.page.get_by_label("精度").first.wait_for()
    person.page.wait_for_timeout(400)
    person.page.reload()
    person.says("生成", "#create_go")
    assert person.page.evaluate("document.documentElement.lang") == "zh-CN"
    person.page.locator("#language_toggle").click()
    person.says("Generate", "#create_go")
    person.sound()


def test_a_chinese_browser_is_met_in_chinese(somebody):
    person = somebody(locale="zh-CN")
    person.says("生成", "#create_go")
    person.says("图片会显示在这里", "#create_stage")


def test_a_phone_has_no_sideways_scrolling_and_its_button_in_reach(somebody):
    person = somebody(width=390)
    wide = person.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390, f"the page is {wide} px wide"
    button = person.page.locator("#create_go").bounding_box()
    assert button["y"] + button["height"] <= 844
    make(person, "on a phone")
    for tab in person.page.locator("#tabs > .tab-wrapper button[role=tab]").all_inner_texts()[:3]:
        person.tab(tab)
        person.page.wait_for_timeout(300)
        assert person.page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    person.sound()


def test_dark_follows_the_system_and_the_button(somebody):
    person = somebody(dark=True)
    colour = "getComputedStyle(document.body).backgroundColor"
    assert person.page.evaluate(colour) == "rgb(15, 21, 20)"
    person.page.locator("#theme_toggle").click()
    assert person.page.evaluate(colour) == "rgb(241, 244, 243)"
    person.page.reload()
    person.page.wait_for_selector("#create_go")
    assert person.page.evaluate(colour) == "rgb(241, 244, 243)"


def test_the_gallery_finds_deletes_and_brings_back(person):
    make(person, "zebra in a meadow")
    make(person, "lighthouse at night")
    person.tab("Gallery")
    tiles = person.page.locator("#gallery_tiles .ms-tile")
    tiles.first.wait_for()
    person.page.fill("#gallery_search textarea, #gallery_search input", "zebra meadow")
    person.page.wait_for_function("document.querySelectorAll('#gallery_tiles .ms-tile').length === 1")
    person.says("zebra in a meadow", "#gallery_infotext")
    person.page.locator("#gallery_trash").click()
    person.says("Nothing has all of these words", "#gallery_tiles")
    person.page.get_by_label("Trash").check()
    person.page.wait_for_function("document.querySelectorAll('#gallery_tiles .ms-tile').length === 1")
    person.page.locator("#gallery_restore").click()
    person.says("Nothing has all of these words", "#gallery_tiles")
    person.page.locator("#gallery_show").get_by_label("All").check()
    person.page.wait_for_function("document.querySelectorAll('#gallery_tiles .ms-tile').length === 1")
    person.page.locator("#gallery_star").click()
    person.page.locator("#gallery_tiles .ms-star").wait_for()
    person.sound()


def test_a_picture_of_the_webui_fills_the_form(person, tmp_path):
    info = PngInfo()
    info.add_text("parameters", INFOTEXT)
    path = tmp_path / "webui.png"
    PIL.Image.new("RGB", (32, 40)).save(path, pnginfo=info)
    person.tab("Gallery")
    person.tab("PNG Info")
    person.page.locator("#info_image input[type=file]").set_input_files(path)
    person.page.wait_for_function("document.querySelector('#info_text textarea').value.includes('castle')")
    person.page.locator("#info_all").click()
    person.page.locator("#create_prompt textarea").wait_for()
    assert person.page.locator("#create_prompt textarea").input_value() == "castle on a hill"
    assert person.page.locator("#create_negative textarea").input_value() == "fog"
    assert person.page.locator("#create_width input[type=number]").input_value() == "256"
    assert person.page.locator("#create_seed input").input_value() == "4711"
    person.page.locator("#create_sampling button.label-wrap").click()
    assert person.page.locator("#create_steps input[type=number]").input_value() == "17"
    assert person.page.locator("#create_sampler input").input_value() == "Euler a"
    person.sound()


def test_the_picture_can_be_downloaded_with_its_settings(person):
    make(person, "to be kept")
    person.tab("Gallery")
    person.page.locator("#gallery_tiles .ms-tile").first.wait_for()
    with person.page.expect_download() as waiting:
        person.page.get_by_role("link", name="Download").click()
    with open(waiting.value.path(), "rb") as file:
        image = PIL.Image.open(io.BytesIO(file.read()))
    assert image.info["parameters"].startswith("to be kept")


def test_every_field_has_a_name_for_those_who_cannot_see_it(person):
    nameless = person.page.evaluate(
        """() => [...document.querySelectorAll('#tab_create input, textarea, select')]
            .filter(e => e.offsetParent && e.type !== 'file' && e.type !== 'range' && !e.labels?.length
                && !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby'))
            .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert not nameless
