"""Whether a file is the model that it should be: first bytes while it comes in, the whole header when it is there.

An error page that was saved under a model's name is the commonest broken model there is. What a sound file is (kind,
family, how many tensors) is told by its header; `identify` is what decides into which folder it goes.
"""

import hashlib
import json
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ppdiffusers.pipelines.event import Progress

CHUNK = 1 << 22
KINDS: Mapping[str, str] = {
    ".safetensors": "safetensors",
    ".gguf": "gguf",
    **dict.fromkeys((".ckpt", ".pt", ".pth", ".bin"), "pickle"),
    ".json": "json",
    **dict.fromkeys((".txt", ".jinja", ".md", ".model", ".vocab", ".merges"), "text"),
}
WEIGHTS = ("safetensors", "gguf", "pickle")
# catalogue's kinds by detection's
_KINDS = {"unet": "checkpoint", "textual_inversion": "embedding"}
_CLASSES = {"AutoencoderKL": "vae", "ControlNetModel": "controlnet", "UNet2DConditionModel": "checkpoint"}
UPSCALER = re.compile(r"(params_ema\.)?(conv_first\.weight|model\.0\.weight|body\.0\.weight)")


@dataclass(frozen=True)
class Identity:
    """What a file or folder is: the catalogue's kind, detection's family, and a few words for people."""

    kind: str
    family: str = ""
    words: str = ""


def kind_of(name: str) -> str:
    """The format that a name promises; "" for names we have no opinion on."""
    return KINDS.get(Path(name).suffix.lower(), "")


def check_head(kind: str, name: str, head: bytes, total: int) -> None:
    """Refuse, by its first bytes, what is no file of this format. `total` is its size, 0 when that is not known."""
    from ppdiffusers.weights.header import LARGEST_HEADER, looks_like

    if kind not in WEIGHTS:
        return
    length = int.from_bytes(head[:8], "little")
    sound = {
        "safetensors": len(head) > 8 and length <= LARGEST_HEADER and head[8:9] == b"{" and not 0 < total < length + 8,
        "gguf": head.startswith(b"GGUF"),
        "pickle": head.startswith((b"PK\x03\x04", b"\x80")),
    }
    if not sound[kind]:
        what = looks_like(head)
        raise ValueError(f"{name} is no {kind} file" + (f": it looks like {what}" if what else "; it is damaged"))


def check_whole(kind: str, path: Path) -> None:
    """Refuse a file whose header does not fit its content to the last byte. The file may still have another name."""
    if kind == "safetensors":
        from ppdiffusers.weights.header import read_header

        read_header(path)
    elif kind == "gguf":
        from mix.llm.gguf import open_gguf

        with open_gguf(path):
            pass
    elif kind == "pickle":
        from ppdiffusers.weights.unpickle import read_pickle

        read_pickle(path)
    elif kind == "json":
        try:
            json.loads(path.read_bytes())
        except (ValueError, RecursionError) as why:
            raise ValueError(f"{path.name} is not JSON ({why}); the server sent something else") from None


def hashed(path: Path, digest: Any, note: str = "checking") -> Generator[Progress, None, str]:
    """Feed a file to a hash, telling progress in bytes; the hash in hex."""
    size, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
            done += len(block)
            if done % (16 * CHUNK) < CHUNK:
                yield Progress(done, size, note)
    return digest.hexdigest()


def sha256_of(path: Path) -> Generator[Progress, None, str]:
    """The file's sha256, read in full."""
    return (yield from hashed(path, hashlib.sha256(), f"reading {path.name}"))


def git_hash(path: Path) -> str:
    """The name that git gives to a small file's content."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def identify(path: Path, name: str = "") -> Identity:
    """What a model file or folder is. ValueError, with what was found, for what is no model that we can use."""
    if path.is_dir():
        return _identify_folder(path)
    kind = kind_of(name or path.name)
    if kind not in WEIGHTS:
        raise ValueError(f"{name or path.name} is no model; accepted are {', '.join(k for k in KINDS if _weights(k))}")
    if kind == "gguf":
        return _identify_gguf(path)
    return _identify_tensors(path, name or path.name)


def _weights(suffix: str) -> bool:
    return KINDS[suffix] in WEIGHTS


def _identify_gguf(path: Path) -> Identity:
    from mix.llm.gguf import open_gguf

    with open_gguf(path) as file:
        family = str(file.metadata.get("general.architecture", ""))
        named = str(file.metadata.get("general.name", ""))
        _ = file.places  # refuses architectures that we do not have
        formats = sorted({s.blocks.name for s in file.stored.values()})
    return Identity("llm", family, f"language model {named} ({family}, {', '.join(formats)})".replace("  ", " "))


def _identify_tensors(path: Path, name: str) -> Identity:
    from ppdiffusers.weights.detect import detect
    from ppdiffusers.weights.file import open_tensors

    with open_tensors(path) as file:
        shapes, metadata = file.shapes, file.metadata
    try:
        found = detect(shapes, metadata, name)
    except ValueError:
        if any(UPSCALER.fullmatch(key) for key in shapes):
            return Identity("upscaler", "", f"upscaler, {len(shapes)} tensors")
        raise
    if found.kind == "text_encoder":
        raise ValueError(f"{name} is a text encoder alone; MixStudio takes it as part of a checkpoint")
    kind = _KINDS.get(found.kind, found.kind)
    family = found.family or ""
    what = f"{found.algorithm} ".replace("lora ", "") + found.kind.replace("_", " ")
    return Identity(kind, family, f"{what.strip()}{f' for {family}' if family else ''}, {len(shapes)} tensors")


def _identify_folder(path: Path) -> Identity:
    """By the folder's index or config; every network that these name must be there with a sound header."""
    from ppdiffusers.weights.file import open_tensors, read_json

    for name in ("model_index.json", "config.json"):
        if (path / name).is_file():
            config = read_json(path / name)
            found = identify_config(config, path.name)
            parts = _parts(config) if name == "model_index.json" else ["."]
            for part in parts:
                with open_tensors(path / part):
                    pass
            return replace(found, family=found.family or _unet_family(path / "unet" / "config.json"))
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _identify_gguf(ggufs[0])
    raise ValueError(
        f"{path.name} is no model folder: no model_index.json (diffusers), no config.json, no single .gguf file"
    )


def identify_config(config: Mapping[str, Any], name: str) -> Identity:
    """What a folder with this model_index.json or config.json is. ValueError for what MixStudio cannot use."""
    named = str(config.get("_class_name", ""))
    if named.endswith("Pipeline") or _parts(config):
        parts = _parts(config)
        if "unet" not in parts or "vae" not in parts:
            raise ValueError(f"{name} is a {named or 'pipeline'} without a UNet and a VAE; MixStudio cannot use it")
        return Identity("checkpoint", "", f"{named} folder with {', '.join(parts)}")
    if named in _CLASSES:
        return Identity(_CLASSES[named], "", f"{named} folder")
    if named:
        raise ValueError(f"{name} is a {named}, which MixStudio cannot use")
    return _identify_llm(config, name)


def _parts(index: Mapping[str, Any]) -> list[str]:
    """The networks that a model_index.json names."""
    found = []
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        entry = index.get(part)
        if isinstance(entry, list) and len(entry) == 2 and entry[1] is not None:
            found.append(part)
    return found


def _unet_family(config: Path) -> str:
    from ppdiffusers.weights.file import read_json

    width = read_json(config).get("cross_attention_dim") if config.is_file() else None
    families = {768: "sd15", 1024: "sd2", 2048: "sdxl-base", 1280: "sdxl-refiner"}
    return families.get(width, "") if isinstance(width, int) else ""


def _identify_llm(config: Mapping[str, Any], name: str) -> Identity:
    from mix.llm.config import DecoderConfig

    kind = str(config.get("model_type", ""))
    try:
        DecoderConfig.from_dict(dict(config))
    except (ValueError, KeyError, TypeError) as why:
        raise ValueError(f"{name} is no model that MixStudio can use ({kind or 'no model_type'}): {why}") from None
    return Identity("llm", kind, f"language model ({kind})")


def not_finite(path: Path) -> Generator[Progress, None, list[str]]:
    """The tensors of a checkpoint with NaN or infinite numbers in them; reads everything, one tensor at a time."""
    from ppdiffusers.weights.dtype import finite
    from ppdiffusers.weights.file import open_tensors

    bad: list[str] = []
    with open_tensors(path) as file:
        for i, key in enumerate(file.shapes):
            if not finite(file.array(key), file.dtypes[key]):
                bad.append(key)
            yield Progress(i + 1, len(file.shapes), f"reading numbers of {path.name}")
    return bad
