"""Tokenizers from the forms that vocabularies come in: byte-level BPE files, SentencePiece, GGUF metadata."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mix.llm.sentencepiece import CONTROL, NORMAL, UNKNOWN, USER, Piece, Vocabulary, build

# How text is cut before the pairs are merged: the rules of the models that made these vocabularies.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _WORDS % r"\p{N}{1,3}"
QWEN = _WORDS % r"\p{N}"


def _by_regex(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _digits() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


# llama.cpp's names of these rules -> (the rule, NFC first, whether a whole word in the vocabulary skips the merges).
PRE: Mapping[str, tuple[Any, bool, bool]] = {
    "gpt-2": (_gpt2, False, False),
    "default": (_gpt2, False, False),
    "smollm": (_digits, False, False),
    "starcoder": (_digits, False, False),
    "refact": (_digits, False, False),
    "llama-bpe": (lambda: _by_regex(LLAMA3), False, True),
    "llama3": (lambda: _by_regex(LLAMA3), False, True),
    "smaug-bpe": (lambda: _by_regex(LLAMA3), False, True),
    "qwen2": (lambda: _by_regex(QWEN), True, False),
}


def byte_level(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], pre: str = "gpt-2") -> Tokenizer:
    """A byte-level BPE tokenizer whose text is cut by the rule called `pre`."""
    if pre not in PRE:
        raise ValueError(f"the pre-tokenizer {pre!r} is not supported; there are {', '.join(PRE)}")
    rule, nfc, whole = PRE[pre]
    try:
        made = Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=whole))
    except Exception as error:  # the library raises bare Exceptions, here for a merge outside the vocabulary
        raise ValueError(f"vocabulary and merges do not belong together: {error}") from None
    made.normalizer = normalizers.NFC() if nfc else None
    made.pre_tokenizer = rule()
    made.decoder = decoders.ByteLevel()
    return made


def from_bpe_files(folder: Path, pre: str) -> Tokenizer:
    """vocab.json and merges.txt of GPT-2 and its kind."""
    try:
        vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder}: vocab.json or merges.txt cannot be read ({error})") from None
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if not isinstance(vocab, dict) or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{folder}: vocab.json must be an object and merges.txt have two words a line")
    return byte_level(vocab, pairs, pre)  # type: ignore[arg-type]


def from_gguf(metadata: Mapping[str, Any], source: str) -> Tokenizer:
    """The tokenizer in a GGUF file's metadata."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) for t in tokens):
        raise ValueError(f"{source} holds no tokenizer; take the model's own tokenizer folder")
    kinds = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        raise ValueError(f"{source}: {len(tokens)} tokens but {len(kinds)} token types; the file is damaged")
    model = metadata.get("tokenizer.ggml.model")
    if model == "llama":
        return build(_pieces(metadata, tokens, kinds, source))
    if model != "gpt2":
        raise ValueError(f"{source}: tokenizers of kind {model!r} are not supported; there are gpt2 and llama")
    merges = [tuple(m.split(" ")) for m in metadata.get("tokenizer.ggml.merges", []) if isinstance(m, str)]
    if any(len(pair) != 2 for pair in merges):
        raise ValueError(f"{source}: a merge is not a pair of tokens; the file is damaged")
    vocab = {token: i for i, token in enumerate(tokens)}
    made = byte_level(vocab, merges, str(metadata.get("tokenizer.ggml.pre", "default")))  # type: ignore[arg-type]
    _add(made, tokens, kinds)
    return made


def _add(made: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    pairs = list(zip(tokens, kinds, strict=True))
    made.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, k in pairs if k in (CONTROL, UNKNOWN)]
    )
    made.add_tokens([AddedToken(t, normalized=False) for t, k in pairs if k == USER])


def _pieces(metadata: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int], source: str) -> Vocabulary:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError(f"{source}: its SentencePiece vocabulary has no score for each token; the file is damaged")
    pieces = tuple(Piece(t, float(s), int(k)) for t, s, k in zip(tokens, scores, kinds, strict=True))
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    return Vocabulary(
        pieces,
        "bpe",
        dummy_prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
        ids={"unk": unknown} if isinstance(unknown, int) and 0 <= unknown < len(tokens) else {},
    )
