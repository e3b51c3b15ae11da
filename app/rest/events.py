"""Jobs and their events as JSON and as server-sent events."""

import io
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from typing import Any

from app.jobs import Job
from app.services import Saved
from app.store import Entry
from app.studio import Studio, results
from ppdiffusers.pipelines.event import Note, Preview, Progress

KEEP_ALIVE = 15.0  # seconds of silence after which a comment is sent, so that proxies do not hang up


def entry_json(entry: Entry) -> dict[str, Any]:
    """A picture of the gallery."""
    return {
        "id": entry.id,
        "name": entry.name,
        "created": entry.created,
        "width": entry.width,
        "height": entry.height,
        "prompt": entry.prompt,
        "infotext": entry.infotext,
        "job": entry.job,
        "favourite": entry.favourite,
        "trashed": entry.trashed,
        "extra": dict(entry.extra),
        "url": f"/v1/pictures/{entry.id}/file",
    }


def job_json(studio: Studio, job: Job, brief: bool = False) -> dict[str, Any]:
    """A job: where it is, how far, and what it made."""
    told: dict[str, Any] = {
        "id": job.id,
        "kind": job.kind,
        "status": job.status.value,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "place": studio.worker_of(job).place(job),
        "step": job.done,
        "of": job.of,
        "remaining": job.remaining,
        "error": job.error,
        "hint": job.hint,
    }
    if not brief:
        told |= {"params": dict(job.params), "pictures": [saved_json(saved) for saved in results(job)]}
        told["notes"] = [event.text for event in list(job.events) if isinstance(event, Note)]
    return told


def saved_json(saved: Saved) -> dict[str, Any]:
    """A finished picture; one that is not in the gallery comes as data."""
    told: dict[str, Any] = {"index": saved.index, "seed": saved.seed, "infotext": saved.infotext}
    if saved.entry is not None:
        return told | {"picture": entry_json(saved.entry)}
    buffer = io.BytesIO()
    saved.picture().save(buffer, "PNG")
    return told | {"data": "data:image/png;base64," + b64encode(buffer.getvalue()).decode("ascii")}


def event_json(event: Any) -> tuple[str, Mapping[str, Any]]:
    """(name, data) of an event of any kind."""
    match event:
        case Note():
            return "note", {"text": event.text, "warning": event.warning}
        case Progress():
            return "progress", {"step": event.step, "of": event.of, "note": event.note}
        case Preview():
            return "preview", {"step": event.step, "images": [data_uri(image) for image in event.images]}
        case Saved():
            return "picture", saved_json(event)
        case _:
            return type(event).__name__.lower(), {"text": str(event)}


def data_uri(image: Any) -> str:
    """A rough picture, small in bytes."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode("ascii")


async def stream(studio: Studio, job: Job, start: int) -> AsyncIterator[str]:
    """The job's events from number `start` on, ended by one `end` event with the job's state."""
    async for number, event in job.afollow(start, KEEP_ALIVE):
        if event is None:
            yield ": still here\n\n"
            continue
        name, data = event_json(event)
        yield f"id: {number}\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
    yield f"event: end\ndata: {json.dumps(job_json(studio, job), ensure_ascii=False)}\n\n"
