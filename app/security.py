"""The door of the studio: who may ask, from where, how much at once. Pure ASGI, so that it covers every route there is.

Three attacks matter on a loopback port: a web page that posts to it (checked by Origin and Sec-Fetch-Site), a web page
whose name is re-pointed at 127.0.0.1 (checked by Host: only localhost, addresses and named hosts are served), and big
bodies. With a login set, everything but the login page asks for it.
"""

import base64
import binascii
import hmac
import ipaddress
import json
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from app.login import page

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "mixstudio_session"
SESSION_SECONDS = 7 * 24 * 3600
TRIES, TRY_SECONDS = 5, 60.0  # wrong passwords from one address, and how long they count
OPEN_PATHS = ("/login", "/studio/icon.svg", "/manifest.json", "/favicon.ico")

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # The page's own framework builds functions from strings and writes styles inline; nothing comes from elsewhere.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: "
        "blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; frame-ancestors 'self'"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the door lets through."""

    user: str = ""
    password: str = ""
    token: str = ""
    hosts: frozenset[str] = frozenset()  # names besides localhost and plain addresses
    max_body: int = 64 * 2**20

    @property
    def closed(self) -> bool:
        """Whether a login is asked for."""
        return bool(self.password or self.token)

    def knows(self, user: str, password: str) -> bool:
        """Whether this pair, or the token in the password's place, opens; takes the same time either way."""
        pair = bool(self.password) & _same(user, self.user) & _same(password, self.password)
        return bool(pair | self.knows_token(password))

    def knows_token(self, token: str) -> bool:
        """Whether this is the token."""
        return bool(self.token) & _same(token, self.token)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def policy(auth: str = "", token: str = "", hosts: Iterable[str] = (), listen: bool = False) -> Policy:
    """The policy of a start. Raises ValueError with a sentence where `listen` has neither login nor token."""
    user, colon, password = auth.partition(":")
    if auth and not (user and colon and password):
        raise ValueError("--auth is user:password, for example --auth anna:correct-horse")
    if token and len(token) < 8:
        raise ValueError("--token is too short; take 8 characters or more")
    if listen and not (auth or token):
        raise ValueError(
            "--listen opens the studio to your network, so it needs a login: add --auth user:password or --token SECRET"
        )
    names = {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"} if listen else set()
    return Policy(
        user=user, password=password, token=token, hosts=frozenset(names | {name.lower() for name in hosts if name})
    )


@dataclass
class Guard:
    """The middleware. Refusals are JSON `{"error": {"code", "message"}}`, or the login page for a browser."""

    app: App
    policy: Policy = field(default_factory=Policy)
    sessions: dict[str, float] = field(default_factory=dict)  # token -> when it ends
    misses: dict[str, list[float]] = field(default_factory=dict)  # address -> times of wrong passwords

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on with a counted body and safe headers."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        asked = Asked(scope)
        if refusal := self._refusal(asked):
            return await _answer(scope, send, *refusal)
        if asked.path == "/login" and scope["type"] == "http":
            return await self._login(asked, receive, send)
        if self.policy.closed and asked.path not in OPEN_PATHS and not self._may(asked):
            return await self._ask_for_login(asked, send)
        if scope["type"] == "websocket":
            return await self.app(scope, receive, send)
        await self._pass_on(scope, receive, send)

    def _refusal(self, asked: "Asked") -> tuple[int, str, str] | None:
        if not self._host_is_ours(asked.host):
            return 421, "wrong_host", f"this studio does not answer to the name {asked.host[:80]!r}; use its address"
        if asked.changes and not asked.from_own_page():
            return 403, "cross_site", "another web page sent this; open the studio itself and try there"
        if asked.length > self.policy.max_body:
            return 413, "too_large", f"more than {self.policy.max_body // 2**20} MB in one request is not taken"
        return None

    def _host_is_ours(self, host: str) -> bool:
        name = _host_name(host)
        if name == "localhost" or name.endswith(".localhost") or name in self.policy.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # a re-pointed name is never written as an address

    def _may(self, asked: "Asked") -> bool:
        session = asked.cookies.get(COOKIE, "")
        if self.sessions.get(session, 0.0) > time.monotonic():
            return True
        kind, _, value = asked.header("authorization").partition(" ")
        if not value or self._tired_of(asked.address):
            return False
        known = self._knows_header(kind.lower(), value.strip())
        self._note(asked.address, known)
        return known

    def _knows_header(self, kind: str, value: str) -> bool:
        if kind == "bearer":
            return self.policy.knows_token(value)
        if kind != "basic":
            return False
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return self.policy.knows(user, password)

    def _tired_of(self, address: str) -> bool:
        now = time.monotonic()
        recent = [when for when in self.misses.get(address, ()) if now - when < TRY_SECONDS]
        self.misses[address] = recent
        return len(recent) >= TRIES

    def _note(self, address: str, known: bool) -> None:
        if known:
            self.misses.pop(address, None)
            return
        if len(self.misses) > 10_000:
            self.misses.clear()
        self.misses.setdefault(address, []).append(time.monotonic())

    async def _ask_for_login(self, asked: "Asked", send: Send) -> None:
        if self._tired_of(asked.address):
            return await _answer(asked.scope, send, 429, "too_many_tries", "too many wrong logins; wait a minute")
        if asked.is_page:
            return await _html(send, 401, page(asked.language, with_user=bool(self.policy.password)))
        message = "log in first: HTTP Basic with the user and password, or Authorization: Bearer with the token"
        await _answer(asked.scope, send, 401, "login_needed", message, {"WWW-Authenticate": 'Basic realm="MixStudio"'})

    async def _login(self, asked: "Asked", receive: Receive, send: Send) -> None:
        if not self.policy.closed:
            return await _redirect(send, "/", {})
        with_user = bool(self.policy.password)
        if asked.method != "POST":
            return await _html(send, 200, page(asked.language, with_user=with_user))
        if self._tired_of(asked.address):
            return await _html(send, 429, page(asked.language, "many", with_user))
        form = parse_qs((await _read(receive, 4096)).decode("utf-8", "replace"))
        known = self.policy.knows(form.get("user", [""])[0], form.get("password", [""])[0])
        self._note(asked.address, known)
        if not known:
            return await _html(send, 401, page(asked.language, "wrong", with_user))
        await _redirect(send, "/", {"Set-Cookie": self._session(asked.scope)})

    def _session(self, scope: Scope) -> str:
        now = time.monotonic()
        self.sessions = {key: end for key, end in self.sessions.items() if end > now}
        key = secrets.token_urlsafe(32)
        self.sessions[key] = now + SESSION_SECONDS
        safe = "; Secure" if scope.get("scheme") == "https" else ""
        return f"{COOKIE}={key}; HttpOnly; SameSite=Lax; Path=/; Max-Age={SESSION_SECONDS}{safe}"

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken, begun = 0, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.policy.max_body:
                raise _TooLarge
            return message

        async def dressed(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = _with_headers(message.get("headers", []))
            await send(message)

        try:
            await self.app(scope, counted, dressed)
        except _TooLarge:
            if not begun:
                limit = self.policy.max_body // 2**20
                await _answer(scope, send, 413, "too_large", f"more than {limit} MB in one request is not taken")


class _TooLarge(Exception):
    """A body without a stated length went over the limit."""


class Asked:
    """A request as the door sees it."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.path: str = scope.get("path", "/")
        self.method: str = scope.get("method", "GET")
        self._headers: dict[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", ())
        }
        self.host = self.header("host")
        self.address: str = (scope.get("client") or ("",))[0]

    def header(self, name: str) -> str:
        """A header's text; "" where it is not there."""
        return self._headers.get(name, "")

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies by name."""
        try:
            return {key: morsel.value for key, morsel in SimpleCookie(self.header("cookie")).items()}
        except CookieError:
            return {}

    @property
    def changes(self) -> bool:
        """Whether this may change something: all but plain reading, and every websocket."""
        return self.scope["type"] == "websocket" or self.method not in ("GET", "HEAD", "OPTIONS")

    @property
    def is_page(self) -> bool:
        """Whether a person waits for a page."""
        return self.method == "GET" and "text/html" in self.header("accept")

    @property
    def language(self) -> str:
        """The language of the login page."""
        told = self.cookies.get("mixstudio_lang") or self.header("accept-language")
        return "zh" if told.lower().startswith("zh") else "en"

    @property
    def length(self) -> int:
        """The body's stated length; a nonsensical one counts as endless."""
        text = self.header("content-length") or "0"
        return int(text) if text.isdecimal() and len(text) < 19 else 2**63

    def from_own_page(self) -> bool:
        """Whether a browser sent this from our own page, or no browser did."""
        if self.header("sec-fetch-site") not in ("", "same-origin", "none"):
            return False
        origin = self.header("origin")
        return not origin or urlsplit(origin).netloc.lower() == self.host.lower()


def _host_name(host: str) -> str:
    """ "[::1]:7860" -> "::1", "Localhost:80" -> "localhost"."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _with_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    headers = list(headers)
    there = {name.lower() for name, _ in headers}
    extra = [(n.lower().encode(), v.encode()) for n, v in HEADERS.items() if n.lower().encode() not in there]
    return headers + extra


async def _read(receive: Receive, limit: int) -> bytes:
    body = b""
    while len(body) <= limit:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body[:limit]


async def _send(send: Send, status: int, kind: str, body: bytes, extra: Mapping[str, str]) -> None:
    told = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store", **extra}
    headers = _with_headers([(name.lower().encode(), value.encode()) for name, value in told.items()])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _answer(
    scope: Scope, send: Send, status: int, code: str, message: str, extra: Mapping[str, str] | None = None
) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008, "reason": code})
    # `detail` and `error` are where the WebUI's clients look.
    body = json.dumps({"error": {"code": code, "message": message}, "detail": message}).encode()
    await _send(send, status, "application/json", body, extra or {})


async def _html(send: Send, status: int, text: str) -> None:
    await _send(send, status, "text/html; charset=utf-8", text.encode(), {})


async def _redirect(send: Send, to: str, extra: Mapping[str, str]) -> None:
    await _send(send, 303, "text/plain", b"", {"location": to, **extra})
