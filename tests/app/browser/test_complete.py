"""Suggestions while a prompt is typed."""

import json

FOUND = [
    {"text": "long hair", "insert": "long hair", "kind": "Tag", "note": "5,000", "comma": True},
    {"text": "ink", "insert": "in ink <lora:ink:0.8>", "kind": "LoRA", "note": "in ink", "comma": False},
]


def suggesting(person):
    """A server that knows two words."""
    asked = []

    def answer(route):
        asked.append(route.request.url)
        route.fulfill(status=200, content_type="application/json", body=json.dumps(FOUND))

    person.page.route("**/ui/complete?*", answer)
    return asked


def test_arrows_and_tab_put_a_suggestion_in_place_of_the_word(person):
    asked = suggesting(person)
    area = person.page.locator("#create_prompt textarea")
    area.fill("")
    area.type("a fox, lon")
    rows = person.page.locator(".ms-complete [role=option]")
    rows.first.wait_for()
    assert asked[-1].endswith("word=lon")
    assert rows.all_inner_texts()[0].split() == ["long", "hair", "5,000", "Tag"]
    area.press("ArrowDown")
    area.press("Tab")
    assert area.input_value() == "a fox, long hair, "
    assert rows.count() == 0
    area.type("in")
    rows.first.wait_for()
    area.press("ArrowUp")
    area.press("Enter")
    assert area.input_value() == "a fox, long hair, in ink <lora:ink:0.8>"
    person.sound()


def test_escape_and_leaving_close_it_and_enter_stays_a_new_line(person):
    suggesting(person)
    area = person.page.locator("#create_prompt textarea")
    area.fill("")
    rows = person.page.locator(".ms-complete [role=option]")
    area.type("lon")
    rows.first.wait_for()
    area.press("Escape")
    assert rows.count() == 0
    area.type("g")
    rows.first.wait_for()
    area.press("Enter")
    assert area.input_value() == "long\n"
    area.type("lon")
    rows.first.wait_for()
    rows.nth(1).click()
    assert area.input_value() == "long\nin ink <lora:ink:0.8>"
    area.type(" lon")
    rows.first.wait_for()
    person.page.locator("#create_negative textarea").click()
    assert rows.count() == 0
    area.fill("")
    person.sound()
