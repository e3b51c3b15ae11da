"""What codes say: escaping that can be undone, and sentences for what no scanner could use."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mix.appflow.artqr.payload import Contact, Wifi, advice, link, text

PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=8, max_size=10)


def wifi_fields(said: str) -> dict[str, str]:
    """Reads a WIFI: text as scanners do."""
    body = said.removeprefix("WIFI:")
    fields = re.findall(r"([A-Z]):((?:\\.|[^;\\])*);", body)
    return {key: re.sub(r"\\(.)", r"\1", value) for key, value in fields}


@given(PRINTABLE, PRINTABLE)
def test_wifi_logins_come_back_whatever_is_in_them(name, password):
    said = Wifi(name=name[:8], password=password).text() if len(name[:8].encode()) <= 32 else None
    if said is not None:
        assert wifi_fields(said) == {"T": "WPA", "S": name[:8], "P": password}


def test_a_hidden_open_network_has_no_password():
    assert Wifi(name="cafe;1", security="nopass", hidden=True).text() == r"WIFI:T:nopass;S:cafe\;1;H:true;;"


def test_contacts_escape_what_separates():
    card = Contact(name="Ann", family="O;Hara", organisation="A, B", note="one\ntwo", phone="+1 (23) 45").text()
    assert card.splitlines()[:3] == ["BEGIN:VCARD", "VERSION:3.0", r"N:O\;Hara;Ann;;;"]
    assert r"ORG:A\, B" in card
    assert r"NOTE:one\ntwo" in card
    assert card.endswith("END:VCARD")


@pytest.mark.parametrize(
    ("given_text", "address"),
    [
        ("example.com", "https://example.com"),
        (" https://a.b/c ", "https://a.b/c"),
        ("mailto:a@b.c", "mailto:a@b.c"),
        ("example.com:8080/x", "https://example.com:8080/x"),
    ],
)
def test_links_get_a_scheme(given_text, address):
    assert link(given_text) == address


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: text("  "), "nothing to say"),
        (lambda: text("x" * 3000), "at most 2331"),
        (lambda: link("https://a b"), "no spaces"),
        (lambda: link("https:///path"), "no host"),
        (lambda: Wifi(name="").text(), "network's name"),
        (lambda: Wifi(name="x", password="short").text(), "8 to 63"),
        (lambda: Wifi(name="x", password="longenough", security="WPA9").text(), "not 'WPA9'"),
        (lambda: Contact(name=" ").text(), "needs a name"),
        (lambda: Contact(name="A", email="nowhere").text(), "no e-mail"),
        (lambda: Contact(name="A", phone="call me").text(), "no telephone"),
    ],
)
def test_what_no_scanner_could_use_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_long_texts_are_warned_about():
    assert advice("short") == ""
    assert "shorter link" in advice("x" * 300)
