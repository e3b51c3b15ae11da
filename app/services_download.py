"""Jobs that get a model; they run on the line that does not need the device, so that no picture waits for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.requests_download import DownloadParams
from app.services import service

if TYPE_CHECKING:
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
    yield from work(params.source, studio.settings, options)


def submit_local(studio: "Studio", path: str | Path, owner: str = "", **options: Any) -> "Job":
    """A job that links or copies a file or folder of this computer into the models; `options` are `add.Options`'.

    Only for people at this computer: a studio that serves others (`confined`) refuses, before it looks at the disk.
    """
    from app.models.add import LOCAL_ONLY, Options, work

    if studio.confined:
        raise ValueError(LOCAL_ONLY)
    chosen = Options(**options)
    return studio.network.submit(
        "download", lambda: work(str(path), studio.settings, chosen), {"source": str(path)}, owner
    )
