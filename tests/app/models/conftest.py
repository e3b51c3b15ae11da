"""A server on this machine that plays Civitai, the hub and their storage, with every bad habit of the real ones."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from app.models.access import Access
from app.models.fetch import Wanted
from app.settings import Settings


@dataclass
class Answer:
    """What a path answers. `cut`: bytes after which the connection breaks, once."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/octet-stream"
    etag: str = ""
    cut: int = 0
    chunked: bool = False  # no length is told


@dataclass
class Seen:
    host: str
    path: str
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        fake: Fake = self.server.fake  # type: ignore[attr-defined]
        host = self.headers["Host"].partition(":")[0]
        fake.seen.append(Seen(host, self.path, dict(self.headers.items())))
        made = fake.routes.get((host, self.path)) or fake.routes.get((host, self.path.partition("?")[0]))
        answer = made(self) if callable(made) else made
        self.send(answer or Answer(b'{"error":"Not found"}', 404, kind="application/json"))

    def send(self, answer: Answer) -> None:
        body, status, start = answer.body, answer.status, 0
        asked = self.headers.get("Range", "")
        if (
            asked
            and answer.etag != "none"
            and status == 200
            and self.headers.get("If-Range", answer.etag) == answer.etag
        ):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            status = 206 if start < len(body) else 416
        self.send_response(status)
        self.send_header("Content-Type", answer.kind)
        if answer.etag not in ("", "none"):
            self.send_header("ETag", answer.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if status == 416:
            self.send_header("Content-Range", f"bytes */{len(body)}")
        piece = b"" if status == 416 else body[start:]
        if not answer.chunked:
            self.send_header("Content-Length", str(len(piece)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if answer.cut:
            piece, answer.cut = piece[: answer.cut], 0
        self.wfile.write(piece)

    def log_message(self, *_: Any) -> None:
        pass


class Fake:
    """The server: `routes[host, path]` is an Answer or a function of the handler; `seen` what was asked."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], Answer | Callable[[Handler], Answer]] = {}
        self.seen: list[Seen] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.fake = self  # type: ignore[attr-defined]
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def link(self, host: str, path: str) -> str:
        return f"http://{host}:{self.port}{path}"

    def add(self, host: str, path: str, body: bytes | Answer | Any = b"", **options: Any) -> str:
        """Answer a path; what is neither bytes nor an Answer is sent as JSON."""
        if isinstance(body, Answer) or callable(body):
            self.routes[host, path] = body
        elif isinstance(body, bytes):
            self.routes[host, path] = Answer(body, **options)
        else:
            self.routes[host, path] = Answer(json.dumps(body).encode(), kind="application/json", **options)
        return self.link(host, path)

    def redirect(self, host: str, path: str, to: str) -> str:
        return self.add(host, path, Answer(b"", 302, {"Location": to}))

    def asked(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path.partition("?")[0] == path]


@pytest.fixture
def fake():
    server = Fake()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def access(fake, monkeypatch):
    """Both services and their storage, all on this machine; `evil.test` may be asked but leads to a private net."""
    for name in ("CIVITAI_TOKEN", "CIVITAI_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    names = {"evil.test": ["10.0.0.7"], "meta.test": ["169.254.169.254"], "mixed.test": ["93.184.216.34", "127.0.0.1"]}
    return Access(
        hosts=tuple(names),
        private_hosts=("civitai.test", "hub.test", "cdn.test", "files.test"),
        tokens={"civitai": "civitai-secret", "huggingface": "hub-secret"},
        civitai=fake.link("civitai.test", ""),
        hub=fake.link("hub.test", ""),
        resolve=lambda host, port: names.get(host, ["127.0.0.1"]),
        proxy=lambda url: "",
        timeout=5.0,
    )


@pytest.fixture
def settings(tmp_path):
    return Settings(data=tmp_path / "data")


def tensors(**arrays: tuple[int, ...]) -> bytes:
    rng = np.random.default_rng(0)
    return save({name: rng.standard_normal(shape).astype("float32") for name, shape in arrays.items()})


@pytest.fixture
def lora() -> bytes:
    """A small LoRA for Stable Diffusion 1, 70 KB."""
    base = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    names = {f"{base}.lora_down.weight": (8, 768), f"{base}.lora_up.weight": (320, 8), f"{base}.alpha": ()}
    rng = np.random.default_rng(0)
    return save({k: np.asarray(rng.standard_normal(s), dtype="float32") for k, s in names.items()})


@pytest.fixture
def wanted(tmp_path):
    """A download into a fresh folder."""

    def make(url: str, name: str = "x.safetensors", **known: Any) -> Wanted:
        return Wanted(url, tmp_path / "in" / name, **known)

    return make


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def leftovers(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def tools():
    """Functions for the tests of this folder."""

    class Tools:
        pass

    Tools.sha256, Tools.leftovers, Tools.Answer, Tools.replace = map(staticmethod, (sha256, leftovers, Answer, replace))  # type: ignore[attr-defined]
    return Tools
