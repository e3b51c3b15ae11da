"""What was made, kept over restarts: pictures as files that carry their settings, and a SQLite catalogue to find them.

The files are the truth. A picture is written beside its place and renamed, then entered; a crash in between loses
nothing, because opening the store enters files that the catalogue does not know. Deleting moves to a trash folder, from
which a picture can come back.
"""

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import PIL.Image

from app.save import FORMATS, save_picture
from ppdiffusers.pipelines.infotext import extract, parse

SCHEMA = """
CREATE TABLE IF NOT EXISTS pictures (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, created REAL NOT NULL, width INTEGER, height INTEGER,
    prompt TEXT NOT NULL DEFAULT '', infotext TEXT NOT NULL DEFAULT '', job TEXT, favourite INTEGER NOT NULL DEFAULT 0,
    trashed INTEGER NOT NULL DEFAULT 0, extra TEXT NOT NULL DEFAULT '{}');
CREATE INDEX IF NOT EXISTS by_time ON pictures (created DESC);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, error TEXT, params TEXT NOT NULL DEFAULT '{}',
    created REAL NOT NULL, ended REAL);
"""
TRASH = ".trash"


@dataclass(frozen=True)
class Entry:
    """A picture in the catalogue."""

    id: int
    name: str  # relative to the store's folder
    path: Path
    created: float
    width: int
    height: int
    prompt: str
    infotext: str
    job: str | None
    favourite: bool
    trashed: bool
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class PastJob:
    """A job in the history; "interrupted" where the process ended before the job did."""

    id: str
    kind: str
    status: str
    error: str | None
    params: Mapping[str, Any]
    created: float
    ended: float | None


class Store:
    """Pictures and job history in one folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = self._open()
        self.recovered = self._enter_strangers()
        with self._writing() as db:
            db.execute("UPDATE jobs SET status = 'interrupted' WHERE status IN ('queued', 'running')")

    def _open(self) -> sqlite3.Connection:
        path = self.folder / "catalogue.sqlite"
        try:
            return self._connect(path)
        except sqlite3.DatabaseError:  # damaged: the pictures carry their settings, so the catalogue can be made again
            shutil.move(path, path.with_name(f"catalogue-damaged-{int(time.time())}.sqlite"))
            for leftover in (path.with_name(path.name + end) for end in ("-wal", "-shm")):
                leftover.unlink(missing_ok=True)
            return self._connect(path)

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(SCHEMA)
        if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("the catalogue is damaged")
        return db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the catalogue; the store can't be used afterwards."""
        with self._lock:
            self._db.close()

    # --- pictures ---

    def save(
        self,
        image: PIL.Image.Image,
        infotext: str,
        seed: int,
        job: str | None = None,
        extra: Mapping[str, Any] | None = None,
        kind: str = ".png",
    ) -> Entry:
        """Write a picture into today's folder and enter it. Raises OSError with a sentence when the disk is full."""
        day = self.folder / datetime.now().strftime("%Y-%m-%d")
        day.mkdir(exist_ok=True)
        path = _free_name(day, seed, kind)
        save_picture(image, path, infotext)
        return self._enter(path, image.size, infotext, job, extra or {})

    def _enter(
        self, path: Path, size: tuple[int, int], infotext: str, job: str | None, extra: Mapping[str, Any]
    ) -> Entry:
        name = path.relative_to(self.folder).as_posix()
        row = (name, path.stat().st_mtime, *size, parse(infotext).prompt, infotext, job, json.dumps(dict(extra)))
        with self._writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO pictures (name, created, width, height, prompt, infotext, job, extra) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            found = db.execute("SELECT * FROM pictures WHERE name = ?", (name,)).fetchone()
        return self._entry(found)

    def _enter_strangers(self) -> int:
        """Enter files that the catalogue does not know, forget those that are gone, sweep half-written ones."""
        known = {row["name"] for row in self._db.execute("SELECT name FROM pictures")}
        there: set[str] = set()
        for path in self.folder.rglob("*"):
            if path.name.startswith(".") and path.suffix == ".part":
                path.unlink(missing_ok=True)
            elif path.suffix.lower() in FORMATS and path.is_file() and not path.is_symlink():
                name = path.relative_to(self.folder).as_posix()
                if not name.startswith(".") or name.startswith(
                    f"{TRASH}/"
                ):  # other hidden folders are not pictures made
                    there.add(name)
        fresh = 0
        for name in sorted(there - known):
            fresh += self._enter_stranger(name)
        with self._writing() as db:
            db.executemany("DELETE FROM pictures WHERE name = ?", [(name,) for name in known - there])
        return fresh

    def _enter_stranger(self, name: str) -> bool:
        path = self.folder / name
        try:
            with PIL.Image.open(path) as image:
                size, infotext = image.size, extract(image) or ""
        except (OSError, SyntaxError, ValueError):
            return False  # not ours to judge: it stays on disk, the gallery leaves it out
        self._enter(path, size, infotext, None, {})
        if TRASH in Path(name).parts:
            with self._writing() as db:
                db.execute("UPDATE pictures SET trashed = 1 WHERE name = ?", (name,))
        return True

    def get(self, picture: int) -> Entry:
        """One picture; KeyError with a sentence."""
        row = self._db.execute("SELECT * FROM pictures WHERE id = ?", (picture,)).fetchone()
        if row is None:
            raise KeyError(f"there is no picture {picture} in the gallery")
        return self._entry(row)

    def find(
        self, text: str = "", favourites: bool = False, trashed: bool = False, limit: int = 60, offset: int = 0
    ) -> list[Entry]:
        """Newest first; every word of `text` must stand in the prompt or the settings."""
        clauses: list[str] = ["trashed = ?"]
        values: list[Any] = [int(trashed)]
        if favourites:
            clauses.append("favourite = 1")
        for word in text.split():
            clauses.append("infotext LIKE ? ESCAPE '\\'")
            values.append("%" + word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%")
        query = f"SELECT * FROM pictures WHERE {' AND '.join(clauses)} ORDER BY created DESC, id DESC LIMIT ? OFFSET ?"
        return [self._entry(row) for row in self._db.execute(query, (*values, limit, offset))]

    def favour(self, picture: int, favourite: bool = True) -> Entry:
        """Mark a picture, or take the mark away."""
        self.get(picture)
        with self._writing() as db:
            db.execute("UPDATE pictures SET favourite = ? WHERE id = ?", (int(favourite), picture))
        return self.get(picture)

    def trash(self, picture: int) -> Entry:
        """Move a picture to the trash folder."""
        return self._move(self.get(picture), f"{TRASH}/{self.get(picture).name}", True)

    def restore(self, picture: int) -> Entry:
        """Bring a picture back from the trash."""
        entry = self.get(picture)
        return self._move(entry, entry.name.removeprefix(f"{TRASH}/"), False)

    def _move(self, entry: Entry, name: str, trashed: bool) -> Entry:
        if entry.trashed == trashed:
            return entry
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(entry.path, target)
        with self._writing() as db:
            db.execute("UPDATE pictures SET name = ?, trashed = ? WHERE id = ?", (name, int(trashed), entry.id))
        return self.get(entry.id)

    def empty_trash(self) -> int:
        """Delete what is in the trash for good; gives how many."""
        entries = self.find(trashed=True, limit=1_000_000)
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        with self._writing() as db:
            db.execute("DELETE FROM pictures WHERE trashed = 1")
        return len(entries)

    def _entry(self, row: sqlite3.Row) -> Entry:
        values = {key: row[key] for key in row.keys()}  # noqa: SIM118 (a Row iterates over values)
        values |= {"favourite": bool(row["favourite"]), "trashed": bool(row["trashed"])}
        return Entry(**values | {"path": self.folder / row["name"], "extra": json.loads(row["extra"])})

    # --- jobs ---

    def record(self, job: Any) -> None:
        """Enter a job's state (an `app.jobs.Job`); call it when it is submitted and when it has ended."""
        row = (
            job.id,
            job.kind,
            job.status.value,
            job.error,
            json.dumps(dict(job.params), default=str),
            job.created,
            job.ended,
        )
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def history(self, limit: int = 100) -> list[PastJob]:
        """Jobs of this and earlier runs, newest first."""
        rows = self._db.execute("SELECT * FROM jobs ORDER BY created DESC LIMIT ?", (limit,))
        return [PastJob(**{**dict(row), "params": json.loads(row["params"])}) for row in rows]


def _free_name(folder: Path, seed: int, kind: str) -> Path:
    """The next number of the day and the seed, as the WebUI names its files."""
    numbers = [int(p.name[:5]) for p in folder.iterdir() if p.name[:5].isdigit()]
    number = max(numbers, default=0) + 1
    while True:
        path = folder / f"{number:05}-{seed}{kind}"
        if not any(folder.glob(f"{number:05}-*")):
            return path
        number += 1
