"""Our HTTP interfaces on a tiny checkpoint: in process, and on a live port for real clients."""

import socket
import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.rest import errors, sdapi, v1


def application(studio):
    made = FastAPI()
    errors.install(made)
    made.include_router(v1.router(studio))
    made.include_router(sdapi.router(studio))
    return made


@pytest.fixture
def client(studio):
    with TestClient(application(studio), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def live(studio):
    """The port of a server that runs in a thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(application(studio), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield port
    server.should_exit = True
    thread.join(5)
