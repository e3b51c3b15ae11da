"""Jobs about model files: getting one, asking Civitai what one is, checking one.

They run on the line that does not need the device, so that no picture waits for them. The catalogue is read anew before
such a job ends: whoever sees its end sees what it changed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.requests_download import DownloadParams
from app.services import service

if TYPE_CHECKING:
    from app.catalog import Model
    from app.jobs import Job
    from app.studio import Studio


@service("download")
def download(studio: "Studio", params: DownloadParams) -> Iterator[Any]:
    """Yields Note and Progress (in bytes), ends with `app.models.add.Added`. Files on this computer are not taken."""
    from app.models.add import Options, work

    options = Options(
        allow_pickle=params.allow_pickle,
        precision=params.precision,
        kind=params.folder,
        name=params.name,
        force=params.force,
        local=False,
    )
    yield from _then_look(studio, work(params.source, studio.settings, options))


def _then_look(studio: "Studio", work: Iterator[Any]) -> Iterator[Any]:
    yield from work
    studio.catalog.refresh()


def submit_local(studio: "Studio", path: str | Path, owner: str = "", **options: Any) -> "Job":
    """A job that links or copies a file or folder of this computer into the models; `options` are `add.Options`'.

    Only for people at this computer: a studio that serves others (`confined`) refuses, before it looks at the disk.
    """
    from app.models.add import LOCAL_ONLY, Options, work

    if studio.confined:
        raise ValueError(LOCAL_ONLY)
    chosen = Options(**options)
    adding = lambda: _then_look(studio, work(str(path), studio.settings, chosen))  # noqa: E731
    return studio.network.submit("download", adding, {"source": str(path)}, owner)


def submit_identify(studio: "Studio", model: "Model", owner: str = "") -> "Job":
    """A job that asks Civitai by hash what a model is and writes its sidecars; it fails where Civitai does not know."""
    return studio.network.submit("identify", lambda: _identify(studio, model), {"model": model.name}, owner)


def _identify(studio: "Studio", model: "Model") -> Iterator[Any]:
    from app.models.access import Access
    from app.models.keep import identify_all

    if not model.path.is_file() or model.embedded:
        raise ValueError(f"{model.name} is no file of yours; Civitai knows files by their hash")
    found = yield from identify_all([model], Access.of(studio.settings), again=True)
    if not any(title for _, title in found):
        raise ValueError(
            f"Civitai does not know {model.name}: it was changed after it was published, or never was there"
        )
    studio.catalog.refresh()


def submit_verify(studio: "Studio", model: "Model", owner: str = "") -> "Job":
    """A job that checks header, known hashes and numbers of a model; it fails with what is wrong."""
    return studio.network.submit("verify", lambda: _verify(model), {"model": model.name}, owner)


def _verify(model: "Model") -> Iterator[Any]:
    from app.models.keep import verify
    from ppdiffusers.pipelines.event import Note

    report = yield from verify(model, nan=True)
    if not report.sound:
        raise ValueError("; ".join(report.problems))
    yield Note(f"{model.name} is sound ({', '.join(report.checked)})")
