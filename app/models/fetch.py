"""One file from the network to the disk, so that what ends up under its name is what was promised.

It is written as `x.part` and renamed when status, kind of content, first bytes, header, size and hash were right. A cut
connection or a cancelled job leaves the part, and the next try goes on where it stopped if the server still has the
same file. Cancel by closing the generator.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from app.models.access import Access, ConnectionFailed
from app.models.check import WEIGHTS, check_head, check_whole, git_hash, hashed, kind_of
from app.models.sidecars import clipped
from app.models.wire import Refused, error_text, opened, read_some
from ppdiffusers.pipelines.event import Note, Progress
from ppdiffusers.weights.write import write_text

Event = Note | Progress
TRIES = 5  # without a byte of progress
LONGEST_WAIT = 120.0  # seconds that we wait because a server asks for it
LARGEST = 500 * 2**30  # bytes; nothing that we can use is larger
SPARE = 64 * 2**20  # bytes that stay free on the disk
STALE = 7 * 24 * 3600.0  # seconds after which a part is given up
EVERY = 0.25  # seconds between two news
HEAD = 32  # bytes that tell a kind of file
_busy: set[Path] = set()


@dataclass(frozen=True)
class Wanted:
    """A file to get: from where, to where, and what is known about it beforehand (0 and "" for nothing)."""

    url: str
    target: Path
    size: int = 0
    sha256: str = ""
    git: str = ""  # git's hash, which a hub gives for small files

    @property
    def kind(self) -> str:
        return kind_of(self.target.name)

    @property
    def key(self) -> str:
        """Which file this is, over restarts: the link without the token that may stand in it."""
        return hashlib.sha256(without_token(self.url).encode()).hexdigest()[:16]


class _Changed(Exception):
    """What lies in the part is no beginning of what the server has now."""


@dataclass
class _Part:
    """The unfinished file and what is known about its origin."""

    wanted: Wanted
    path: Path = field(init=False)
    notes: Path = field(init=False)

    def __post_init__(self) -> None:
        self.path = self.wanted.target.with_name(self.wanted.target.name + ".part")
        self.notes = self.wanted.target.with_name(self.wanted.target.name + ".part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def origin(self) -> dict[str, Any]:
        """Validator and the rest as noted when the part was begun, {} when it belongs to another file."""
        with suppress(OSError, ValueError):
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
            if isinstance(notes, dict) and notes.get("key") == self.wanted.key:
                return notes
        return {}

    def note(self, validator: str) -> None:
        write_text(self.notes, json.dumps({"key": self.wanted.key, "validator": validator, "time": time.time()}))

    def empty(self) -> None:
        """Begin anew in the same file, which is locked."""
        os.truncate(self.path, 0)
        self.notes.unlink(missing_ok=True)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes the same part meanwhile, in this process or another."""
        if self.path in _busy:
            raise ValueError(f"{self.wanted.target.name} is being downloaded already")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _busy.add(self.path)
        try:
            with self.path.open("ab") as file:
                _lock(file, self.wanted.target.name)
                try:
                    yield
                finally:
                    if not self.size:
                        self.drop()
        finally:
            _busy.discard(self.path)


def _lock(file: BinaryIO, name: str) -> None:
    try:
        import fcntl
    except ImportError:  # Windows does not let two programs rename an open file anyway
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{name} is being downloaded by another MixStudio already") from None
    except OSError:  # a file system without locks
        return


def without_token(link: str) -> str:
    """The link without a `token=` that somebody put into it."""
    try:
        url = httpx.URL(link)
        return str(url.copy_remove_param("token") if "token" in url.params else url)
    except (httpx.InvalidURL, TypeError):
        return link


def fetch(wanted: Wanted, access: Access) -> Generator[Event, None, Path]:
    """Download a file, telling progress in bytes; its path. A sound file of the right hash that is there already stays.

    Raises ValueError with a sentence. Whatever went wrong, nothing wrong has the file's name afterwards.
    """
    if wanted.target.exists():
        yield from _already(wanted)
        return wanted.target
    part = _Part(wanted)
    with part.held():
        yield from _insist(wanted, access, part)
        yield from _check(wanted, part)
    os.replace(part.path, wanted.target)  # after the lock is gone: some systems do not rename open files
    part.notes.unlink(missing_ok=True)
    return wanted.target


def _already(wanted: Wanted) -> Generator[Event, None, None]:
    if not wanted.sha256 and not wanted.git:
        raise ValueError(f"{wanted.target.name} is there already; remove it, or give the new one another name")
    if not (yield from _is_right(wanted, wanted.target)):
        raise ValueError(f"{wanted.target.name} is there already, with other content; remove it or choose another name")


def _insist(wanted: Wanted, access: Access, part: _Part) -> Generator[Event, None, None]:
    """Try until the part is complete; a broken connection is tried again, more patiently each time nothing came."""
    left = TRIES
    while True:
        before = part.size
        try:
            return (yield from _attempt(wanted, access, part))
        except _Changed as why:
            part.empty()
            yield Note(f"{wanted.target.name}: {why}; it begins anew", warning=True)
            left -= 1
            wait, sentence = 0.0, str(why)
        except ConnectionFailed as why:
            left = TRIES - 1 if part.size > before else left - 1
            wait, sentence = float(2 ** (TRIES - 1 - left)), str(why)
        except Refused as why:
            if why.retry_after is None or why.retry_after > LONGEST_WAIT or left <= 1:
                raise
            left, wait, sentence = left - 1, why.retry_after, str(why)
        if left <= 0:
            kept = f"; {_mb(part.size)} MB are kept, and it goes on from there next time" if part.size else ""
            raise ValueError(f"{wanted.target.name}: {sentence}{kept}")
        if wait:
            yield Note(f"{sentence}; trying again in {wait:.0f} s", warning=True)
            yield from _pause(wait, part.size, wanted)


def _pause(seconds: float, done: int, wanted: Wanted) -> Generator[Event, None, None]:
    """Wait, but let a cancel in."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(0.25, left))
        yield Progress(done, max(wanted.size, done, 1), f"{wanted.target.name}: waiting")


def _attempt(wanted: Wanted, access: Access, part: _Part) -> Generator[Event, None, None]:
    """One connection: from where the part ends to the end of the file."""
    origin = part.origin()
    validator = str(origin.get("validator", ""))
    have = part.size if origin and (validator or wanted.sha256) else 0
    if have and have == wanted.size:
        return
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    with opened(access, without_token(wanted.url), headers) as response:
        start, total = _place(response, have, validator)
        if start is None:
            return
        _check_answer(wanted, response, total)
        check_room(wanted.target.parent, wanted.target.name, total - start)
        part.note(_validator(response))
        with part.path.open("r+b") as file:
            file.truncate(start)
            file.seek(start)
            yield from _receive(wanted, response, file, start, total)


def _place(response: httpx.Response, have: int, validator: str) -> tuple[int | None, int]:
    """(where the answer begins, size of the whole file or 0); (None, size) when the part was complete already."""
    span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("content-range", "").strip())
    total = int(span[2]) if span and span[2].isdigit() else 0
    if response.status_code == 416:
        if have and have == total:
            return None, total
        raise _Changed("the file on the server is shorter than what was there")
    if response.status_code == 206 and have:
        if not span or span[1] is None or int(span[1]) != have:
            raise _Changed("the server sends another piece than it was asked for")
        if validator and (now := _validator(response)) and now != validator:
            raise _Changed("the file on the server has changed")
        return have, total
    if response.status_code != 200:
        raise Refused(f"the server answered with status {response.status_code}", response.status_code)
    length = response.headers.get("content-length", "")
    return 0, int(length) if length.isdigit() else 0


def _validator(response: httpx.Response) -> str:
    """What tells one version of the file from the next, in a form that If-Range takes; "" for none."""
    etag = response.headers.get("etag", "")
    return etag if etag.startswith('"') else "" if etag else response.headers.get("last-modified", "")


def _check_answer(wanted: Wanted, response: httpx.Response, total: int) -> None:
    """Refuse pages and messages in place of the file, and a file of another size than promised."""
    content = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    page, message = content in ("text/html", "application/xhtml+xml"), content.endswith("json")
    if (page and wanted.kind != "text") or (message and wanted.kind in (*WEIGHTS, "")):
        raise Refused(f"{_server(response)} sent {_what(response, page)} instead of {wanted.target.name}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Refused(f"{_server(response)} sends the file compressed, which it was asked not to")
    if wanted.size and total and total != wanted.size:
        raise Refused(f"{wanted.target.name} should have {wanted.size:,} bytes, the server offers {total:,}")
    if total > LARGEST:
        raise Refused(f"{wanted.target.name} would have {total:,} bytes, at most {LARGEST:,} are accepted")


def _server(response: httpx.Response) -> str:
    return response.request.headers.get("host", "the server")


def _what(response: httpx.Response, page: bool) -> str:
    try:
        body = read_some(response, 262_144)
    except (ValueError, httpx.HTTPError):
        body = b""
    if page:
        title = re.search(rb"(?is)<title[^>]*>(.*?)</title", body)
        named = clipped(title[1].decode("utf-8", "replace"), 80) if title else ""
        return "a web page" + (f' ("{named}")' if named else "") + ", perhaps for want of a login,"
    with suppress(ValueError, RecursionError):
        if said := error_text(json.loads(body)):
            return f'a message ("{said}")'
    return "a JSON text"


def check_room(folder: Path, name: str, needed: int) -> None:
    """ValueError when the disk under a folder has no room for so many bytes more."""
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    if needed + SPARE > free:
        raise ValueError(
            f"{name} needs {_mb(needed)} MB more, {_mb(max(0, free - SPARE))} MB are free in {there}; "
            "make room and try again"
        )


def _receive(
    wanted: Wanted, response: httpx.Response, file: BinaryIO, start: int, total: int
) -> Generator[Event, None, None]:
    """Write what comes; the first bytes are looked at before anything else is believed."""
    done, head, checked = start, b"", start > 0
    began = said = time.monotonic()
    most = total or wanted.size or LARGEST
    for chunk in response.iter_raw():
        done += len(chunk)
        if done > most:
            raise Refused(f"{_server(response)} sends more than the {most:,} bytes of {wanted.target.name}")
        if not checked:
            head += chunk[:HEAD]
            checked = _head_is_right(wanted, file, head, total)
        _write(file, chunk, wanted)
        if (now := time.monotonic()) - said >= EVERY:
            said = now
            yield Progress(
                done, total or max(wanted.size, done), progress_words(wanted, done, total, start, now - began)
            )
    if not checked:
        _head_is_right(wanted, file, head.ljust(HEAD, b"\0"), total)
    if total and done < total:
        raise ConnectionFailed(f"the connection ended {_mb(total - done)} MB too early")
    file.flush()
    os.fsync(file.fileno())
    yield Progress(done, total or done, progress_words(wanted, done, total, start, time.monotonic() - began))


def _head_is_right(wanted: Wanted, file: BinaryIO, head: bytes, total: int) -> bool:
    """Whether the first bytes were enough to tell; a wrong beginning raises and leaves nothing behind."""
    if len(head) < HEAD:
        return False
    try:
        check_head(wanted.kind, wanted.target.name, head, total)
    except ValueError:
        file.truncate(0)
        raise
    return True


def _write(file: BinaryIO, chunk: bytes, wanted: Wanted) -> None:
    try:
        file.write(chunk)
    except OSError as why:
        if why.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ValueError(
                f"the disk is full; make room, then {wanted.target.name} goes on where it stopped"
            ) from None
        raise


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}" if size < 1e7 else f"{size / 1e6:,.0f}"


def progress_words(wanted: Wanted, done: int, total: int, start: int, seconds: float) -> str:
    """For people: "x.safetensors: 12 of 144 MB, 3.1 MB/s"."""
    of = f" of {_mb(total)}" if total else ""
    speed = f", {(done - start) / 1e6 / seconds:.1f} MB/s" if seconds > 0.5 else ""
    return f"{wanted.target.name}: {_mb(done)}{of} MB{speed}"


def _check(wanted: Wanted, part: _Part) -> Generator[Event, None, None]:
    """Check the whole; what is wrong is thrown away, for it would be wrong next time too."""
    try:
        if not (yield from _is_right(wanted, part.path)):
            raise ValueError(
                f"{wanted.target.name} does not have the hash or size that was promised: it was damaged on the way or "
                "exchanged; nothing was kept"
            )
        check_whole(wanted.kind, part.path)
    except ValueError as why:
        part.drop()
        raise ValueError(str(why).replace(part.path.name, wanted.target.name)) from None


def _is_right(wanted: Wanted, path: Path) -> Generator[Event, None, bool]:
    if wanted.size and path.stat().st_size != wanted.size:
        return False
    if wanted.sha256:
        note = f"{wanted.target.name}: checking its hash"
        return (yield from hashed(path, hashlib.sha256(), note)) == wanted.sha256.lower()
    return not wanted.git or git_hash(path) == wanted.git


def sweep(folder: Path, older: float = STALE) -> list[str]:
    """Delete parts that nobody has gone on with for a week; their names."""
    gone: list[str] = []
    for path in folder.rglob("*.part") if folder.is_dir() else ():
        with suppress(OSError):
            if path.is_file() and time.time() - path.stat().st_mtime > older and path not in _busy:
                path.unlink()
                path.with_name(path.name + ".json").unlink(missing_ok=True)
                gone.append(path.name)
    return gone
