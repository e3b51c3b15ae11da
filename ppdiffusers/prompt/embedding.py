"""Textual inversions: files that teach the text encoders a word, found in prompts by the file's name.

Kinds in circulation (D is the width of a text encoder, n the number of vectors):

    "string_to_param": {"*": (n, D)}                       the original training script and the WebUI, .pt
    "emb_params": (n, D)                                   the WebUI's safetensors
    "clip_l": (n, 768), "clip_g": (n, 1280)                SDXL; also as "text_encoders_0" and "text_encoders_1"
    "<word>": (D,) or (n, D)                               diffusers; the only key, and a second name for it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppdiffusers.prompt.tokenizer import CLIPTokenizer
from ppdiffusers.weights.file import TensorFile, open_tensors

MOST_VECTORS = 75  # a chunk of the prompt has no room for more
ENCODERS = {"clip_l": "clip_l", "text_encoders_0": "clip_l", "clip_g": "clip_g", "text_encoders_1": "clip_g"}
FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 1280: "SDXL's second text encoder"}


@dataclass(frozen=True, eq=False)
class EmbeddingFile:
    """What a file holds: float32 vectors (n, D) by text encoder; the key is "" where the file does not say which."""

    names: tuple[str, ...]
    vectors: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Embedding:
    """A word ready for a model: one array (n, D) for each of its text encoders, in their order."""

    names: tuple[str, ...]
    vectors: tuple[np.ndarray, ...]

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def count(self) -> int:
        """How many tokens of the prompt it takes."""
        return len(self.vectors[0])


def read_embedding(path: str | Path) -> EmbeddingFile:
    """A textual inversion of any kind; ValueError if the file is damaged or holds something else."""
    path = Path(path)
    with open_tensors(path) as file:
        word, keys = _keys(path, file)
        vectors = {encoder: _vectors(path, file, key) for encoder, key in keys.items()}
    names = dict.fromkeys([path.stem, word] if word else [path.stem])
    return EmbeddingFile(tuple(names), vectors)


def _keys(path: Path, file: TensorFile) -> tuple[str, dict[str, str]]:
    """(a second name or "", text encoder -> key in the file)."""
    shapes = {key: shape for key, shape in file.shapes.items() if not key.startswith("string_to_token")}
    params = [key for key in shapes if key.startswith("string_to_param.")]
    named = {ENCODERS[key]: key for key in shapes if key in ENCODERS}
    if named and len(named) == len(shapes):
        return "", named
    for found in (params, [key for key in shapes if key == "emb_params"]):
        if len(found) == 1:
            return "", {"": found[0]}
    if len(shapes) == 1:
        (word,) = shapes
        return word, {"": word}
    raise ValueError(
        f"{path.name} is no textual inversion: it has {len(shapes)} tensors, none of them string_to_param, emb_params "
        "or clip_l/clip_g; put LoRAs and checkpoints into their own folders"
    )


def _vectors(path: Path, file: TensorFile, key: str) -> np.ndarray:
    """One tensor as float32 (n, D)."""
    shape = file.shapes[key]
    if len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(f"{path.name} is no textual inversion: {key!r} has the shape {list(shape)}, not (n, D)")
    vectors = file.read(key).astype("float32").numpy().reshape(-1, shape[-1])
    if len(vectors) > MOST_VECTORS:
        raise ValueError(f"{path.name} has {len(vectors)} vectors, a prompt has room for {MOST_VECTORS}")
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path.name} has values that are not numbers (NaN or infinite); train or download it again")
    return vectors


def fit(file: EmbeddingFile, widths: Mapping[str, int]) -> Embedding:
    """The vectors for a model's text encoders, given as name ("clip_l", ...) -> width; ValueError if it has others."""
    alone = next(iter(widths)) if len(widths) == 1 else ""
    vectors = {alone: file.vectors[""]} if alone and "" in file.vectors else file.vectors
    have = ", ".join(str(array.shape[1]) for array in vectors.values())
    unfit = [name for name, width in widths.items() if name not in vectors or vectors[name].shape[1] != width]
    # an SDXL embedding has what SD 1.5 looks for, but was trained for another model
    foreign = alone == "clip_l" and "clip_g" in vectors
    if unfit or foreign:
        made_for = "SDXL" if "clip_g" in file.vectors else FAMILIES.get(int(have), f"width {have}")
        raise ValueError(
            f"the embedding {file.names[0]!r} is for {made_for} (width {have}), the loaded model has text of width "
            f"{', '.join(str(width) for width in widths.values())}; it is not used"
        )
    counts = {len(vectors[name]) for name in widths}
    if len(counts) > 1:
        raise ValueError(f"the embedding {file.names[0]!r} has {counts} vectors for its text encoders; it is not used")
    return Embedding(file.names, tuple(vectors[name] for name in widths))


def collect(paths: Iterable[str | Path], widths: Mapping[str, int]) -> tuple[list[Embedding], list[str]]:
    """(those of the files that fit the model, one sentence for each that does not); the first of a name counts."""
    embeddings: dict[str, Embedding] = {}
    notices: list[str] = []
    for path in paths:
        try:
            found = fit(read_embedding(path), widths)
        except ValueError as error:
            notices.append(str(error))
            continue
        if embeddings.setdefault(found.name, found) is not found:
            notices.append(f"there are two embeddings named {found.name!r}; {path} is not used, rename it")
    return list(embeddings.values()), notices


class Words:
    """Embeddings by the tokens of their names, for one tokenizer: the longest name that stands at a place wins."""

    def __init__(self, tokenizer: CLIPTokenizer, embeddings: Sequence[Embedding] = ()) -> None:
        self.tokenizer = tokenizer
        self._by_first: dict[int, list[tuple[list[int], Embedding]]] = {}
        for embedding in embeddings:
            for ids in (tokenizer.ids(name) for name in embedding.names):
                if ids:
                    self._by_first.setdefault(ids[0], []).append((ids, embedding))
        for candidates in self._by_first.values():
            candidates.sort(key=lambda candidate: len(candidate[0]), reverse=True)

    def at(self, ids: Sequence[int], place: int) -> tuple[Embedding, int] | None:
        """(the embedding whose name stands at a place, how many tokens the name has)."""
        for name, embedding in self._by_first.get(ids[place], ()):
            if list(ids[place : place + len(name)]) == name:
                return embedding, len(name)
        return None
