"""The studio as one object: settings, models on disk and in memory, pictures, and the workers that do the jobs.

The page, HTTP and the command line share it; nothing else holds state.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
from pydantic import ValidationError

from app import settings as setting
from app import styles
from app.catalog import Catalog
from app.jobs import Job, Worker
from app.llm_host import LLMHost
from app.requests import Params, sentence
from app.runtime import Runtime
from app.services import NETWORK, Saved, run, service_of
from app.settings import Settings
from app.store import Store
from ppdiffusers.prompt.wildcards import Wildcards


class Studio:
    """Everything that a front end needs; see `Studio.open`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.catalog = Catalog(settings)
        self.runtime = Runtime(settings, self.catalog)
        self.llms = LLMHost(self.catalog)
        self.store = Store(settings.outputs)
        record = self.store.record
        self.worker = Worker(
            "device", settings.queue_limit, relieve=self.runtime.relieve, finished=record, accepted=record
        )
        self.network = Worker("network", settings.queue_limit, finished=self._fetched, accepted=record)
        self.confined = False  # others than whoever sits at this computer use it: no paths of its disk are taken
        self._lock = threading.Lock()

    @classmethod
    def open(cls, data: str | Path | None = None, **values: Any) -> "Studio":
        """The studio of a data folder; `values` override its settings for this run."""
        return cls(setting.load(data).with_values(values))

    def close(self) -> None:
        """Cancel what runs and close the catalogue."""
        self.worker.stop()
        self.network.stop()
        self.llms.close()
        self.store.close()

    def __enter__(self) -> "Studio":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    # --- jobs ---

    def parse(self, kind: type[Params], values: Mapping[str, Any]) -> Any:
        """Params out of plain values. Raises ValueError with one sentence about what is wrong."""
        try:
            return kind.model_validate(dict(values), context={"store": self.store})
        except ValidationError as why:
            raise ValueError(sentence(why)) from why

    def submit(self, params: Params, owner: str = "") -> Job:
        """Put a job into its line. Raises QueueFull, or ValueError for a kind or wildcard that is not there."""
        service_of(params.kind)
        for name in ("prompt", "negative_prompt"):
            self.wildcards.expand(getattr(params, name, ""), 0)
        worker = self.network if params.kind in NETWORK else self.worker
        return worker.submit(params.kind, lambda: run(self, params), self.remember(params), owner)

    def remember(self, params: Params) -> dict[str, Any]:
        """Params as the history keeps them: pictures are kept by their content and named."""
        return params.model_dump(mode="json", exclude_defaults=True, context={"outputs": self.store.folder})

    def job(self, job_id: str) -> Job:
        """A job of either line. Raises KeyError with a sentence."""
        return (self.network if job_id in self.network.jobs else self.worker).get(job_id)

    def worker_of(self, job: Job) -> Worker:
        """The worker in whose line a job is or was."""
        return self.network if job.id in self.network.jobs else self.worker

    def jobs(self) -> list[Job]:
        """All jobs of this run, oldest first."""
        return sorted([*self.worker.jobs.values(), *self.network.jobs.values()], key=lambda job: job.created)

    def cancel(self, job: Job) -> None:
        """End a job, wherever it is."""
        self.worker_of(job).cancel(job)

    def skipped(self) -> bool:
        """Whether the running job was asked to leave its present picture; asking takes the mark away."""
        job = self.worker.current
        return job is not None and job.take_skip()

    def _fetched(self, job: Job) -> None:
        self.store.record(job)
        self.catalog.refresh()

    # --- results ---

    def keep(
        self,
        image: PIL.Image.Image,
        infotext: str,
        seed: int,
        *,
        index: int = 0,
        save: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> Saved:
        """Put a finished picture into the gallery."""
        if not save:
            return Saved(None, image, infotext, seed, index, extra or {})
        job = self.worker.current
        kind = f".{self.settings.format}"
        entry = self.store.save(image, infotext, seed, job.id if job else None, extra, kind)
        return Saved(entry, None, infotext, seed, index, extra or {})

    # --- words and settings ---

    @property
    def styles_path(self) -> Path:
        """The table of styles."""
        return self.settings.data / "styles.csv"

    def styles(self) -> list[styles.Style]:
        """The styles there are."""
        return styles.load(self.styles_path)

    def with_styles(self, names: Sequence[str], prompt: str, negative: str) -> tuple[str, str]:
        """Both prompts with the named styles put in."""
        return styles.apply(names, prompt, negative, self.styles()) if names else (prompt, negative)

    @property
    def wildcards(self) -> Wildcards:
        """The files that prompts may draw lines from."""
        return Wildcards(self.settings.data / "wildcards")

    def change(self, values: Mapping[str, Any]) -> Settings:
        """Change and keep settings. Raises ValueError for one that cannot be."""
        with self._lock:
            settings = self.settings.with_values(values)
            setting.save(settings)
            self.settings = self.runtime.settings = settings
            self.worker.limit = self.network.limit = settings.queue_limit
        if "model_folders" in values:
            self.catalog.refresh(settings)
        self.catalog.settings = settings
        return settings


def results(job: Job) -> Iterator[Saved]:
    """The pictures that a job has made so far."""
    return (event for event in list(job.events) if isinstance(event, Saved))
