"""Civitai: from any kind of link, AIR name or hash to the right file, and what is known about it.

The interface is described at https://developer.civitai.com. Its JSON has null where texts are promised, lists several
files a version, and gives sizes in KB; here it becomes a `Version` with plain values.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from app.models.access import CIVITAI, Access
from app.models.places import safe_name
from app.models.sidecars import LARGEST_PICTURE, clipped
from app.models.wire import Refused, get_bytes, get_json

# Civitai's types -> the catalogue's kinds. Others are nothing that MixStudio can use.
KINDS: Mapping[str, str] = {
    "checkpoint": "checkpoint",
    **dict.fromkeys(("lora", "locon", "dora"), "lora"),
    "textualinversion": "embedding",
    "vae": "vae",
    "controlnet": "controlnet",
    "upscaler": "upscaler",
    "llm": "llm",
}
USABLE_FILES = ("Model", "Pruned Model", "VAE", "Negative")
FORMATS = {"SafeTensor": ".safetensors", "GGUF": ".gguf", "PickleTensor": ".ckpt"}
HASH_LENGTHS = {64: "SHA256 or BLAKE3", 12: "AutoV3", 10: "AutoV2", 8: "AutoV1 or CRC32"}
SITES = ("civitai.com", "www.civitai.com", "civitai.green", "civitai.red")


@dataclass(frozen=True)
class Ref:
    """What somebody pointed at: a model, a version of it, or a hash; `wants` are a download link's choices of file."""

    model: int = 0
    version: int = 0
    hash: str = ""
    wants: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class File:
    """One file of a version. `size` in bytes is about right, `sha256` "" where Civitai has none."""

    id: int
    name: str
    url: str
    format: str
    size: int
    sha256: str
    fp: str
    primary: bool
    pruned: bool
    type: str
    danger: str = ""


@dataclass(frozen=True)
class Version:
    """One version of a model with its files; `raw` is the JSON as it came, for `x.civitai.info`."""

    id: int
    model: int
    title: str
    type: str
    base: str
    files: tuple[File, ...]
    early_until: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> str:
        """The catalogue's kind; ValueError for what MixStudio has no use for."""
        if self.type.lower() not in KINDS:
            raise ValueError(f"{self.title} is of Civitai's type {self.type or 'unknown'}, which MixStudio cannot use")
        return KINDS[self.type.lower()]


def parse(text: str) -> Ref | None:
    """A Civitai page, version, download link, AIR name (`urn:air:sdxl:lora:civitai:1@2`) or hash; None for others."""
    text = text.strip()
    if re.fullmatch(r"[0-9A-Fa-f]+", text) and len(text) in HASH_LENGTHS:
        return Ref(hash=text.upper())
    if air := re.fullmatch(
        r"(?:urn:air:(?:[\w.-]+:){2})?civitai:(\d+)(?:@(\d+))?(?:[:.][\w.-]+)?", text, re.IGNORECASE
    ):
        return Ref(int(air[1]), int(air[2] or 0))
    if not re.match(r"(https?://)?(www\.)?civitai\.", text):
        return None
    try:
        url = httpx.URL(text if "://" in text else f"https://{text}")
    except httpx.InvalidURL:
        return None
    return _parse_url(url) if url.host in SITES else None


def _parse_url(url: httpx.URL) -> Ref:
    path = url.path.rstrip("/")
    params = {key.lower(): value for key, value in url.params.items()}
    version = params.get("modelversionid", "")
    if found := re.fullmatch(r"/api/download/models/(\d+)", path):
        wants = {key: value for key, value in params.items() if key in ("type", "format", "size", "fp", "fileid")}
        return Ref(version=int(found[1]), wants=wants)
    if found := re.fullmatch(r"(?:/api/v1)?/model-versions/(\d+)", path):
        return Ref(version=int(found[1]))
    if found := re.fullmatch(r"(?:/\w\w)?(?:/api/v1)?/models/(\d+)(?:/[^/]*)?", path):
        return Ref(int(found[1]), int(version) if version.isdigit() else 0)
    raise ValueError(
        f"{url.host}{path} is no model's page; take the address of a model, of its version, or of its download button"
    )


# --- reading ---


def find(access: Access, ref: Ref) -> Version:
    """Ask Civitai. Raises Refused with a sentence when it has no such model."""
    if ref.hash:
        return _by_hash(access, ref.hash)
    if ref.version:
        version, _ = get_json(access, f"{access.civitai}/api/v1/model-versions/{ref.version}")
        return read_version(version)
    model, _ = get_json(access, f"{access.civitai}/api/v1/models/{ref.model}")
    return _newest(model)


def _by_hash(access: Access, digest: str) -> Version:
    try:
        version, _ = get_json(access, f"{access.civitai}/api/v1/model-versions/by-hash/{digest}")
    except Refused as why:
        if why.status == 404:
            raise Refused(f"Civitai knows no file with the hash {digest}; edited files have other ones", 404) from None
        raise
    return read_version(version)


def _newest(model: object) -> Version:
    """The newest published version on a model's page."""
    rows = _rows(model, "modelVersions")
    mode = _text(model, "mode")
    if mode in ("Archived", "TakenDown"):
        raise Refused(
            f"{_text(model, 'name') or 'this model'} is {mode.lower()} at Civitai; it cannot be downloaded", 410
        )
    public = [r for r in rows if _text(r, "status") in ("", "Published") and _rows(r, "files")]
    if not public:
        raise Refused(f"{_text(model, 'name') or 'this model'} has no version with files at Civitai", 404)
    free = [r for r in public if not _early(r)]
    about = {key: model[key] for key in ("name", "type", "nsfw", "poi", "mode") if key in model}  # type: ignore[operator,index]
    return read_version({**(free or public)[0], "modelId": _whole(model, "id"), "model": about})


def read_version(raw: object) -> Version:
    """A version's JSON with plain values; Refused when it is none."""
    if not isinstance(raw, dict) or not _whole(raw, "id"):
        raise Refused("Civitai answered with something that is no model version; is the service disturbed?")
    model = raw.get("model")
    named, version = _text(model, "name") or f"model {_whole(raw, 'modelId')}", _text(raw, "name")
    return Version(
        id=_whole(raw, "id"),
        model=_whole(raw, "modelId"),
        title=f"{named} {version}".strip(),
        type=_text(model, "type"),
        base=_text(raw, "baseModel"),
        files=tuple(f for row in _rows(raw, "files") if (f := _file(row))),
        early_until=_early(raw),
        raw=raw,
    )


def _file(row: Mapping[str, Any]) -> File | None:
    metadata, hashes = row.get("metadata"), row.get("hashes")
    name, url, size = _text(row, "name"), _text(row, "downloadUrl"), row.get("sizeKB")
    if not name or not url:
        return None
    sha256 = _text(hashes, "SHA256").lower()
    scans = {key: _text(row, key) for key in ("pickleScanResult", "virusScanResult")}
    return File(
        id=_whole(row, "id"),
        name=safe_name(name),
        url=url,
        format=_text(metadata, "format") or _format_by_name(name),
        size=int(size * 1024) if isinstance(size, int | float) and 0 < size < 1e12 else 0,
        sha256=sha256 if re.fullmatch("[0-9a-f]{64}", sha256) else "",
        fp=_text(metadata, "fp").lower(),
        primary=row.get("primary") is True,
        pruned=_text(metadata, "size").lower() == "pruned",
        type=_text(row, "type") or "Model",
        danger=", ".join(key.removesuffix("ScanResult") for key, value in scans.items() if value == "Danger"),
    )


def _format_by_name(name: str) -> str:
    return next((f for f, ending in FORMATS.items() if name.lower().endswith(ending)), "Other")


def _early(row: Mapping[str, Any]) -> str:
    """Until when a version is in early access, "" when it is not."""
    if _text(row, "availability") != "EarlyAccess":
        return ""
    return _text(row, "earlyAccessEndsAt") or _text(row, "earlyAccessDeadline") or "a date that it does not tell"


def _text(values: object, key: str) -> str:
    value = values.get(key) if isinstance(values, dict) else None
    return clipped(value, 500) if isinstance(value, str) else ""


def _whole(values: object, key: str) -> int:
    value = values.get(key) if isinstance(values, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _rows(values: object, key: str) -> list[dict[str, Any]]:
    value = values.get(key) if isinstance(values, dict) else None
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


# --- choosing ---


def choose(version: Version, ref: Ref, precision: str = "fp16", pickles: bool = False) -> File:
    """The file to take: what the link asks for, else safetensors, of the wished precision, primary, pruned, small.

    Raises ValueError when there is none, only pickles that were not allowed, or when Civitai's scan found something.
    """
    if wanted := ref.wants.get("fileid"):
        found = [f for f in version.files if str(f.id) == wanted]
    else:
        found = [f for f in version.files if f.type in USABLE_FILES and _is_wanted(f, ref.wants)]
    if ref.hash and (exact := [f for f in found if f.sha256.upper().startswith(ref.hash)]):
        found = exact
    if not found:
        raise ValueError(f"{version.title} has no such file; it has {_names(version.files) or 'none'}")
    sound = [f for f in found if f.format in ("SafeTensor", "GGUF") or (pickles and f.format == "PickleTensor")]
    if not sound:
        only = all(f.format == "PickleTensor" for f in found)
        why = (
            "only pickles, which could run programs; allow it (--allow-pickle) and it is read by a closed list of names"
        )
        raise ValueError(f"{version.title} has {why if only else 'no file that MixStudio reads: ' + _names(found)}")
    best = max(sound, key=lambda f: (f.format != "PickleTensor", f.fp == precision, f.primary, f.pruned, -f.size))
    if best.danger:
        raise ValueError(f"Civitai's {best.danger} scan found a danger in {best.name}; it is not downloaded")
    return best


def _is_wanted(file: File, wants: Mapping[str, str]) -> bool:
    has = {"format": file.format, "fp": file.fp, "size": "pruned" if file.pruned else "full", "type": file.type}
    return all(has[key].lower() == value.lower() for key, value in wants.items() if key in has)


def _names(files: Sequence[File]) -> str:
    return ", ".join(f"{f.name} ({f.format})" for f in files[:6])


def file_link(access: Access, version: Version, file: File) -> str:
    """The link to download a file: Civitai's own, on the host that we were told to use."""
    url = httpx.URL(file.url)
    home = httpx.URL(access.civitai)
    if url.host in SITES:
        url = url.copy_with(scheme=home.scheme, host=home.host, port=home.port)
    return str(url)


def link_by_id(access: Access, version: Version, file: File) -> str:
    """The same file asked for by its number, for when Civitai's own link is dead."""
    return f"{access.civitai}/api/download/models/{version.id}?fileId={file.id}"


def preview(access: Access, version: Version) -> bytes | None:
    """A picture for the card: the tamest of the version's, as it comes; None when there is none or it fails."""
    found = [i for i in _rows(version.raw, "images") if _text(i, "type") in ("", "image") and _text(i, "url")]
    found = [i for i in found if not _text(i, "url").lower().endswith((".mp4", ".webm"))]
    for image in sorted(found, key=lambda i: _whole(i, "nsfwLevel") or 99)[:3]:
        with suppress(ValueError):
            return get_bytes(access, _text(image, "url"), LARGEST_PICTURE)
    return None


# --- searching ---


def search(access: Access, query: str, types: Sequence[str] = (), limit: int = 20) -> list[dict[str, Any]]:
    """Models by words, tame ones only: id, name, type, base, downloads, link, newest version. Refused as a sentence."""
    known = {name.lower(): name for name in ("Checkpoint", "LORA", "LoCon", "DoRA", "TextualInversion", "VAE")}
    known |= {"controlnet": "Controlnet", "upscaler": "Upscaler"}
    wrong = [t for t in types if t.lower() not in known]
    if wrong:
        raise ValueError(f"Civitai has no type {wrong[0]!r} for us; there are {', '.join(known.values())}")
    values = [("query", query), ("limit", str(max(1, min(limit, 100)))), ("nsfw", "false")]
    values += [("types", known[t.lower()]) for t in types]
    content, _ = get_json(access, f"{access.civitai}/api/v1/models?{urlencode(values, quote_via=quote)}")
    return [_found(row) for row in _rows(content, "items")]


def _found(row: Mapping[str, Any]) -> dict[str, Any]:
    versions = _rows(row, "modelVersions")
    newest = versions[0] if versions else {}
    return {
        "id": _whole(row, "id"),
        "name": _text(row, "name"),
        "type": _text(row, "type"),
        "base": _text(newest, "baseModel"),
        "creator": _text(row.get("creator"), "username"),
        "downloads": _whole(row.get("stats"), "downloadCount"),
        "version": _whole(newest, "id"),
        "link": f"{CIVITAI}/models/{_whole(row, 'id')}",
    }
