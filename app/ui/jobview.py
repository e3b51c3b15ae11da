"""The part of a tab that starts jobs and shows them: status line, large picture with live preview, strip of results.

Listeners only submit to the studio's worker and follow. The jobs of a browser are found again by its name (`owner`,
kept in the browser), so that a reload, a closed tab or a second tab lose nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import gradio as gr
from pydantic import ValidationError

from app.jobs import Job, QueueFull
from app.requests import Params, sentence
from app.studio import results
from app.ui import render
from app.ui.parts import QUIET, Page, this_page

LOOK_SECONDS = 0.12  # how often a follower looks for news
# A click on a tile becomes the event "pick" with the picture's number and all numbers beside it.
PICK = """
element.addEventListener('click', event => {
  const tile = event.target.closest('[data-pick]');
  if (!tile) return;
  const all = [...element.querySelectorAll('[data-pick]')].map(t => t.dataset.pick);
  trigger('pick', {value: tile.dataset.pick, all: all});
});
"""


class JobView:
    """Status, stage and strip of one tab; `chosen` is a gr.State with the number of the picture that is shown large."""

    def __init__(self, ui: Page, name: str, title: str = "", text: str = "", stage: bool = True) -> None:
        self.ui, self.name = ui, name
        self._empty = f'<div class="ms-empty"><b>{render.both(ui.t(title))}</b>{render.both(ui.t(text))}</div>'
        self.stage = gr.HTML(self._stage([], None), elem_id=f"{name}_stage", js_on_load=PICK, visible=stage)
        self.status = gr.HTML("", elem_id=f"{name}_status")
        self.job = gr.Textbox(visible="hidden", elem_id=f"{name}_job", label=ui.t("Job"))
        self.chosen = gr.State(None)
        self.outputs = [self.status, self.stage, self.chosen, self.job]
        self._places()

    def _places(self) -> None:
        """What happens without a job: a click in the strip, a page that is opened again."""
        blocks = this_page()
        picked: Any = self.stage.pick
        picked(self._pick, outputs=[self.stage, self.chosen], queue=False, **QUIET)
        keep = f"(id) => {{ window.mix.set('job.{self.name}', id); return []; }}"
        self.job.change(None, inputs=[self.job], outputs=[], js=keep, **QUIET)
        box = gr.Textbox(visible="hidden", elem_id=f"{self.name}_owner", label=self.ui.t("Browser"))
        recall = f"async () => {{ const m = await window.mixReady(); return [m.owner(), m.get('job.{self.name}')]; }}"
        blocks.load(self._resume, [box, self.job], self.outputs, js=recall, concurrency_limit=None, **QUIET)

    # --- starting, stopping ---

    def starts(self, triggers: Any, make: Callable[..., Params], inputs: Sequence[Any]) -> None:
        """Make params of the inputs' values and submit them. `make` raises ValueError with a sentence."""
        self.starts_jobs(triggers, lambda owner, *v: self.ui.studio.submit(make(*v), owner), inputs)

    def starts_jobs(self, triggers: Any, submit_job: Callable[..., Job], inputs: Sequence[Any]) -> None:
        """The same, where `submit_job(owner, *values)` itself puts the job into its line."""

        async def submit(request: gr.Request, owner: str, *values: Any) -> AsyncIterator[Any]:
            try:
                job = await asyncio.to_thread(submit_job, self._owner(owner), *values)
            except (ValueError, KeyError, QueueFull) as why:
                yield self._refused(why, request)
                return
            async for update in self._follow(owner, request, job):
                yield update

        triggers = triggers if isinstance(triggers, list) else [triggers]
        gr.on(
            triggers,
            submit,
            inputs=[self.ui.owner, *inputs],
            outputs=self.outputs,
            concurrency_limit=None,
            trigger_mode="multiple",  # a second click queues a second job
            **QUIET,
        )

    def _owner(self, owner: str) -> str:
        return f"{owner or 'somebody'}:{self.name}"

    def stops(self, button: Any) -> None:
        """Let a button interrupt what this browser runs here."""
        button.click(self._stop, inputs=[self.ui.owner], outputs=[], queue=False, **QUIET)

    def skips(self, button: Any) -> None:
        """Let a button leave the batch that is being made, and go on with the next."""
        button.click(self._skip, inputs=[self.ui.owner], outputs=[], queue=False, **QUIET)

    def _stop(self, owner: str) -> None:
        if job := self._next(owner, set()):
            self.ui.studio.cancel(job)

    def _skip(self, owner: str) -> None:
        if job := self._next(owner, set()):
            job.skip()

    def _refused(self, why: Exception, request: gr.Request) -> tuple[Any, ...]:
        if isinstance(why, ValidationError):
            text = sentence(why)
        else:
            text = str(why.args[0]) if why.args else str(why)
        return (render.trouble(text, self.ui.language(request)), gr.skip(), gr.skip(), gr.skip())

    # --- following ---

    def _jobs(self, owner: str) -> list[Job]:
        return [job for job in self.ui.studio.jobs() if job.owner == self._owner(owner)]

    def _next(self, owner: str, seen: set[str]) -> Job | None:
        """The job to look at: the one that runs, else the next that waits."""
        open_ones = [job for job in self._jobs(owner) if not job.status.final and job.id not in seen]
        return next((job for job in open_ones if job.started), open_ones[0] if open_ones else None)

    async def _follow(self, owner: str, request: gr.Request, fresh: Job | None = None) -> AsyncIterator[Any]:
        """Every job of this browser in turn; a second follower of the same page leaves it to the first."""
        key = (str(request.session_hash), self._owner(owner))
        if key in self.ui.following:
            gr.Info(self.ui.say("Added to the queue.", request), duration=3)
            yield tuple(gr.skip() for _ in self.outputs)
            return
        self.ui.following.add(key)
        seen: set[str] = set()
        try:
            job = self._next(owner, seen) or fresh
            while job is not None:
                seen.add(job.id)
                async for update in self._watch(job, self.ui.language(request)):
                    yield update
                job = self._next(owner, seen)
        finally:
            self.ui.following.discard(key)

    async def _watch(self, job: Job, language: str) -> AsyncIterator[Any]:
        mark, looked, shown = None, 0.0, ""
        while True:
            now = (len(job.events), job.status, self._line(job)[0], job.cancelled)
            if now != mark or time.monotonic() - looked > 1:
                mark, looked = now, time.monotonic()
                status, stage, chosen = self.present(job, language)
                yield status, (stage if stage != shown else gr.skip()), chosen, job.id
                shown = stage
            if now[1].final:  # as it was shown, for it may have ended since
                return
            await asyncio.sleep(LOOK_SECONDS)

    def present(self, job: Job, language: str) -> tuple[str, str, Any]:
        """Status, stage and chosen picture of a job as it is now."""
        place, wait = self._line(job)
        entries = [one.entry for one in results(job) if one.entry is not None]
        chosen = entries[0].id if entries else None
        live = "" if job.status.final else _preview(job)
        if not (entries or live):  # the last picture stays in sight until there is a new one
            return render.status(job, language, place, wait), "", gr.skip()
        return render.status(job, language, place, wait), self._stage(entries, chosen, live), chosen

    def _line(self, job: Job) -> tuple[int | None, float | None]:
        """How many jobs come first, and the seconds they will take (from the jobs before)."""
        worker = self.ui.studio.worker
        place = worker.place(job)
        if not place:
            return place, None
        past = [j.ended - j.started for j in worker.jobs.values() if j.ended and j.started][-10:]
        now = worker.current.remaining if worker.current is not None else None
        if not past:
            return place, now
        average = sum(past) / len(past)
        return place, (average if now is None else now) + average * (place - 1)

    def _stage(self, entries: Sequence[Any], chosen: int | None, live: str = "") -> str:
        if not entries and not live:
            return f'<div class="ms-stage"><div class="ms-frame">{self._empty}</div></div>'
        return render.stage(entries, chosen, live)

    # --- without a job ---

    def _pick(self, event: gr.EventData) -> tuple[Any, Any]:
        told: Any = event._data or {}
        entries = [entry for one in told.get("all", [])[:200] if (entry := self.ui.find(one)) is not None]
        picked = self.ui.find(told.get("value"))
        if picked is None:
            return gr.skip(), gr.skip()
        return self._stage(entries, picked.id), picked.id

    def show(self, entries: Sequence[Any], status: str = "") -> tuple[Any, ...]:
        """Updates that show these pictures."""
        chosen = entries[0].id if entries else None
        return status, self._stage(entries, chosen), chosen, gr.skip()

    async def _resume(self, request: gr.Request, owner: str, last: str) -> AsyncIterator[Any]:
        """After a reload: what runs is followed again, what ended meanwhile is shown."""
        if self._next(owner, set()) is not None:
            async for update in self._follow(owner, request):
                yield update
            return
        mine = self._jobs(owner)
        if mine:
            status, stage, chosen = self.present(mine[-1], self.ui.language(request))
            yield status, stage or gr.skip(), chosen, mine[-1].id
        elif last:
            yield await asyncio.to_thread(self._remembered, last, request)
        else:
            yield tuple(gr.skip() for _ in self.outputs)

    def _remembered(self, last: str, request: gr.Request) -> tuple[Any, ...]:
        """The pictures of a job of an earlier run of the studio."""
        store = self.ui.studio.store
        entries = [entry for entry in store.find(limit=200) if entry.job == last]
        past = next((job for job in store.history(50) if job.id == last), None)
        told = ""
        if past is not None and past.status == "interrupted":
            told = self.ui.say("The studio was stopped while this was being made; start it again.", request)
        if not entries:
            return render.notice(told), gr.skip(), gr.skip(), gr.skip()
        return self.show(entries[::-1], render.notice(told))


def _preview(job: Job) -> str:
    """The latest rough view of a running job as a data URI; made once for each."""
    for event in reversed(job.events):
        if type(event).__name__ == "Preview":
            cached = getattr(job, "_shown_preview", None)
            if cached is None or cached[0] is not event:
                cached = (event, render.as_data(render.sheet(event.images)))
                job._shown_preview = cached  # type: ignore[attr-defined]
            return cached[1]
    return ""
