"""Hugging Face's hub: from `owner/name[@revision][/path]` or a page's address to exactly the files that are needed.

A repository often holds the same weights five times (safetensors, pickles, half precision, ONNX, Flax). The listing is
taken at one commit, so that all files fit together, and each has a hash there: sha256 for large ones, git's for small.
Interface: https://huggingface.co/docs/hub/api.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import httpx

from app.models.access import Access
from app.models.wire import Refused, get_json

MOST_FILES = 20_000
LARGEST_CONFIG = 5_000_000
NAME = r"[A-Za-z0-9][\w.-]{0,95}"
REPO = re.compile(rf"(?P<repo>{NAME}/{NAME})(?:@(?P<revision>refs/pr/\d+|[\w.-]+))?(?:/(?P<path>[^@]+))?")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "pytorch_lora_weights")
# Diffusers components that pictures need; the safety checker, Flax, ONNX and OpenVINO twins are left where they are.
COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
SMALL = (".json", ".txt", ".model", ".jinja", ".vocab", ".merges")
# Quantisations in the order in which we like them, for repositories with a file each.
QUANTS = ("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q6_K", "Q8_0", "BF16", "F16", "F32")


@dataclass(frozen=True)
class Source:
    """A place on the hub; `path` is a folder or file within, "" for all of it."""

    repo: str
    revision: str = "main"
    path: str = ""

    @property
    def name(self) -> str:
        """What the model is called here: the repository's name, and the folder's where one was named."""
        last = PurePosixPath(self.path).stem if self.path.endswith(FILES) else PurePosixPath(self.path).name
        return self.repo.split("/")[1] + (f"-{last}" if last else "")


FILES = (".safetensors", ".gguf", ".ckpt", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Entry:
    """A file in a repository: its path, size in bytes, and sha256 (large files) or git's hash (small ones)."""

    path: str
    size: int
    sha256: str = ""
    git: str = ""

    @property
    def folder(self) -> str:
        return str(PurePosixPath(self.path).parent).removeprefix(".")

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Selection:
    """What to download: files relative to `top`, at one commit. A single file (`alone`) or a folder."""

    source: Source
    commit: str
    files: tuple[Entry, ...]
    top: str = ""
    alone: bool = False

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files)

    def relative(self, entry: Entry) -> str:
        """Where a file lies in our folder."""
        return entry.path.removeprefix(f"{self.top}/" if self.top else "")


def parse(text: str, hub: str = "https://huggingface.co") -> Source | None:
    """`owner/name`, `owner/name@revision/path`, `hf:...`, or a page's or file's address; None for anything else."""
    text = text.strip()
    if text.startswith(("http://", "https://")):
        return _parse_url(text, hub)
    found = REPO.fullmatch(text.removeprefix("hf:").rstrip("/"))
    if not found or ".." in text:
        return None
    revision, path = found["revision"] or "main", found["path"] or ""
    return Source(found["repo"], revision, safe_path(path) if path else "")


def _parse_url(text: str, hub: str) -> Source | None:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return None
    if url.host not in (httpx.URL(hub).host, "huggingface.co", "www.huggingface.co", "hf.co"):
        return None
    found = re.fullmatch(rf"/({NAME}/{NAME})(?:/(?:tree|blob|resolve|raw)/(refs/pr/\d+|[^/]+)(?:/(.+))?)?/?", url.path)
    if not found:
        raise ValueError(
            f"{url.host}{url.path} is no model's page; take the address of a model, its folder or its file"
        )
    return Source(found[1], found[2] or "main", safe_path(found[3].rstrip("/")) if found[3] else "")


def safe_path(path: str) -> str:
    """A path within a repository as it is, or ValueError when it could lead out of the folder that it is put into."""
    parts = path.split("/")
    bad = any(p in ("", ".", "..") or p.endswith((" ", ".")) for p in parts)
    if bad or re.search(r'[\\:<>"|?*\x00-\x1f\x7f]', path) or len(path) > 400:
        raise ValueError(f"the repository has a file with the path {path[:80]!r}, which is not safe to write")
    return path


def list_files(access: Access, source: Source) -> tuple[str, list[Entry]]:
    """(commit, all files below the source's path). Refused with a sentence, for gated and private ones too."""
    about = _ask(access, source, f"/api/models/{source.repo}/revision/{quote(source.revision, safe='')}")[0]
    commit = about.get("sha") if isinstance(about, dict) else None
    if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40,64}", commit):
        raise Refused(f"the hub tells no commit for {source.repo}; is the service disturbed?")
    inner = f"/{quote(source.path)}" if source.path and not source.path.endswith(FILES) else ""
    link: str | None = f"/api/models/{source.repo}/tree/{commit}{inner}?recursive=true"
    found: list[Entry] = []
    while link:
        rows, headers = _ask(access, source, link)
        found += [_entry(row) for row in rows if isinstance(row, dict) and row.get("type") == "file"]
        if len(found) > MOST_FILES:
            raise ValueError(f"{source.repo} has more than {MOST_FILES:,} files; name a folder in it")
        link = _next_page(access, headers)
    if source.path.endswith(FILES):
        found = [entry for entry in found if entry.path == source.path]
    return commit, found


def _ask(access: Access, source: Source, path: str) -> tuple[Any, Mapping[str, str]]:
    """One question to the hub; its refusals name the repository."""
    try:
        return get_json(access, f"{access.hub}{path}")
    except Refused as why:
        page = f"{access.hub}/{source.repo}"
        if why.status == 401:
            told = f"there is no public model {source.repo}, or it is private or gated ({page}). {why}"
        elif why.status == 403:
            told = f"{source.repo} is gated: log in at {page}, accept its terms, then try again with your token. {why}"
        elif why.status == 404:
            where = f" at revision {source.revision!r}" if source.revision != "main" else ""
            told = f"{source.repo} has no {source.path or 'files'}{where}, or does not exist; look at {page}"
        else:
            raise
        raise Refused(told, why.status) from None


def _next_page(access: Access, headers: Mapping[str, str]) -> str | None:
    found = re.search(r'<([^>]+)>\s*;\s*rel="next"', headers.get("link", ""))
    if not found:
        return None
    url = httpx.URL(access.hub).join(found[1])
    if access.service(url) != "huggingface":
        raise Refused("the hub continues its list on another host; is it a mirror that does not rewrite links?")
    return url.raw_path.decode("ascii")


def _entry(row: Mapping[str, Any]) -> Entry:
    lfs = row.get("lfs")
    size, oid = row.get("size"), row.get("oid")
    path = safe_path(str(row.get("path", "")))
    sha256 = str(lfs.get("oid", "")).removeprefix("sha256:") if isinstance(lfs, dict) else ""
    known = re.fullmatch("[0-9a-f]{64}", sha256)
    return Entry(
        path,
        size if isinstance(size, int) and size >= 0 else 0,
        sha256 if known else "",
        oid if not known and isinstance(oid, str) and re.fullmatch("[0-9a-f]{40}", oid) else "",
    )


def link(access: Access, selection: Selection, entry: Entry) -> str:
    """Where to download a file, at the selection's commit."""
    return f"{access.hub}/{selection.source.repo}/resolve/{selection.commit}/{quote(entry.path)}"


# --- choosing ---


def choose(
    source: Source, commit: str, files: Sequence[Entry], precision: str = "fp16", pickles: bool = False
) -> Selection:
    """The files that are needed of a repository: a pipeline's, a network's, a language model's, or the only weights.

    Half precision is taken where a repository has it, unless `precision` is "full". ValueError says what there is.
    """
    top = source.path if not source.path.endswith(FILES) else ""
    inner = {e.path.removeprefix(f"{top}/" if top else ""): e for e in files}
    if source.path.endswith(FILES):
        if not files:
            raise ValueError(f"{source.repo} has no file {source.path}")
        return Selection(source, commit, tuple(files), files[0].folder, alone=True)
    if "model_index.json" in inner:
        return Selection(source, commit, tuple(_pipeline(source, inner, precision, pickles)), top)
    weights = _weights(source, [e for p, e in inner.items() if "/" not in p], precision, pickles)
    small = [e for p, e in inner.items() if "/" not in p and p.endswith(SMALL) and not _is_index(p)]
    if "config.json" in inner and weights:
        small = [e for e in small if e.size <= LARGEST_CONFIG * 10]
        return Selection(source, commit, (*small, *weights), top)
    return _one_file(source, commit, inner, pickles)


def _pipeline(source: Source, inner: Mapping[str, Entry], precision: str, pickles: bool) -> list[Entry]:
    chosen = [inner["model_index.json"]]
    for part in COMPONENTS:
        mine = [e for p, e in inner.items() if p.startswith(f"{part}/") and p.count("/") == 1]
        chosen += [e for e in mine if e.name.endswith(SMALL) and not _is_index(e.name)]
        chosen += _weights(source, mine, precision, pickles)
    if not any(e.path.endswith(FILES) for e in chosen):
        raise ValueError(f"{source.repo} has a model_index.json but no weights beside it that MixStudio reads")
    return chosen


def _is_index(name: str) -> bool:
    return ".index." in name and name.endswith(".json")


def _weights(source: Source, files: Sequence[Entry], precision: str, pickles: bool) -> list[Entry]:
    """The weights of one folder in one format and precision, with the index of their shards; [] when it has none."""
    for ending in (".safetensors", ".bin"):
        sets = _sets(files, ending)
        if not sets:
            continue
        if ending == ".bin" and not pickles:
            raise ValueError(
                f"{source.repo} has only pickles, which could run programs; allow them (--allow-pickle) and they are "
                "read by a closed list of names"
            )
        order = ("", "fp32", "fp16", "bf16") if precision == "full" else ("fp16", "", "bf16", "fp32")
        variant = next((v for v in order if v in sets), min(sets))
        return sets[variant]
    return []


def _sets(files: Sequence[Entry], ending: str) -> dict[str, list[Entry]]:
    """Variant ("" for the plain one) -> its weights: one file, or shards with their index."""
    stems = "|".join(STEMS)
    shape = re.compile(
        rf"(?P<stem>{stems})(?:\.(?P<a>fp16|bf16|fp32|non_ema))?(?P<shard>-\d+-of-\d+)?(?:\.(?P<b>fp16|bf16|fp32|non_ema))?"
        rf"{re.escape(ending)}(?P<index>\.index(?:\.(?P<c>fp16|bf16|fp32|non_ema))?\.json)?"
    )
    sets: dict[tuple[str, str], list[Entry]] = {}
    for entry in files:
        if found := shape.fullmatch(entry.name):
            variant = found["a"] or found["b"] or found["c"] or ""
            sets.setdefault((variant, found["stem"]), []).append(entry)
    best: dict[str, list[Entry]] = {}
    for (variant, _), group in sorted(sets.items(), key=lambda item: STEMS.index(item[0][1])):
        if not all(_is_index(e.name) for e in group):
            best.setdefault(variant, _complete(group))
    return best


def _complete(group: list[Entry]) -> list[Entry]:
    """Shards with their index, or the single file: some repositories have both, then the single one."""
    single = [e for e in group if "-of-" not in e.name and not _is_index(e.name)]
    return single or group


def _one_file(source: Source, commit: str, inner: Mapping[str, Entry], pickles: bool) -> Selection:
    """A repository that only holds files: the one that is meant, if that can be told."""
    endings = (".gguf", ".safetensors", *((".ckpt", ".pt", ".bin", ".pth") if pickles else ()))
    for ending in endings:
        found = [e for p, e in inner.items() if p.endswith(ending) and "-of-" not in p]
        chosen = _by_quant(found) if ending == ".gguf" else found[0] if len(found) == 1 else None
        if chosen:
            return Selection(source, commit, (chosen,), chosen.folder, alone=True)
        if found:
            raise ValueError(f"{source.repo} has {len(found)} models; say which: {_ways(source, found)}")
    there = _ways(source, [e for p, e in inner.items() if p.endswith(FILES)])
    raise ValueError(f"{source.repo} has no model that MixStudio reads" + (f"; it has {there}" if there else ""))


def _ways(source: Source, files: Iterable[Entry]) -> str:
    rows = [f"{source.repo}/{e.path}" for e in files]
    return ", ".join(rows[:8]) + (", ..." if len(rows) > 8 else "")


def _by_quant(files: Sequence[Entry]) -> Entry | None:
    """The GGUF file of the best liked quantisation; picture parts (mmproj) do not count."""
    found = [e for e in files if "mmproj" not in e.name.lower()]
    if len(found) == 1:
        return found[0]
    for quant in QUANTS:
        fits = [e for e in found if re.search(rf"(?<![A-Z0-9]){quant}(?![A-Z0-9_])", e.name.upper())]
        if len(fits) == 1:
            return fits[0]
    return None
