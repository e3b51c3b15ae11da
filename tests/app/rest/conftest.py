"""Our HTTP interfaces on a tiny checkpoint: in process, and on a live port for real clients."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.rest import errors, sdapi, v1
from tests.app.conftest import serving


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
    with serving(application(studio)) as port:
        yield port
