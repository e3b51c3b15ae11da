"""The small files beside a model, in the layout that WebUI and Civitai Helper users already have.

`x.json` holds what a person says about the model (the WebUI's keys), `x.civitai.info` what Civitai says,
`x.preview.png` a picture, `x.txt` or `x.description.txt` a text. All of them may come from strangers: they are read
with limits, wrong types are left out, HTML becomes plain text, and nothing outside the model's folder is followed.
"""

import html
import io
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL.Image

from ppdiffusers.weights.write import replacing, write_text

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
LARGEST_TEXT = 4_000_000  # bytes of a sidecar; real ones have some tens of thousands
LARGEST_PICTURE = 16_000_000  # bytes of a preview as it comes
MOST_PIXELS = 50_000_000
PREVIEW_SIDE = 768
LONGEST = 20_000  # characters of one text
TEXTS = ("activation text", "negative text", "description", "notes", "sd version")  # the WebUI's keys
WEIGHT = "preferred weight"
ENDINGS = (".json", ".civitai.info", ".txt", ".description.txt", *(f".preview{e}" for e in PICTURES), *PICTURES)


def base_of(path: Path) -> str:
    """What the names of the files beside a model begin with: its name without the ending; a folder's whole name."""
    return path.name if path.is_dir() else path.stem


def beside(path: Path, ending: str) -> Path:
    """The sidecar of a model with this ending, there or not."""
    return path.with_name(base_of(path) + ending)


def sidecars_of(path: Path) -> list[Path]:
    """The files beside a model that belong to it."""
    return [file for ending in ENDINGS if _own(file := beside(path, ending), path) and file != path]


def _own(file: Path, path: Path) -> bool:
    """A plain file in the model's folder; a link that leads elsewhere is not followed."""
    try:
        return file.is_file() and file.resolve().parent == path.parent.resolve()
    except OSError:
        return False


def preview_of(path: Path) -> Path | None:
    """The picture beside a model: `x.preview.png` and the like first, then `x.png`."""
    names = (*(f".preview{ending}" for ending in PICTURES), *PICTURES)
    return next((file for name in names if _own(file := beside(path, name), path)), None)


def read_info(path: Path, header: bool = False) -> dict[str, Any]:
    """What the files beside a model say; {} when there are none. It never raises for what stands in them.

    Keys: the WebUI's `activation text`, `preferred weight`, `negative text`, `description`, `notes`, `sd version`, and
    `civitai` (model, version, name, type, base, words, url, sha256). What a person wrote wins over what Civitai says.
    With `header` also `metadata`: what the model file says about itself (reads its header).
    """
    info: dict[str, Any] = {}
    if civitai := civitai_summary(_json(path, ".civitai.info")):
        info["civitai"] = civitai
        info |= {key: civitai[source] for key, source in _FROM_CIVITAI.items() if civitai.get(source)}
    for ending in (".description.txt", ".txt"):
        if text := _text(path, ending):
            info["description"] = clipped(text)
    info |= _personal(_json(path, ".json"))
    if header and (metadata := read_metadata(path)):
        info["metadata"] = metadata
        if metadata.get("trigger words"):
            info.setdefault("activation text", metadata["trigger words"])
    return info


_FROM_CIVITAI = {"activation text": "words", "description": "description", "sd version": "base"}


def _personal(values: Mapping[str, Any]) -> dict[str, Any]:
    """The WebUI's keys with values of the right type."""
    found: dict[str, Any] = {key: clipped(values[key]) for key in TEXTS if _says(values.get(key))}
    weight = values.get(WEIGHT)
    if isinstance(weight, int | float) and math.isfinite(weight) and weight:
        found[WEIGHT] = max(-10.0, min(10.0, float(weight)))
    return found


def _says(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def clipped(value: str, longest: int = LONGEST) -> str:
    """A text without control characters and not endless."""
    plain = "".join(c for c in value if c in "\n\t" or c.isprintable()).strip()
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def plain_text(markup: str) -> str:
    """HTML as Civitai's descriptions have it -> the words, paragraphs on lines of their own."""
    markup = re.sub(r"(?is)<(script|style)\b.*?(</\1\s*>|$)", " ", markup[: 10 * LONGEST])
    markup = re.sub(r"(?i)<br\s*/?>|</(p|li|h\d|div|tr)\s*>", "\n", markup)
    words = html.unescape(re.sub(r"<[^>]*>", "", markup))
    lines = [re.sub(r"[ \t\xa0]+", " ", line).strip() for line in words.splitlines()]
    return clipped(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)))


def _text(path: Path, ending: str) -> str:
    file = beside(path, ending)
    if not _own(file, path) or file == path:
        return ""
    with suppress(OSError), file.open("rb") as opened:
        return opened.read(LARGEST_TEXT).decode("utf-8", errors="replace").strip()
    return ""


def _json(path: Path, ending: str) -> dict[str, Any]:
    file = beside(path, ending)
    with suppress(OSError, ValueError, RecursionError):
        if _own(file, path) and file.stat().st_size <= LARGEST_TEXT:
            values = json.loads(file.read_text(encoding="utf-8"))
            return values if isinstance(values, dict) else {}
    return {}


def read_raw(path: Path) -> dict[str, Any]:
    """The whole `x.civitai.info`, unchecked; {} when there is none."""
    return _json(path, ".civitai.info")


def civitai_summary(version: Mapping[str, Any]) -> dict[str, Any]:
    """What we use of a Civitai version's JSON. Null stands in it where texts are promised; such values are left out."""
    model = version.get("model")
    model = model if isinstance(model, dict) else {}
    words = version.get("trainedWords")
    found: dict[str, Any] = {
        "model": _number(version.get("modelId")),
        "version": _number(version.get("id")),
        "name": _word(model.get("name")),
        "version name": _word(version.get("name")),
        "type": _word(model.get("type")),
        "base": _word(version.get("baseModel")),
        "words": clipped(", ".join(w.strip(" ,") for w in words if _says(w))) if isinstance(words, list) else "",
        "description": plain_text(version["description"]) if _says(version.get("description")) else "",
        "sha256": _sha256(version.get("files")),
    }
    if found["model"]:
        tail = f"?modelVersionId={found['version']}" if found["version"] else ""
        found["url"] = f"https://civitai.com/models/{found['model']}{tail}"
    return {key: value for key, value in found.items() if value}


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53 else 0


def _word(value: object) -> str:
    return clipped(value, 300).replace("\n", " ") if isinstance(value, str) else ""


def _sha256(files: object) -> str:
    """The hash of the primary file."""
    rows = [f for f in files if isinstance(f, dict)] if isinstance(files, list) else []
    rows.sort(key=lambda f: not f.get("primary"))
    hashes = rows[0].get("hashes") if rows else None
    value = hashes.get("SHA256") if isinstance(hashes, dict) else None
    return value.lower() if isinstance(value, str) and re.fullmatch(r"[0-9A-Fa-f]{64}", value) else ""


# --- what the model file says about itself ---


def read_metadata(path: Path) -> dict[str, Any]:
    """kohya's `ss_*` and ModelSpec's values of a safetensors file in plain words; {} where there are none."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return {}
    from ppdiffusers.weights.header import read_header

    try:
        _, metadata = read_header(path)
    except (ValueError, OSError):
        return {}
    return describe_metadata(metadata)


def describe_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The values of a header's metadata that people look for, under plain names."""
    found = {name: clipped(metadata[key], 2000) for key, name in _HEADER.items() if _says(metadata.get(key))}
    if tags := _frequent_tags(metadata.get("ss_tag_frequency", "")):
        found["frequent tags"] = tags
    return {name: value for name, value in found.items() if value not in ("None", "null")}


_HEADER = {
    "ss_output_name": "trainer's name",
    "ss_sd_model_name": "trained on",
    "ss_base_model_version": "base model",
    "ss_network_module": "network",
    "ss_network_dim": "rank",
    "ss_network_alpha": "alpha",
    "ss_resolution": "resolution",
    "ss_num_train_images": "pictures",
    "ss_steps": "steps",
    "ss_epoch": "epochs",
    "modelspec.title": "title",
    "modelspec.author": "author",
    "modelspec.architecture": "architecture",
    "modelspec.description": "description",
    "modelspec.trigger_phrase": "trigger words",
    "modelspec.usage_hint": "usage",
    "modelspec.license": "licence",
    "modelspec.date": "date",
}


def _frequent_tags(text: str, most: int = 20) -> str:
    """The captions' most frequent tags, from kohya's {folder: {tag: count}}."""
    counts: dict[str, int] = {}
    with suppress(ValueError, RecursionError):
        folders = json.loads(text) if len(text) < LARGEST_TEXT else {}
        for tags in folders.values() if isinstance(folders, dict) else ():
            for tag, count in tags.items() if isinstance(tags, dict) else ():
                if isinstance(count, int):
                    counts[tag.strip()] = counts.get(tag.strip(), 0) + count
    best = sorted(counts.items(), key=lambda item: -item[1])[:most]
    return clipped(", ".join(f"{tag} ({count})" for tag, count in best), 2000)


# --- writing ---


def write_info(
    path: Path, civitai: Mapping[str, Any] | None = None, preview: bytes | None = None, **values: Any
) -> dict[str, Any]:
    """Write what is given beside a model and give what then can be read.

    `civitai` becomes `x.civitai.info` as it is; `preview`, an encoded picture, is checked and written anew as
    `x.preview.png`; `values` change the WebUI's keys in `x.json` (underscores for spaces), the others in it stay, and
    "" takes one away. Raises ValueError for an unknown key, a value of the wrong type, or a picture that is none.
    """
    changed = {key.replace("_", " "): value for key, value in values.items()}
    for key, value in changed.items():
        if key not in (*TEXTS, WEIGHT):
            raise ValueError(f"{key!r} is nothing that is kept beside a model; there are {', '.join((*TEXTS, WEIGHT))}")
        if not isinstance(value, (int, float) if key == WEIGHT else str):
            raise ValueError(f"{key} must be a {'number' if key == WEIGHT else 'text'}, got {value!r}")
    png = None if preview is None else encode_preview(preview)
    if civitai is not None:
        write_text(beside(path, ".civitai.info"), json.dumps(civitai, indent=2, ensure_ascii=False) + "\n")
    if changed:
        kept = {k: v for k, v in (_json(path, ".json") | changed).items() if v != ""}
        write_text(beside(path, ".json"), json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    if png is not None:
        with replacing(beside(path, ".preview.png")) as file:
            file.write(png)
    return read_info(path)


def from_civitai(path: Path, version: Mapping[str, Any], preview: bytes | None = None) -> dict[str, Any]:
    """Write all that Civitai says about a model; what a person wrote in `x.json` before is kept."""
    told, mine = civitai_summary(version), _personal(_json(path, ".json"))
    fresh = {key: told[source] for key, source in _FROM_CIVITAI.items() if told.get(source) and key not in mine}
    if "url" in told and "notes" not in mine:
        fresh["notes"] = told["url"]
    return write_info(path, version, preview, **fresh)


def encode_preview(data: bytes) -> bytes:
    """A picture from anywhere as a small PNG without metadata. ValueError for what is no picture, or a bomb."""
    if len(data) > LARGEST_PICTURE:
        raise ValueError(f"the preview has {len(data):,} bytes, at most {LARGEST_PICTURE:,} are accepted")
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"the preview has {image.width} x {image.height} pixels, at most {MOST_PIXELS:,} fit")
            small = image.convert("RGB")
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as why:
        raise ValueError(f"the preview is no sound picture: {why}") from None
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), PIL.Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()
