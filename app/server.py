"""The studio's server: the page, the HTTP interfaces and the files on one port, behind one door."""

import os
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from app import __version__
from app.security import Guard, Policy

if TYPE_CHECKING:
    from app.studio import Studio

INTERFACES = ("v1", "sdapi", "openai")  # modules of app.rest, each with router(studio)
TRIES = 50  # ports that are tried after the wished one
UPLOAD = "48mb"


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen."""

    host: str = "127.0.0.1"
    port: int = 7860


def prepare() -> None:
    """What must be set before Gradio is imported: nothing is reported anywhere, its files lie in a private folder."""
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_RUN_HISTORY": "False"}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if "GRADIO_TEMP_DIR" not in os.environ:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="mixstudio-")  # readable by this user alone


def make(studio: "Studio", policy: Policy | None = None) -> Guard:
    """The whole application."""
    prepare()
    import gradio as gr
    import PIL.Image
    from fastapi import FastAPI

    from app.pictures import MAX_PIXELS
    from app.rest import errors
    from app.ui import app as page
    from app.ui import routes, theme

    PIL.Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses at twice this number
    fastapi = FastAPI(title="MixStudio", version=__version__, redoc_url=None, docs_url=None)
    errors.install(fastapi)
    for name in INTERFACES:
        if find_spec("app.rest") is not None and find_spec(f"app.rest.{name}") is not None:
            fastapi.include_router(import_module(f"app.rest.{name}").router(studio))
    fastapi.include_router(routes.router(studio))
    blocks = page.build(studio)
    gr.mount_gradio_app(
        fastapi,
        blocks,
        path="/",
        footer_links=["api"],
        allowed_paths=[],
        show_error=True,
        max_file_size=UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,  # the manifest is ours
        theme=theme.make(),
        css=page.css(),
        head=page.head(studio),
    )
    return Guard(fastapi, policy or Policy())


def bind(address: Address, tell: Callable[[str], None]) -> tuple[socket.socket, int]:
    """A listening socket at the wished port, or at the next free one, which is told."""
    for port in range(address.port, min(address.port + TRIES, 65536)):
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((address.host, port))
            made.listen(128)
        except OSError:
            made.close()
            continue
        if port != address.port:
            tell(f"port {address.port} is taken by another program; the studio uses {port}")
        return made, made.getsockname()[1]
    raise OSError(f"no free port from {address.port} on; give another one with --port")


def serve(app: Any, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Answer until interrupted; `ready` is called when the first request would be answered."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, server_header=False, ws="none"
    )
    try:
        Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        sys.stderr.write("\n")
