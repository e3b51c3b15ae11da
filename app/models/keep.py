"""Looking after models that are there: are they still what they were, and what does Civitai know about them."""

import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from app.catalog import Model
from app.models import civitai, smollm2
from app.models.access import Access
from app.models.add import ORIGIN
from app.models.check import WEIGHTS, check_whole, identify, kind_of, not_finite, sha256_of
from app.models.fetch import Event
from app.models.sidecars import beside, from_civitai, read_raw
from app.models.wire import Refused
from ppdiffusers.pipelines.event import Note, Progress
from ppdiffusers.weights.file import read_json
from ppdiffusers.weights.write import write_text

PAUSE = 1.0  # seconds between two questions to Civitai
MOST_BAD = 5  # tensors named in a report


@dataclass(frozen=True)
class Report:
    """What looking at a model found: sentences about what is wrong (none: it is sound), and what was compared."""

    name: str
    kind: str
    path: Path
    problems: tuple[str, ...]
    checked: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not self.problems


def verify(model: Model, nan: bool = False, hashes: bool = True) -> Generator[Event, None, Report]:
    """Header, then every hash that is known of it, then, if asked, that no number is NaN or infinite."""
    problems, checked = [], ["header"]
    try:
        identify(model.path)
        for file in _weights(model.path):
            check_whole(kind_of(file.name), file)
    except (ValueError, OSError) as why:
        return Report(model.name, model.kind, model.path, (str(why),), ("header",))
    known = known_hashes(model.path) if hashes else {}
    for file, wanted in known.items():
        if not file.is_file():
            problems.append(f"{file.name} is missing")
        elif (yield from sha256_of(file)) not in wanted:
            problems.append(f"{file.name} has another content than when it was published (its sha256 differs)")
    checked += ["sha256"] if known else []
    if nan:
        problems += yield from _numbers(model.path)
        checked.append("numbers")
    return Report(model.name, model.kind, model.path, tuple(problems), tuple(checked))


def _weights(path: Path) -> list[Path]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in files if file.is_file() and kind_of(file.name) in WEIGHTS]


def known_hashes(path: Path) -> dict[Path, frozenset[str]]:
    """The sha256 that a model's files may have: the hub's for folders, those of its version's files at Civitai."""
    if path.is_dir():
        if not (path / ORIGIN).is_file():
            return {}
        files = read_json(path / ORIGIN).get("files")
        rows = files.items() if isinstance(files, dict) else ()
        known = {name: told.get("sha256") for name, told in rows if isinstance(told, dict)}
        return {path / name: frozenset({sha}) for name, sha in known.items() if sha and ".." not in Path(name).parts}
    if path.name == smollm2.GGUF:
        return {path: frozenset({smollm2.GGUF_SHA256})}
    version = read_raw(path)
    files = civitai.read_version(version).files if version.get("id") else ()
    hashes = frozenset(file.sha256 for file in files if file.sha256)
    return {path: hashes} if hashes else {}


def _numbers(path: Path) -> Generator[Event, None, list[str]]:
    problems: list[str] = []
    for file in _weights(path):
        if kind_of(file.name) == "gguf":
            continue
        bad = yield from not_finite(file)
        if bad:
            more = f" and {len(bad) - MOST_BAD} more" if len(bad) > MOST_BAD else ""
            problems.append(f"{file.name} has NaN or infinite numbers in {', '.join(bad[:MOST_BAD])}{more}")
    return problems


def identify_all(
    models: Iterable[Model], access: Access, again: bool = False
) -> Generator[Event, None, list[tuple[Model, str]]]:
    """Ask Civitai by hash what each file is and write its sidecars; (model, title or "") of those asked about.

    Files with a `x.civitai.info` are left alone, also an empty one, which marks a file that Civitai does not know.
    """
    waiting = [m for m in models if m.path.is_file() and not m.embedded and m.kind != "llm"]
    waiting = [m for m in waiting if again or not beside(m.path, ".civitai.info").exists()]
    found: list[tuple[Model, str]] = []
    for i, model in enumerate(waiting):
        yield Progress(i, len(waiting), f"asking Civitai about {model.name}")
        digest = yield from sha256_of(model.path)
        title = yield from _identify(model, digest, access)
        found.append((model, title))
        yield Note(f"{model.name}: {title or 'Civitai does not know it'}")
        if i + 1 < len(waiting):
            time.sleep(PAUSE)
    yield Progress(len(waiting), max(len(waiting), 1), "done")
    return found


def _identify(model: Model, digest: str, access: Access) -> Generator[Event, None, str]:
    try:
        version = civitai.find(access, civitai.Ref(hash=digest.upper()))
    except Refused as why:
        if why.status != 404:
            raise
        write_text(beside(model.path, ".civitai.info"), "{}\n")
        return ""
    picture = civitai.preview(access, version)
    try:
        from_civitai(model.path, version.raw, picture)
    except ValueError as why:
        yield Note(f"{model.name}: {why}", warning=True)
        from_civitai(model.path, version.raw)
    return version.title
