"""What the page asks for beside Gradio: pictures and thumbnails, previews of models, the queue, the manifest.

A picture is named by its number in the catalogue, never by a path; the file must lie in the outputs folder and be no
link.
"""

import io
import threading
from collections import OrderedDict
from html import escape
from pathlib import Path
from typing import Any

import PIL.Image
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response

from app import __version__
from app.completion import Completion, Suggestion
from app.i18n import translate
from app.jobs import Job, Status
from app.settings import ROOT
from app.studio import Studio
from app.ui import render
from app.ui.parts import language_for

ASSETS = ROOT / "assets" / "studio"
DOCS = Path(__file__).with_name("apidocs.html")  # drawn from /openapi.json in the browser, nothing from elsewhere
OWN_FILES = {"icon.svg": "image/svg+xml", "icon-192.png": "image/png", "icon-512.png": "image/png"}
KEEP = {"Cache-Control": "private, max-age=86400"}
THUMB, THUMBS = 360, 400  # pixels of a thumbnail's longer side; how many are kept in memory
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


class Thumbs:
    """Thumbnails in memory, the least used ones forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> bytes:
        """A small WebP of a picture. Raises OSError for a file that is none."""
        key = (str(path), path.stat().st_mtime_ns)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with PIL.Image.open(path) as image:
            image.draft("RGB", (THUMB, THUMB))
            small = image.convert("RGB")
        small.thumbnail((THUMB, THUMB))
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=82)
        with self._lock:
            self._kept[key] = buffer.getvalue()
            while len(self._kept) > THUMBS:
                self._kept.popitem(last=False)
        return buffer.getvalue()


def inside(path: Path, folder: Path) -> Path:
    """The path, if it is a plain file below the folder. Raises HTTPException 404."""
    whole = path.resolve()
    if path.is_symlink() or not whole.is_file() or not whole.is_relative_to(folder.resolve()):
        raise HTTPException(404, "this picture is not there any more")
    return whole


def router(studio: Studio) -> APIRouter:
    """The page's own routes."""
    routes = APIRouter(include_in_schema=False)
    _add_pictures(routes, studio)
    _add_queue(routes, studio)
    _add_words(routes, studio)
    _add_files(routes)
    return routes


def _add_pictures(routes: APIRouter, studio: Studio) -> None:
    thumbs = Thumbs()

    def found(number: int) -> Path:
        try:
            return inside(studio.store.get(number).path, studio.store.folder)
        except KeyError as why:
            raise HTTPException(404, str(why.args[0])) from None

    @routes.get("/pictures/{number}")
    def picture(number: int, download: bool = False) -> FileResponse:
        path = found(number)
        kind = TYPES.get(path.suffix.lower(), "application/octet-stream")
        return FileResponse(path, media_type=kind, headers=KEEP, filename=path.name if download else None)

    @routes.get("/pictures/{number}/thumb")
    def thumb(number: int) -> Response:
        return Response(thumbs.get(found(number)), media_type="image/webp", headers=KEEP)

    @routes.get("/previews/{kind}/{name:path}")
    def preview(kind: str, name: str) -> Response:
        try:
            model = studio.catalog.find(kind, name)
        except KeyError as why:
            raise HTTPException(404, str(why.args[0])) from None
        if model.preview is None:
            raise HTTPException(404, f"{name} has no preview")
        try:
            return Response(thumbs.get(inside(model.preview, model.path.parent)), media_type="image/webp", headers=KEEP)
        except OSError:
            raise HTTPException(404, f"{name}'s preview cannot be read") from None


def _add_words(routes: APIRouter, studio: Studio) -> None:
    completion = Completion(studio)

    @routes.get("/ui/complete")
    def complete(word: str = "") -> list[Suggestion]:
        return completion.find(word[:200])


def _add_queue(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/ui/queue")
    def queue(request: Request) -> JSONResponse:
        language = language_for(request, studio)
        jobs = studio.jobs()
        open_jobs = sum(not job.status.final for job in jobs)
        words = {"title": translate("Queue", language), "close": translate("Close", language)}
        return JSONResponse({"open": open_jobs, "html": drawer(studio, language), **words})

    @routes.post("/ui/queue/{job_id}/{act}")
    def change(job_id: str, act: str) -> dict[str, Any]:
        try:
            job = studio.job(job_id)
            _change(studio, job, act)
        except KeyError as why:
            raise HTTPException(404, str(why.args[0])) from None
        except ValueError as why:
            raise HTTPException(409, str(why)) from None
        return {"id": job.id, "status": job.status.value}


def _change(studio: Studio, job: Job, act: str) -> None:
    if act == "cancel":
        return studio.cancel(job)
    if act == "skip":
        return job.skip()
    worker = studio.worker_of(job)
    waiting = worker.waiting()
    place = waiting.index(job) if job in waiting else 0
    moves = {"up": place - 1, "down": place + 1, "first": 0}
    if act not in moves:
        raise ValueError(f"a job can be changed by cancel, skip, {', '.join(moves)}; not by {act!r}")
    worker.move(job, max(0, moves[act]))


def drawer(studio: Studio, language: str) -> str:
    """The queue as HTML: what runs, what waits, what ended lately."""

    def t(text: str) -> str:
        return escape(translate(text, language))

    jobs = studio.jobs()
    running = [job for job in jobs if job.status is Status.RUNNING]
    waiting = [*studio.worker.waiting(), *studio.network.waiting()]
    ended = [job for job in reversed(jobs) if job.status.final][:10]
    html = ""
    for title, some in (("Running", running), ("Waiting", waiting), ("Finished", ended)):
        if some:
            html += f"<h3>{t(title)}</h3>" + "".join(_card(job, language, studio) for job in some)
    return html or f'<p class="ms-note">{t("Nothing runs and nothing waits.")}</p>'


KINDS = {
    "generate": "Picture",
    "qr": "Art QR",
    "blend": "Blend",
    "grid": "Grid",
    "enlarge": "Enlarge",
    "download": "Download",
}
ENDS = {"succeeded": "Done", "failed": "Failed", "canceled": "Cancelled"}


def _card(job: Job, language: str, studio: Studio) -> str:
    def t(text: str) -> str:
        return escape(translate(text, language))

    words = str(job.params.get("prompt") or job.params.get("text") or job.params.get("source") or "")[:200]
    kind = t(KINDS.get(job.kind, job.kind))
    if job.status is Status.RUNNING:
        rest = job.remaining
        part = round(100 * min(1.0, job.done / job.of)) if job.of else 0
        told = f"{part} %" + (f" · {render.seconds(rest, language)}" if rest is not None else "")
        bar = f'<div class="ms-bar"><i style="width:{part}%"></i></div>'
        acts = _buttons(
            job,
            [("cancel", "Cancel"), ("skip", "Skip picture")] if job.kind == "generate" else [("cancel", "Cancel")],
            t,
        )
    elif job.status is Status.QUEUED:
        told, bar = t("Waiting"), ""
        acts = _buttons(job, [("cancel", "Cancel"), ("first", "Next"), ("up", "Earlier"), ("down", "Later")], t)
    else:
        told, bar, acts = t(ENDS[job.status.value]), "", ""
        if job.error:
            told += f": {t(job.error)}"
        elif job.ended and job.started:
            told += f" · {render.seconds(job.ended - job.started, language)}"
    bad = " ms-bad" if job.status is Status.FAILED else ""
    return (
        f'<div class="ms-job{bad}"><div class="ms-what"><b>{kind}</b> {escape(words)}</div>'
        f'<div class="ms-sub">{told}</div>{bar}{acts}</div>'
    )


def _buttons(job: Job, acts: list[tuple[str, str]], t: Any) -> str:
    made = "".join(
        f'<button type="button" data-job="{job.id}" data-act="{act}">{t(label)}</button>' for act, label in acts
    )
    return f'<div class="ms-acts">{made}</div>'


def _add_files(routes: APIRouter) -> None:
    @routes.get("/studio/{name}")
    def asset(name: str) -> Response:
        if name not in OWN_FILES:
            raise HTTPException(404, "there is no such file")
        return FileResponse(ASSETS / name, media_type=OWN_FILES[name], headers=KEEP)

    @routes.get("/docs")
    def docs() -> HTMLResponse:
        return HTMLResponse(DOCS.read_text(encoding="utf-8"))

    @routes.get("/favicon.ico")
    def favicon() -> Response:
        return FileResponse(ASSETS / "icon-192.png", media_type="image/png", headers=KEEP)

    @routes.get("/manifest.json")
    def manifest() -> JSONResponse:
        icons = [
            {"src": f"/studio/icon-{side}.png", "sizes": f"{side}x{side}", "type": "image/png", "purpose": "any"}
            for side in (192, 512)
        ]
        told = {
            "name": "MixStudio",
            "short_name": "MixStudio",
            "description": f"Pictures from words, QR codes that are pictures, two photos in one. Version {__version__}",
            "id": "/",
            "start_url": "/",
            "display": "standalone",
            "background_color": "#f1f4f3",
            "theme_color": "#0e6e6b",
            "icons": [*icons, {"src": "/studio/icon.svg", "sizes": "any", "type": "image/svg+xml", "purpose": "any"}],
        }
        return JSONResponse(told, media_type="application/manifest+json")
