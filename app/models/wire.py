"""One checked request: every redirect through the same gate, answers with limits, and errors in sentences.

`opened` is the only place that talks to the network; downloads and both services' interfaces go through it.
"""

import json
import logging
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import httpx

from app import __version__
from app.models.access import Access, ConnectionFailed, shown
from app.models.sidecars import clipped

MOST_REDIRECTS = 8
LARGEST_JSON = 32_000_000
REDIRECTS = (301, 302, 303, 307, 308)
WHERE = {
    "civitai": "make a key at civitai.com (account settings, API keys) and give it in the Settings tab, to `models "
    "token civitai`, or as CIVITAI_TOKEN",
    "huggingface": "make a token at huggingface.co/settings/tokens and give it in the Settings tab, to `models token "
    "huggingface`, or as HF_TOKEN",
}


class Refused(ValueError):
    """The server's answer was no; `status` is its number, `retry_after` seconds if it said when to come again."""

    def __init__(self, sentence: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.status, self.retry_after = status, retry_after


class _WithoutQueries(logging.Filter):
    """httpx logs every link it asks for; signatures and tokens stand behind the `?`."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(shown(a) if isinstance(a, httpx.URL) else a for a in record.args)
        return True


_log = logging.getLogger("httpx")
_log.addFilter(_WithoutQueries())
if _log.level == logging.NOTSET:
    _log.setLevel(logging.WARNING)  # each request as a line of its own is for those who ask for it


@lru_cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@contextmanager
def opened(access: Access, link: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
    """The answer to a GET after all redirects, not yet read. Any status below 400 or 416 comes back.

    Raises Refused for other statuses, ConnectionFailed where the network failed, ValueError for a link that may not be
    followed.
    """
    url = access.check(link)
    for _ in range(MOST_REDIRECTS):
        with _asked(access, url, headers or {}) as response:
            if response.status_code in REDIRECTS and "location" in response.headers:
                url = _next(access, url, response.headers["location"])
                continue
            if response.status_code >= 400 and response.status_code != 416:
                raise explained(access, url, response)
            yield response
            return
    raise Refused(f"{shown(link)} redirects more than {MOST_REDIRECTS} times")


def _next(access: Access, url: httpx.URL, location: str) -> httpx.URL:
    """Where a redirect leads, if it may be followed."""
    try:
        target = url.join(location)
    except httpx.InvalidURL:
        raise Refused(f"{url.host} redirects to something that is not a link") from None
    if re.search(r"/(login|signin|sign-in)\b", target.path) and access.service(url):
        raise Refused(_login(access, url), 401)
    try:
        return access.check(target)
    except ValueError as why:
        raise Refused(f"{url.host} redirects elsewhere: {why}") from None


@contextmanager
def _asked(access: Access, url: httpx.URL, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    """One request without redirects, to an address that was checked."""
    headers = {"User-Agent": f"MixStudio/{__version__}"} | dict(headers) | access.credentials(url)
    proxy = access.proxy(url)
    timeout = httpx.Timeout(access.timeout, connect=min(15.0, access.timeout))
    with _client(proxy, timeout) as client:
        try:
            response = _send(client, url, headers, access.addresses(url))
        except httpx.TransportError as why:
            raise ConnectionFailed(f"{url.host} could not be reached ({_reason(why)})") from None
        try:
            yield response
        except httpx.TransportError as why:
            raise ConnectionFailed(f"the connection to {url.host} broke ({_reason(why)})") from None
        finally:
            response.close()


def _client(proxy: str, timeout: httpx.Timeout) -> httpx.Client:
    """Nothing is taken from the environment but the certificates and the proxy, which is looked up elsewhere."""
    try:
        return httpx.Client(verify=_certificates(), trust_env=False, proxy=proxy or None, timeout=timeout)
    except (ImportError, ValueError) as why:
        raise ValueError(f"the proxy that the environment names cannot be used ({_reason(why)})") from None


def _send(client: httpx.Client, url: httpx.URL, headers: dict[str, str], addresses: list[str]) -> httpx.Response:
    """Connect to the checked addresses in turn; certificate and Host header are still those of the name."""
    if not addresses:
        return client.send(client.build_request("GET", url, headers=headers), stream=True)
    host = url.netloc.decode("ascii")
    for i, address in enumerate(addresses):
        request = client.build_request(
            "GET",
            url.copy_with(host=address),
            headers=headers | {"Host": host},
            extensions={"sni_hostname": url.host},
        )
        try:
            return client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if i == len(addresses) - 1:
                raise
    raise AssertionError("there is always an address")


def _reason(why: Exception) -> str:
    return clipped(str(why), 200) or type(why).__name__


def read_some(response: httpx.Response, most: int) -> bytes:
    """The decoded body; Refused when it is longer than `most`."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > most:
            raise Refused(f"the answer of {response.headers.get('server', 'the server')} is longer than {most:,} bytes")
    return bytes(body)


def get_json(access: Access, link: str) -> tuple[Any, Mapping[str, str]]:
    """(content, headers) of a JSON answer."""
    with opened(access, link, {"Accept": "application/json"}) as response:
        body = read_some(response, LARGEST_JSON)
        try:
            return json.loads(body), response.headers
        except (ValueError, RecursionError):
            what = "a web page" if body.lstrip()[:1] == b"<" else "something that is not JSON"
            raise Refused(f"{shown(link)} answered with {what}; is the service disturbed?") from None


def get_bytes(access: Access, link: str, most: int) -> bytes:
    """A small file, such as a preview."""
    with opened(access, link) as response:
        return read_some(response, most)


# --- errors in sentences ---


def explained(access: Access, url: httpx.URL, response: httpx.Response) -> Refused:
    """The refusal in a sentence that says what to do, with the server's own words where it has some."""
    status, after = response.status_code, retry_after(response.headers)
    said = _said(response)
    service = access.service(url)
    quoted = f' It says: "{said}".' if said else ""
    if status == 401 or (status == 403 and re.search(r"log(ged)?[ -]?in|unauthori|token", said, re.I)):
        return Refused(_login(access, url) + quoted, status)
    if status == 403 and service == "huggingface":
        return Refused(f"this model is gated: open its page, accept the terms, then try again.{quoted}", status)
    if status == 403 and re.search("early access", said, re.I):
        return Refused(f"this file is in early access and cannot be had freely yet.{quoted}", status)
    if status == 429:
        when = f" in {after:.0f} seconds" if after else " later"
        return Refused(f"{url.host} takes no more requests from here for now; try again{when}.{quoted}", status, after)
    words = {
        403: "refuses this file",
        404: f"has nothing at {url.path}; the link is wrong, or it was taken down",
        410: "has archived this file; it cannot be downloaded any more",
        451: "may not offer this file here",
    }
    if status in words:
        return Refused(f"{url.host} {words[status]}.{quoted}", status)
    if status >= 500:
        return Refused(f"{url.host} is disturbed (status {status}); try again later.{quoted}", status, after)
    return Refused(f"{url.host} answered with status {status}.{quoted}", status)


def _login(access: Access, url: httpx.URL) -> str:
    service = access.service(url)
    if not service:
        return (
            f"{url.host} wants a login, which MixStudio cannot give; download the file yourself and add it from disk."
        )
    if access.tokens.get(service):
        return f"{url.host} does not accept its token, or this account may not have the file: {WHERE[service]}."
    return f"{url.host} wants a login for this (or there is no such file): {WHERE[service]}."


def _said(response: httpx.Response) -> str:
    """The error message in an answer: of JSON its message, deadline and the like; of pages nothing."""
    told = response.headers.get("x-error-message", "")
    try:
        body = json.loads(read_some(response, 65_536))
    except (ValueError, RecursionError, httpx.HTTPError):
        return clipped(told, 300)
    return error_text(body) or clipped(told, 300)


def error_text(body: object) -> str:
    """The words of an error in JSON, "" when there are none."""
    if not isinstance(body, dict):
        return ""
    inner = body.get("error")
    rows = (body, inner) if isinstance(inner, dict) else (body,)
    found = [r[k] for r in rows for k in ("error", "message", "detail", "deadline") if isinstance(r.get(k), str)]
    return clipped("; ".join(dict.fromkeys(f.strip().rstrip(".") for f in found if f.strip())), 300)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, as the server asks; None when it does not."""
    value = headers.get("retry-after", "")
    if value.isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
