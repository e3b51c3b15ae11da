"""The door: who may ask, from where, how much. Every refusal is a 4xx with a sentence, and the server lives on."""

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.security import TRIES, Guard, Policy, policy


async def plain(scope, receive, send):
    """What lies behind the door: it reads the body and says hello."""
    while (message := await receive()).get("more_body"):
        pass
    assert message["type"] == "http.request"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Caller:
    """Asks a guard as a client would."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def __call__(self, path="/", method="GET", kind="http", chunks=(b"",), **headers):
        names = {"host": "127.0.0.1:7860", **{k.replace("_", "-"): v for k, v in headers.items()}}
        scope = {
            "type": kind,
            "path": path,
            "method": method,
            "headers": [(k.encode(), v.encode()) for k, v in names.items() if v is not None],
            "client": ("10.0.0.9", 50000),
        }
        waiting = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
        waiting[-1]["more_body"] = False
        sent: list[dict] = []

        async def receive():
            return waiting.pop(0)

        async def send(message):
            sent.append(dict(message))

        with ThreadPoolExecutor(1) as thread:  # a browser's tests leave a running loop in this one
            thread.submit(asyncio.run, self.guard(scope, receive, send)).result()
        if kind == "websocket":
            return sent[0]["type"], {}, b""
        told = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], told, b"".join(m.get("body", b"") for m in sent[1:])


@pytest.fixture
def ask():
    return Caller(Guard(plain))


@pytest.fixture
def closed():
    return Caller(Guard(plain, policy("anna:long enough", "a-long-token")))


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "192.168.1.5", "a.localhost"]
)
def test_own_names_and_plain_addresses_are_answered(ask, host):
    assert ask(host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", ""]
)
def test_a_name_that_was_pointed_here_is_not(ask, host):
    status, _, body = ask(host=host)
    assert status == 421
    assert b"does not answer" in body


def test_a_named_host_is_answered_where_it_is_told():
    asked = Caller(Guard(plain, policy(hosts=["studio.home"])))
    assert asked(host="studio.home:7860")[0] == 200
    assert asked(host="other.home")[0] == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": "http://127.0.0.1:7860"},
    ],
)
def test_what_another_page_sends_is_refused(ask, headers):
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        status, _, body = ask("/gradio_api/queue/join", method, **headers)
        assert status == 403
        assert b"another web page" in body


def test_what_our_own_page_or_a_program_sends_passes(ask):
    own = {"origin": "http://127.0.0.1:7860", "sec_fetch_site": "same-origin"}
    assert ask(method="POST", **own)[0] == 200
    assert ask(method="POST")[0] == 200


def test_a_websocket_of_another_page_is_closed(ask):
    assert ask(kind="websocket", origin="https://evil.example")[0] == "websocket.close"


def test_a_large_body_is_refused_whether_or_not_it_says_so():
    asked = Caller(Guard(plain, Policy(max_body=1000)))
    assert asked(method="POST", content_length="1001")[0] == 413
    assert asked(method="POST", content_length="nonsense")[0] == 413
    assert asked(method="POST", chunks=[b"x" * 600, b"x" * 600])[0] == 413
    assert asked(method="POST", chunks=[b"x" * 600, b"x" * 300])[0] == 200


def test_every_answer_has_the_safe_headers(ask):
    for told in (ask()[1], ask(host="evil.example")[1]):
        assert told["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'self'" in told["content-security-policy"]


def test_without_a_login_nothing_is_shown(closed):
    assert closed("/v1/jobs")[0] == 401
    status, _, body = closed("/", accept="text/html")
    assert status == 401
    assert b"<form" in body
    assert b"hello" not in body
    assert closed("/gradio_api/queue/join", "POST")[0] == 401
    assert closed(kind="websocket")[0] == "websocket.close"


@pytest.mark.parametrize("value", [basic("anna:long enough"), basic("any:a-long-token"), "Bearer a-long-token"])
def test_login_and_token_open(closed, value):
    assert closed("/v1/jobs", authorization=value)[0] == 200


@pytest.mark.parametrize(
    "value", [basic("anna:wrong"), basic("bert:long enough"), "Bearer wrong", "Basic %%%", "Digest x", basic("nocolon")]
)
def test_wrong_ones_do_not(closed, value):
    assert closed("/v1/jobs", authorization=value)[0] == 401


def test_the_login_page_gives_a_session(closed):
    status, told, _ = closed("/login", "POST", chunks=[b"user=anna&password=long+enough"])
    assert status == 303
    cookie = told["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert closed("/", cookie=cookie.partition(";")[0])[0] == 200
    assert closed("/", cookie="mixstudio_session=guessed")[0] == 401


def test_guessing_is_slowed_down(closed):
    for _ in range(TRIES):
        assert closed("/login", "POST", chunks=[b"user=anna&password=guess"])[0] == 401
    assert closed("/login", "POST", chunks=[b"user=anna&password=long+enough"])[0] == 429
    assert closed("/v1/jobs", authorization=basic("anna:long enough"))[0] == 429


def test_an_open_network_needs_a_login():
    with pytest.raises(ValueError, match="--auth user:password or --token"):
        policy(listen=True)
    assert policy(token="a-long-token", listen=True).closed
    with pytest.raises(ValueError, match="user:password"):
        policy("anna")
    with pytest.raises(ValueError, match="8 characters"):
        policy(token="short")
