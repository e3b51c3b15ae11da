"""Named endpoints for Gradio's own clients: /generate, /blend, /qr and /job, each a job followed to its end.

Their names and the order of their parameters stay; what a job can be told besides goes into `settings`, by the field
names of `/v1/jobs`. Every endpoint gives the job's state while it runs, and its pictures with it at the end; a client
that leaves cancels its job.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder

from app.jobs import Job, QueueFull
from app.pictures import open_file
from app.rest.events import job_json
from app.services import Saved, kinds
from app.studio import results

if TYPE_CHECKING:
    from app.studio import Studio

    Answer = AsyncIterator[tuple[list[gr.FileData], dict]]
else:
    Answer = tuple[list[gr.FileData], dict]  # Gradio asks what is yielded

OWNER = "gradio"
LOOK_SECONDS = 0.2


class Endpoints:
    """The functions behind the names; their signatures are what clients see."""

    def __init__(self, studio: "Studio") -> None:
        self.studio = studio

    async def generate(
        self,
        prompt: str,
        negative_prompt: str = "",
        width: int = 0,
        height: int = 0,
        steps: int = 0,
        seed: int = -1,
        count: int = 1,
        settings: dict = {},  # noqa: B006
    ) -> Answer:
        """Text to pictures; 0 is what the model recommends. settings: any other field of a job of kind generate."""
        told = {"prompt": prompt, "negative_prompt": negative_prompt, "seed": seed, "count": count}
        told |= {name: value for name, value in (("width", width), ("height", height), ("steps", steps)) if value}
        async for update in _follow(self.studio, "generate", told, settings):
            yield update

    async def blend(
        self,
        image_a: gr.FileData,
        image_b: gr.FileData,
        balance: float = 0.5,
        prompt: str = "",
        seed: int = -1,
        settings: dict = {},  # noqa: B006
    ) -> Answer:
        """Two pictures into one; balance 0 is the first, 1 the second."""
        told = {"balance": balance, "prompt": prompt, "seed": seed}
        told |= {"image_a": _picture(image_a), "image_b": _picture(image_b)}
        async for update in _follow(self.studio, "blend", told, settings):
            yield update

    async def qr(self, text: str, prompt: str = "", seed: int = -1, settings: dict = {}) -> Answer:  # noqa: B006
        """A QR code that is a picture and scans; the state tells what the decoders read in it."""
        async for update in _follow(self.studio, "qr", {"text": text, "prompt": prompt, "seed": seed}, settings):
            yield update

    async def job(self, kind: str, settings: dict) -> Answer:
        """A job of any kind, with the fields of POST /v1/jobs."""
        async for update in _follow(self.studio, kind, {}, settings):
            yield update


def build(studio: "Studio") -> None:
    """Add the endpoints to the blocks under construction."""
    named = Endpoints(studio)
    for endpoint in (named.generate, named.blend, named.qr, named.job):
        gr.api(endpoint, api_name=endpoint.__name__, api_description=endpoint.__doc__, concurrency_limit=None)


def _picture(file: Any) -> Any:
    """A picture that a client has uploaded. Raises gr.Error for anything else, other files of this machine included."""
    path = file.get("path") if isinstance(file, dict) else getattr(file, "path", None)
    place = Path(str(path or "")).resolve()
    if not path or not place.is_relative_to(Path(get_upload_folder()).resolve()) or not place.is_file():
        raise gr.Error("a picture is given as an uploaded file; gradio_client's handle_file(path) uploads it")
    try:
        return open_file(place)
    except ValueError as why:
        raise gr.Error(str(why)) from why


async def _follow(studio: "Studio", kind: str, told: dict[str, Any], settings: Any) -> "Answer":
    if not isinstance(settings, dict):
        raise gr.Error("settings is an object of a job's fields", print_exception=False)
    job = await asyncio.to_thread(_submit, studio, kind, told | settings)
    try:
        seen = None
        while not job.status.final:
            now = (job.status, job.done, job.of)
            if now != seen:
                seen = now
                yield [], job_json(studio, job)
            await asyncio.sleep(LOOK_SECONDS)
        if job.error:
            raise gr.Error(f"{job.error}. {job.hint}" if job.hint else job.error, print_exception=False)
        yield await asyncio.to_thread(_files, job), job_json(studio, job)
    finally:
        if not job.status.final:
            job.cancel()


def _submit(studio: "Studio", kind: str, told: dict[str, Any]) -> Job:
    if kind not in kinds():
        raise gr.Error(
            f"there is no kind of job called {kind!r}; there are {', '.join(kinds())}", print_exception=False
        )
    try:
        return studio.submit(studio.parse(kinds()[kind], told), OWNER)
    except (ValueError, KeyError, QueueFull) as why:
        raise gr.Error(str(why.args[0] if why.args else why), print_exception=False) from why


def _files(job: Job) -> list[gr.FileData]:
    """The job's pictures, where Gradio may serve them from."""
    return [gr.FileData(path=_served(one)) for one in results(job)]


def _served(one: Saved) -> str:
    folder = get_upload_folder()
    if one.entry is not None:
        return processing_utils.save_file_to_cache(one.entry.path, folder)
    return processing_utils.save_pil_to_cache(one.picture(), folder, format="png")
