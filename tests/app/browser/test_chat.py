"""The Chat tab in a browser, on a tiny model that babbles: streams, stops, is taken back, and survives a reload."""

import subprocess
import sys

import pytest

from tests.app.browser.conftest import ROOT, Person, _wait_for, free_port
from tests.app.rest import tiny_llm


@pytest.fixture(scope="module")
def talking(tmp_path_factory):
    """The address of a studio with a language model."""
    data, port = tmp_path_factory.mktemp("talking"), free_port()
    tiny_llm.write(data / "models" / "LLM" / "babbler")
    words = ["studio", "--no-browser", "--port", str(port), "--data", str(data)]
    with (data / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "app.cli", *words], cwd=ROOT, stdout=log, stderr=log)
    try:
        _wait_for(process, f"http://127.0.0.1:{port}/ui/queue", data / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(15)


@pytest.fixture
def talker(browser, talking):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    person = Person(context.new_page(), talking).open()
    person.tab("Chat")
    yield person
    context.close()


def say(person, text: str) -> None:
    person.page.fill("#chat_words textarea", text)
    person.page.press("#chat_words textarea", "Enter")


def rest(person) -> None:
    """Until no answer is on its way."""
    person.page.locator("#chat_status").get_by_text("with babbler").wait_for()


def test_a_talk_streams_is_kept_and_taken_back(talker):
    page = talker.page
    say(talker, "hello there")
    rest(talker)
    before = page.inner_text("#chat_talk")
    assert before.startswith("hello there")
    page.wait_for_timeout(300)
    page.reload()
    talker.tab("Chat")
    page.locator("#chat_talk").get_by_text("hello there").wait_for()
    page.locator("#chat_talk button[aria-label=Undo], #chat_talk button[title=Undo]").last.click()
    page.wait_for_function("document.querySelector('#chat_words textarea').value === 'hello there'")
    page.locator("#chat_new").click()
    talker.sound()


def test_stop_ends_an_answer_and_retry_gives_another(talker):
    page = talker.page
    page.locator("#chat_manner button.label-wrap").click()
    page.locator("#chat_manner input[type=number]").nth(5).fill("900")
    page.locator("#chat_manner input[type=number]").nth(5).press("Tab")
    say(talker, "go on and on")
    page.locator("#chat_talk .bot, #chat_talk [data-testid=bot]").first.wait_for()
    page.evaluate("document.querySelector('#chat_stop').click()")
    rest(talker)
    page.locator("#chat_talk button[aria-label=Retry], #chat_talk button[title=Retry]").last.click()
    page.wait_for_timeout(500)
    page.evaluate("document.querySelector('#chat_stop').click()")
    rest(talker)
    assert page.inner_text("#chat_talk").count("go on and on") == 1
    talker.sound()
