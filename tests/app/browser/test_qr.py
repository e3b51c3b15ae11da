"""A QR code made, looked at, downloaded and read, as a person does it in a real browser."""

import io
import urllib.request

import PIL.Image

from mix.appflow.artqr import scan
from tests.mix.appflow.artqr.test_repair import scene


def test_a_code_is_made_downloaded_and_read(person, tmp_path):
    page = person.page
    scene(300).save(tmp_path / "own.png")
    person.tab("Art QR")
    page.fill("#qr_text textarea, #qr_text input", "example.com/menu")
    page.locator("#qr_own button.label-wrap").click()
    page.locator("#qr_picture input[type=file]").first.set_input_files(tmp_path / "own.png")
    page.locator("#qr_picture img").first.wait_for()
    person.number("qr_candidates", 2)
    page.locator("#qr_expert button.label-wrap").click()
    person.number("qr_redraw", 0)
    page.locator("#qr_go").click()
    page.locator("#qr_report").get_by_text("Scans with every reader").wait_for(timeout=120_000)
    page.locator("#qr_report ol li").nth(1).wait_for(timeout=60_000)
    assert page.locator("#qr_report tbody tr").count() == len(scan.readers())
    link = page.locator("#qr_report a[download]").get_attribute("href") or ""
    with urllib.request.urlopen(person.address + link, timeout=10) as answer:
        code = PIL.Image.open(io.BytesIO(answer.read()))
    assert scan.scan(code, "https://example.com/menu", ()).ok
    assert "QR text" in code.info["parameters"]
    person.sound()


def test_what_is_missing_is_said_and_the_kinds_have_their_own_fields(person):
    page = person.page
    person.tab("Art QR")
    page.fill("#qr_text textarea, #qr_text input", "")
    page.locator("#qr_go").click()
    person.says("nothing to say", "#qr_status")
    page.get_by_label("Wi-Fi").check()
    page.locator("#qr_ssid").wait_for()
    page.get_by_label("Contact", exact=True).check()
    page.locator("#qr_contact_name").wait_for()
    person.sound()
