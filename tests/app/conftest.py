"""A studio on a tiny checkpoint: whole jobs run in well under a second."""

import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from app.studio import Studio
from ppdiffusers.pipelines.save import save_diffusers
from ppdiffusers.weights.load import LoadedParts
from tests.ppdiffusers.pipelines.conftest import tiny

VALUES = {"sampler": "Euler", "steps": 2, "width": 64, "height": 64, "seed": 1}  # of a quick job


def put_tiny(folder: Path, family: str = "sd15") -> Path:
    """A tiny random checkpoint as a diffusers folder."""
    bundle = tiny(family)
    parts = LoadedParts(
        family=family,
        unet=bundle.unet,
        vae=bundle.vae,
        text_encoders=[encoder.model for encoder in bundle.text.encoders],
        tokenizers=[None] * len(bundle.text.encoders),
        scheduler_config={},
        prediction_type="eps",
        source=Path("tiny"),
    )
    save_diffusers(parts, folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def nothing_embedded(tmp_path_factory):
    """The tiny checkpoint is the only model, whatever the installation brings; `test_embedded` looks at that."""
    patch = pytest.MonkeyPatch()
    patch.setattr("app.catalog.EMBEDDED", tmp_path_factory.mktemp("embedded") / "none")
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    return put_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny")


def with_tiny(data: Path, checkpoint: Path) -> Path:
    """The data folder, with the tiny checkpoint in it."""
    folder = data / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    (folder / "tiny").symlink_to(checkpoint, target_is_directory=True)
    return data


@pytest.fixture
def data(tmp_path, tiny_checkpoint):
    """A data folder with the tiny checkpoint as its only model."""
    return with_tiny(tmp_path, tiny_checkpoint)


@pytest.fixture(scope="module")
def lasting_studio(tmp_path_factory, tiny_checkpoint):
    """One studio for a module's tests: a page takes seconds to build."""
    data = with_tiny(tmp_path_factory.mktemp("lasting"), tiny_checkpoint)
    with Studio.open(data, model="tiny", dtype="float32") as opened:
        yield opened


@contextmanager
def serving(application):
    """The port of a server that runs in a thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(application, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield port
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def studio(data):
    with Studio.open(data, model="tiny", dtype="float32") as opened:
        yield opened
