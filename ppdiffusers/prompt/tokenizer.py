"""CLIP's tokenizer: byte-level pairs with an end-of-word mark, run by the library HF `tokenizers`.

The ids are those of transformers' `CLIPTokenizer` with one exception, on purpose: OpenCLIP's folders name "!" as their
padding, and transformers then reads every "!" of a prompt as padding. We read it as the word it was in training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
OPENCLIP_PAD = "!"  # token 0, with which OpenCLIP's text encoders (SD 2.x, the second one of SDXL) were padded
END_OF_WORD = "</w>"
LENGTH = 77  # of one sequence, BOS and EOS included
ASSETS = Path(__file__).parents[2] / "assets" / "tokenizers" / "clip"

_WORDS = Regex(
    "|".join(
        [
            *(r"<\|startoftext\|>", r"<\|endoftext\|>"),
            *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"),
            *(r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]+"),
        ]
    )
)

Merge = tuple[str, str]


@dataclass(frozen=True)
class Specials:
    """The words of a vocabulary that mean something to the model."""

    bos: str = BOS
    eos: str = EOS
    pad: str = EOS
    unknown: str = EOS


CLIP_SPECIALS = Specials()


class CLIPTokenizer:
    """Text to token ids and back. `bos`, `eos`, `pad` and `comma` are ids (`comma` -1 where the vocabulary has none).

    `vocab` maps every token to its id, `merges` are pairs in order of rank, `added` are further whole words.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[Merge],
        specials: Specials = CLIP_SPECIALS,
        added: Mapping[str, int] | None = None,
    ) -> None:
        self.specials = specials
        self._ids = dict(vocab) | dict(added or {})
        missing = [word for word in (specials.bos, specials.eos, specials.pad) if word not in self._ids]
        if missing:
            raise ValueError(f"the tokenizer's vocabulary has no {missing[0]!r}; its files do not belong together")
        self.bos, self.eos, self.pad = (self._ids[word] for word in (specials.bos, specials.eos, specials.pad))
        self.comma = self._ids.get("," + END_OF_WORD, -1)
        self._words = {number: word for word, number in self._ids.items()}
        self._tokenizer = _backend(vocab, merges, specials)
        self._tokenizer.add_special_tokens(_added({specials.bos, specials.eos, specials.unknown, *(added or {})}))

    @classmethod
    def clip(cls, pad: str = EOS) -> CLIPTokenizer:
        """OpenAI's vocabulary of 49,408 tokens, as in every Stable Diffusion; OpenCLIP's pad with `OPENCLIP_PAD`."""
        merges = read_merges((ASSETS / "merges.txt").read_text(encoding="utf-8"))
        return cls(vocabulary(merges), merges, Specials(pad=pad))

    @classmethod
    def from_pretrained(cls, folder: str | Path, subfolder: str = "") -> CLIPTokenizer:
        """From a checkpoint's tokenizer folder: vocab.json and merges.txt, or tokenizer.json; else ValueError."""
        folder = Path(folder) / subfolder
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocab = _read(folder / "vocab.json")
            merges = read_merges((folder / "merges.txt").read_text(encoding="utf-8"))
        elif (folder / "tokenizer.json").is_file():
            model = _read(folder / "tokenizer.json").get("model", {})
            if model.get("end_of_word_suffix") != END_OF_WORD or "merges" not in model:
                raise ValueError(f"{folder / 'tokenizer.json'} is not a CLIP tokenizer; SD checkpoints need one")
            vocab = model["vocab"]
            merges = [_pair(merge) for merge in model["merges"]]
        else:
            raise ValueError(f"{folder} holds no tokenizer: it needs vocab.json and merges.txt, or tokenizer.json")
        return cls(vocab, merges, _specials(folder), _extra_words(folder, vocab))

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self._ids)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text of any length, without BOS, EOS or padding."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def rows(self, texts: Iterable[str], length: int = LENGTH) -> list[list[int]]:
        """BOS, the text cut to fit, EOS and padding, `length` ids for each text; what diffusers encodes."""
        return [self.row(self.ids(text)[: length - 2], length) for text in texts]

    def row(self, ids: Sequence[int], length: int = LENGTH) -> list[int]:
        """Up to `length` - 2 ids between BOS and EOS, padded."""
        if len(ids) > length - 2:
            raise ValueError(f"{len(ids)} tokens do not fit between the ends of a sequence of {length}; cut them first")
        return [self.bos, *ids, self.eos, *[self.pad] * (length - 2 - len(ids))]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of ids, specials left out, one space after each word."""
        dropped = {self.bos, self.eos, self.pad}
        tokens = "".join(self._words[number] for number in ids if number not in dropped)
        known = bytes_of_characters()
        raw = bytes(known[c] for c in tokens.replace(END_OF_WORD, " ") if c == " " or c in known)
        return raw.decode("utf-8", errors="replace").strip()


def _backend(vocab: Mapping[str, int], merges: Sequence[Merge], specials: Specials) -> Tokenizer:
    """The library's tokenizer: NFC, one space for any run of them, lower case; words; pairs of byte characters."""
    bpe = models.BPE(
        vocab=dict(vocab),
        merges=list(merges),
        unk_token=specials.unknown,
        end_of_word_suffix=END_OF_WORD,
        continuing_subword_prefix="",
    )
    tokenizer = Tokenizer(bpe)
    clean = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(clean)  # type: ignore[assignment]
    words = pre_tokenizers.Split(_WORDS, behavior="removed", invert=True)
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, spelled])  # type: ignore[assignment]
    return tokenizer


def _added(words: Iterable[str]) -> list[AddedToken | str]:
    return [AddedToken(word, normalized=False, special=True) for word in sorted(words)]


def characters_of_bytes() -> dict[int, str]:
    """GPT-2's spelling of bytes as visible characters: printable Latin-1 as itself, the others from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(rest)}


def bytes_of_characters() -> dict[str, int]:
    """The way back, with the space that stands for an end of word."""
    return {character: byte for byte, character in characters_of_bytes().items()} | {" ": 0x20}


def vocabulary(merges: Sequence[Merge]) -> dict[str, int]:
    """CLIP's ids: the bytes, the bytes at the end of a word, every merge in order, BOS, EOS."""
    letters = list(characters_of_bytes().values())
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *(a + b for a, b in merges), BOS, EOS]
    return {token: number for number, token in enumerate(tokens)}


def read_merges(text: str) -> list[Merge]:
    """The pairs of a merges.txt; its first line may be a version."""
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return [_pair(line) for line in lines if line and not line.startswith("#version")]


def _pair(merge: str | Sequence[str]) -> Merge:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, {} if there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} of the tokenizer is not valid JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} of the tokenizer is not a JSON object; download it again")
    return content


def _specials(folder: Path) -> Specials:
    """The special words as the folder names them, CLIP's own where it does not."""
    named = _read(folder / "tokenizer_config.json") | _read(folder / "special_tokens_map.json")

    def word(key: str, default: str) -> str:
        value = named.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) else default

    eos = word("eos_token", EOS)
    return Specials(word("bos_token", BOS), eos, word("pad_token", eos), word("unk_token", eos))


def _extra_words(folder: Path, vocab: Mapping[str, int]) -> dict[str, int]:
    """Words added after training, such as diffusers' textual inversions; their ids must continue the vocabulary."""
    decoder = _read(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    words = {entry["content"]: int(number) for number, entry in decoder.items() if isinstance(entry, dict)}
    words |= {word: int(number) for word, number in _read(folder / "added_tokens.json").items()}
    new = {word: number for word, number in words.items() if word not in vocab}
    order = sorted(new, key=new.__getitem__)
    if [new[word] for word in order] != list(range(len(vocab), len(vocab) + len(new))):
        raise ValueError(
            f"{folder}: the ids of its added words do not continue its vocabulary of {len(vocab):,} tokens"
        )
    return {word: new[word] for word in order}
