"""The last yard of every request: certificates are checked for the name though an address is connected to; proxies."""

import shutil
import ssl
import subprocess

import pytest

from app.models import wire
from app.models.wire import get_bytes, get_json, retry_after


@pytest.fixture
def secure(fake, tmp_path, monkeypatch):
    """The same server with TLS and a certificate for `files.test` alone."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    made += ["-subj", "/CN=files.test", "-addext", "subjectAltName=DNS:files.test"]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked: list[str] = []
    context.sni_callback = lambda socket, name, context: asked.append(name)  # type: ignore[assignment]
    fake.server.socket = context.wrap_socket(fake.server.socket, server_side=True)
    monkeypatch.setattr(wire, "_certificates", lambda: ssl.create_default_context(cafile=str(certificate)))
    fake.names = asked
    return fake


def test_the_certificate_is_checked_for_the_name(secure, access):
    secure.add("files.test", "/x", b"hello")
    assert get_bytes(access, f"https://files.test:{secure.port}/x", 100) == b"hello"
    assert secure.names == ["files.test"]
    assert secure.seen[0].headers["Host"] == f"files.test:{secure.port}"


def test_a_certificate_of_another_name_is_refused(secure, access):
    secure.add("cdn.test", "/x", b"hello")
    with pytest.raises(ValueError, match=r"could not be reached.*certificate"):
        get_bytes(access, f"https://cdn.test:{secure.port}/x", 100)
    assert secure.seen == []


def test_a_proxy_is_asked_and_nothing_is_resolved_here(fake, access, tools):
    def resolve(host, port):
        raise AssertionError("the proxy does that")

    fake.routes["files.test", "http://files.test/x"] = tools.Answer(b"by proxy")
    through = tools.replace(access, resolve=resolve, proxy=lambda url: f"http://127.0.0.1:{fake.port}")
    assert get_bytes(through, "http://files.test/x", 100) == b"by proxy"
    with pytest.raises(ValueError, match="not among the hosts"):
        get_bytes(through, "http://10.0.0.1/x", 100)
    with pytest.raises(ValueError, match="cannot be used"):
        get_bytes(tools.replace(access, proxy=lambda url: "nonsense://x"), "http://files.test/x", 100)


def test_the_next_address_is_tried(fake, access, tools):
    fake.add("files.test", "/x", b"hello")
    both = tools.replace(access, resolve=lambda host, port: ["127.0.0.9", "127.0.0.1"])
    assert get_bytes(both, fake.link("files.test", "/x"), 100) == b"hello"


def test_no_network_is_told(access, tools):
    def resolve(host, port):
        raise OSError("Name or service not known")

    with pytest.raises(ValueError, match="is there a network"):
        get_bytes(tools.replace(access, resolve=resolve), "http://files.test/x", 100)
    with pytest.raises(ValueError, match="could not be reached"):
        get_bytes(access, "http://files.test:1/x", 100)


def test_answers_have_limits(fake, access, monkeypatch):
    fake.add("files.test", "/x", b"x" * 1000)
    with pytest.raises(ValueError, match="longer than 999 bytes"):
        get_bytes(access, fake.link("files.test", "/x"), 999)
    fake.add("files.test", "/j", b"[" * 100_000, kind="application/json")
    with pytest.raises(ValueError, match="not JSON"):
        get_json(access, fake.link("files.test", "/j"))


def test_when_to_come_again():
    assert retry_after({"retry-after": "30"}) == 30
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None
