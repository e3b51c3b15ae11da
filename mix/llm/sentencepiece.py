"""SentencePiece vocabularies, from .model files or GGUF metadata, as HF `tokenizers`.

A .model file is a protobuf message; the few fields that matter are read here, so that the library itself is not
needed. Format: sentencepiece_model.proto of https://github.com/google/sentencepiece.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary: its text, how good it is (larger is better), and of what kind."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


@dataclass(frozen=True)
class Vocabulary:
    """Pieces by id, and how text is prepared for them."""

    pieces: tuple[Piece, ...]
    model: Literal["unigram", "bpe"]
    dummy_prefix: bool = True  # a text begins as if a space stood before it
    one_space: bool = False  # runs of spaces count as one
    charsmap: bytes = b""  # SentencePiece's compiled table of normalisations
    ids: Mapping[str, int] = field(default_factory=dict)  # bos, eos, unk, pad where they are not negative


# --- the protobuf -----------------------------------------------------------------------------------------------------


def message_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message: int, bytes, or the raw 4 or 8 bytes of fixed-width numbers."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError("the tokenizer.model is not a sound protobuf message; download it again")
            byte, at = data[at], at + 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError("the tokenizer.model is not a sound protobuf message; download it again")
        size = varint() if kind == 2 else 8 if kind == 1 else 4
        if size > len(data) - at:
            raise ValueError("the tokenizer.model is truncated; download it again")
        yield key >> 3, data[at : at + size]
        at += size


def _piece(data: bytes) -> Piece:
    values: dict[int, Any] = dict(message_fields(data))
    score = struct.unpack("<f", values[2])[0] if isinstance(values.get(2), bytes) and len(values[2]) == 4 else 0.0
    text = values.get(1, b"")
    return Piece(text.decode("utf-8", errors="replace"), score, values.get(3, NORMAL))


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def read_model(data: bytes) -> Vocabulary:
    """The content of a .model file; ValueError when it is not one."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normal: dict[int, Any] = {}
    for number, value in message_fields(data):
        if number in (1, 2, 3) and not isinstance(value, bytes):
            raise ValueError("the tokenizer.model is not a SentencePiece model; download it again")
        if number == 1:
            pieces.append(_piece(value))
        elif number == 2:
            trainer = dict(message_fields(value))
        elif number == 3:
            normal = dict(message_fields(value))
    if not pieces:
        raise ValueError("the tokenizer.model holds no pieces; it is not a SentencePiece model")
    kind = trainer.get(3, 1)
    if kind not in (1, 2):
        raise ValueError(f"SentencePiece models of type {kind} are not supported; there are unigram (1) and BPE (2)")
    defaults = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}
    ids = {name: _signed(trainer.get(number, default)) for name, (number, default) in defaults.items()}
    return Vocabulary(
        tuple(pieces),
        "unigram" if kind == 1 else "bpe",
        dummy_prefix=bool(normal.get(3, 1)),
        one_space=bool(normal.get(4, 1)),
        charsmap=normal.get(2, b""),
        ids={name: i for name, i in ids.items() if 0 <= i < len(pieces)},
    )


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def build(vocabulary: Vocabulary) -> Tokenizer:
    """A tokenizer that splits text as SentencePiece does."""
    pieces = vocabulary.pieces
    unknown = vocabulary.ids.get("unk", next((i for i, p in enumerate(pieces) if p.kind == UNKNOWN), 0))
    fallback = any(p.kind == BYTE for p in pieces)
    made = Tokenizer(_unigram(pieces, unknown, fallback) if vocabulary.model == "unigram" else _bpe(pieces, unknown))
    steps: list[Any] = [normalizers.Precompiled(vocabulary.charsmap)] if vocabulary.charsmap else []
    if vocabulary.one_space:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if vocabulary.dummy_prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    if vocabulary.model == "unigram":
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=False)
    strip = [decoders.Strip(" ", 1, 0)] if vocabulary.dummy_prefix else []
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    made.add_special_tokens([AddedToken(p.text, special=True, normalized=False) for p in pieces if p.kind == CONTROL])
    made.add_tokens([AddedToken(p.text, normalized=False) for p in pieces if p.kind == USER])
    return made


def _unigram(pieces: Sequence[Piece], unknown: int, fallback: bool) -> Any:
    return models.Unigram([(p.text, p.score) for p in pieces], unk_id=unknown, byte_fallback=fallback)


def _bpe(pieces: Sequence[Piece], unknown: int) -> Any:
    vocab = {p.text: i for i, p in enumerate(pieces)}
    return models.BPE(
        vocab=vocab,
        merges=merges_by_score(pieces, vocab),
        unk_token=pieces[unknown].text,
        fuse_unk=True,
        byte_fallback=any(p.kind == BYTE for p in pieces),
    )


def merges_by_score(pieces: Sequence[Piece], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """SentencePiece joins the two neighbours that make the best piece; as a list of pairs, best first."""
    found: list[tuple[float, int, int, str, str]] = []
    for piece in pieces:
        if piece.kind not in (NORMAL, UNUSED):
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in vocab and right in vocab:
                found.append((-piece.score, vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
