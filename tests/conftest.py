"""What holds for every test: the product's environment before Paddle is imported, and who may run the marked ones."""

import os
import shutil

import pytest

from app import environment

environment.prepare()

REFERENCE = "MIXSTUDIO_REFERENCE_PYTHON"


def _why_no_reference() -> str | None:
    named = os.environ.get(REFERENCE)
    if not named:
        return f"{REFERENCE} does not name a Python with torch, diffusers and transformers"
    return None if shutil.which(named) else f"{REFERENCE} is {named}, which cannot be run"


def _why_no_gpu() -> str | None:
    paddle = environment.import_paddle()
    if not paddle.is_compiled_with_cuda():
        return "this is Paddle's CPU build"
    return None if paddle.device.cuda.device_count() else "there is no CUDA device"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _groups(config, items)
    _skips(items)


def _groups(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes a file stays in one of them, and so do all tests that drive a browser."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            folder, name = item.path.parent.name, item.nodeid.partition("::")[0]
            item.add_marker(pytest.mark.xdist_group("browser" if folder == "browser" else name))


def _skips(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason; the question is asked only when a test has the mark."""
    for mark, why_not in (("parity", _why_no_reference), ("gpu", _why_no_gpu)):
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and (why := why_not()) is not None:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def reference_python() -> str:
    """The interpreter of the reference environment, for tests marked parity. Run it from another folder than the
    repository: our folder `kernels` has the name of a package that diffusers looks for."""
    return os.environ[REFERENCE]
