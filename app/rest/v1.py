"""Our own HTTP interface: jobs of every kind, their events, the gallery, the models and the settings."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from app.catalog import KINDS, as_json
from app.requests import Params
from app.rest.events import entry_json, job_json, stream
from app.services import kinds
from app.studio import Studio

MAX_WAIT = 600.0
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT, description="seconds to wait for the end before answering")]


class Place(BaseModel):
    """Where in the line a waiting job goes."""

    place: int = Field(ge=0, description="0: the next to run")


class Favourite(BaseModel):
    """Whether a picture is marked."""

    favourite: bool = True


class JobBody(BaseModel):
    """A job of any kind."""

    kind: str
    params: dict[str, Any] = Field(default_factory=dict)


def router(studio: Studio) -> APIRouter:
    """All routes below /v1 but the OpenAI-compatible ones."""
    routes = APIRouter(prefix="/v1")
    _add_jobs(routes, studio)
    _add_followers(routes, studio)
    _add_kinds(routes, studio)
    _add_pictures(routes, studio)
    _add_models(routes, studio)
    _add_settings(routes, studio)
    return routes


async def _accept(studio: Studio, params: Params, wait: float, response: Response) -> dict[str, Any]:
    """Submit, perhaps wait; 202 while the job goes on, 200 when it has ended."""
    job = await run_in_threadpool(studio.submit, params, "api")
    if wait:
        await run_in_threadpool(job.wait, wait)
    response.status_code = 200 if job.status.final else 202
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job_json(studio, job)


def _add_jobs(routes: APIRouter, studio: Studio) -> None:
    @routes.post("/jobs", status_code=202, tags=["jobs"])
    async def submit(body: JobBody, response: Response, wait: Wait = 0) -> dict[str, Any]:
        """Submit a job of any kind; see /v1/kinds for what each takes."""
        known = kinds()
        if body.kind not in known:
            raise ValueError(f"there is no kind of job called {body.kind!r}; there are {', '.join(known)}")
        return await _accept(studio, studio.parse(known[body.kind], body.params), wait, response)

    @routes.get("/jobs", tags=["jobs"])
    def jobs() -> list[dict[str, Any]]:
        """The jobs of this run, oldest first."""
        return [job_json(studio, job, brief=True) for job in studio.jobs()]

    @routes.get("/jobs/{job_id}", tags=["jobs"])
    def job(job_id: str) -> dict[str, Any]:
        """One job with its params and results."""
        return job_json(studio, studio.job(job_id))

    @routes.post("/jobs/{job_id}/cancel", tags=["jobs"])
    def cancel(job_id: str) -> dict[str, Any]:
        """End a job: at once while it waits, after its present step while it runs."""
        found = studio.job(job_id)
        studio.cancel(found)
        return job_json(studio, found, brief=True)

    @routes.post("/jobs/{job_id}/skip", tags=["jobs"])
    def skip(job_id: str) -> dict[str, Any]:
        """Leave the picture that is being made and go on with the next."""
        found = studio.job(job_id)
        found.skip()
        return job_json(studio, found, brief=True)

    @routes.post("/jobs/{job_id}/move", tags=["jobs"])
    def move(job_id: str, body: Place) -> dict[str, Any]:
        """Give a waiting job another place in the line."""
        found = studio.job(job_id)
        studio.worker_of(found).move(found, body.place)
        return job_json(studio, found, brief=True)

    @routes.get("/history", tags=["jobs"])
    def history(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
        """Jobs of this and of earlier runs, newest first; "interrupted" where the studio ended before the job did."""
        return [asdict(past) for past in studio.store.history(limit)]


def _add_followers(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/jobs/{job_id}/events", tags=["jobs"], response_class=StreamingResponse)
    async def events(
        job_id: str, after: int = -1, last_event_id: Annotated[int | None, Header()] = None
    ) -> StreamingResponse:
        """Server-sent events: note, progress, preview, picture, at last end. Resumes after `Last-Event-ID`."""
        start = (after if last_event_id is None else last_event_id) + 1
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        found = studio.job(job_id)
        return StreamingResponse(stream(studio, found, max(start, 0)), media_type="text/event-stream", headers=headers)


def _add_kinds(routes: APIRouter, studio: Studio) -> None:
    """A typed route for each kind, so that the documentation shows its fields."""
    for kind, params in kinds().items():
        _add_kind(routes, studio, kind, params)

    @routes.get("/kinds", tags=["jobs"])
    def schemas() -> dict[str, Any]:
        """The kinds of jobs with the JSON schemas of their params."""
        return {kind: params.model_json_schema() for kind, params in kinds().items()}


def _add_kind(routes: APIRouter, studio: Studio, kind: str, params: type[Params]) -> None:
    async def submit(body: dict[str, Any], response: Response, wait: Wait = 0) -> dict[str, Any]:
        return await _accept(studio, studio.parse(params, body), wait, response)

    submit.__doc__ = params.__doc__
    schema = {
        "requestBody": {"content": {"application/json": {"schema": params.model_json_schema()}}, "required": True}
    }
    routes.post(f"/{kind}", status_code=202, tags=["jobs"], name=kind, openapi_extra=schema)(submit)


def _add_pictures(routes: APIRouter, studio: Studio) -> None:
    store = studio.store

    @routes.get("/pictures", tags=["gallery"])
    def find(
        text: str = "",
        favourites: bool = False,
        trashed: bool = False,
        limit: Annotated[int, Query(ge=1, le=500)] = 60,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> list[dict[str, Any]]:
        """Pictures, newest first; every word of `text` must stand in the prompt or the settings."""
        return [entry_json(entry) for entry in store.find(text, favourites, trashed, limit, offset)]

    @routes.get("/pictures/{number}", tags=["gallery"])
    def picture(number: int) -> dict[str, Any]:
        """One picture's entry."""
        return entry_json(store.get(number))

    @routes.get("/pictures/{number}/file", tags=["gallery"], response_class=FileResponse)
    def file(number: int) -> FileResponse:
        """The picture itself, settings inside."""
        entry = store.get(number)
        if not entry.path.is_file():
            raise FileNotFoundError(f"the file of picture {number} is gone")
        return FileResponse(entry.path, filename=entry.path.name, content_disposition_type="inline")

    @routes.patch("/pictures/{number}", tags=["gallery"])
    def favour(number: int, body: Favourite) -> dict[str, Any]:
        """Mark a picture, or take the mark away."""
        return entry_json(store.favour(number, body.favourite))

    @routes.delete("/pictures/{number}", tags=["gallery"])
    def trash(number: int) -> dict[str, Any]:
        """Move a picture to the trash."""
        return entry_json(store.trash(number))

    @routes.post("/pictures/{number}/restore", tags=["gallery"])
    def restore(number: int) -> dict[str, Any]:
        """Bring a picture back from the trash."""
        return entry_json(store.restore(number))


def _add_models(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/catalog", tags=["models"])
    def models(kind: str = "") -> list[dict[str, Any]]:
        """The models on disk, of one kind or all."""
        if kind not in ("", *KINDS):
            raise ValueError(f"there is no kind of model called {kind!r}; there are {', '.join(KINDS)}")
        return [as_json(model) for model in studio.catalog.list(kind)]

    @routes.post("/catalog/refresh", tags=["models"])
    def refresh() -> list[dict[str, Any]]:
        """Look at the disk again."""
        return [as_json(model) for model in studio.catalog.refresh()]

    @routes.get("/catalog/{kind}/{name:path}/preview", tags=["models"], response_class=FileResponse)
    def preview(kind: str, name: str) -> FileResponse:
        """The picture beside a model."""
        found = studio.catalog.find(kind, name).preview
        if found is None:
            raise FileNotFoundError(f"{name} has no preview picture")
        return FileResponse(found)


def _add_settings(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/health", tags=["studio"])
    def health() -> dict[str, Any]:
        """Whether the studio lives, and what it is at."""
        current = studio.worker.current
        return {"status": "ok", "running": current.id if current else None, "waiting": len(studio.worker.waiting())}

    @routes.get("/settings", tags=["studio"])
    def settings() -> dict[str, Any]:
        """All settings."""
        return {name: value for name, value in asdict(studio.settings).items() if name not in ("data", "troubles")}

    @routes.patch("/settings", tags=["studio"])
    def change(values: dict[str, Any]) -> dict[str, Any]:
        """Change some settings; they are kept. What says where files lie is not changed from here."""
        if forbidden := sorted({"model_folders", "download_hosts"} & set(values)):
            return JSONResponse({"error": "Forbidden", "detail": f"{forbidden[0]} is set in settings.json"}, 403)  # type: ignore[return-value]
        studio.change(values)
        return settings()
