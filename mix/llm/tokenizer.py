"""Tokenizers under transformers' names, run by the library HF `tokenizers`.

`AutoTokenizer.from_pretrained` reads a Hugging Face folder (tokenizer.json, tokenizer.model, or vocab.json with
merges.txt) or the tokenizer inside a .gguf file. Batches are padded on the left, as generation wants them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import paddle
from tokenizers import Tokenizer as Backend
from tokenizers import processors

from mix.llm.chat import Message, render
from mix.llm.sentencepiece import build, read_model
from mix.llm.text import TextStream
from mix.llm.vocabularies import from_bpe_files, from_gguf
from ppdiffusers.weights.file import read_json
from ppdiffusers.weights.write import write_text

Side = Literal["left", "right"]
SPECIALS = ("bos_token", "eos_token", "pad_token", "unk_token")
UNLIMITED = 10**30  # what transformers writes for "no limit known"


class Encoding(dict[str, Any]):
    """`input_ids` and `attention_mask`, ready for `model.generate(**encoding)`; also as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


@dataclass(frozen=True)
class Settings:
    """What a tokenizer knows beside its vocabulary: special tokens as text, templates by name, limits."""

    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    templates: Mapping[str, str] | None = None
    model_max_length: int = UNLIMITED
    padding_side: Side = "left"


class Tokenizer:
    """Text to ids and back. Special tokens are attributes, as `eos_token` and `eos_token_id`."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend, self.settings = backend, settings
        for name in SPECIALS:
            token = getattr(settings, name)
            setattr(self, name, token)
            setattr(self, f"{name}_id", None if token is None else backend.token_to_id(token))
        self.padding_side: Side = settings.padding_side
        self.model_max_length = settings.model_max_length

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """Without added tokens, as in transformers; `len(tokenizer)` counts them."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        return self.backend.get_vocab(with_added_tokens=True)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return frozenset(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @property
    def chat_template(self) -> str | None:
        """The default template."""
        return (self.settings.templates or {}).get("default")

    # --- text to ids ---

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of one text."""
        return self.backend.encode(check_text(text), add_special_tokens=add_special_tokens).ids

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        padding: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: Literal["pd", "np"] | None = None,
    ) -> Encoding:
        """Ids and attention mask of one text or several; "pd" gives Paddle tensors (B, L), for one text too."""
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.encode(t, add_special_tokens) for t in texts]
        if truncation:
            rows = [row[: max_length or self.model_max_length] for row in rows]
        if isinstance(text, str) and return_tensors is None:
            return Encoding(input_ids=rows[0], attention_mask=[1] * len(rows[0]))
        return self.pad(rows, padding, return_tensors)

    def pad(
        self, rows: Sequence[Sequence[int]], padding: bool = True, return_tensors: Literal["pd", "np"] | None = None
    ) -> Encoding:
        """Rows of ids as a batch, filled up on `padding_side` with the pad token (else eos, else 0)."""
        longest = max(map(len, rows), default=0)
        if not padding and return_tensors is not None and any(len(row) != longest for row in rows):
            raise ValueError("texts of different lengths make no tensor; pass padding=True")
        fill = next((i for i in (self.pad_token_id, self.eos_token_id) if i is not None), 0)
        spare = [longest - len(row) if padding else 0 for row in rows]
        left = self.padding_side == "left"
        ids, mask = [], []
        for row, n in zip(rows, spare, strict=True):
            ids.append([fill] * n + [*row] if left else [*row] + [fill] * n)
            mask.append([0] * n + [1] * len(row) if left else [1] * len(row) + [0] * n)
        if return_tensors is None:
            return Encoding(input_ids=ids, attention_mask=mask)
        arrays = (np.asarray(ids, np.int64), np.asarray(mask, np.int64))
        made = arrays if return_tensors == "np" else tuple(map(paddle.to_tensor, arrays))
        return Encoding(input_ids=made[0], attention_mask=made[1])

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        if isinstance(tokens, str):
            found = self.backend.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        if isinstance(ids, int):
            return self.backend.id_to_token(ids)
        return [self.backend.id_to_token(int(i)) for i in ids]

    # --- ids to text ---

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """Text of a list or a tensor of ids; broken characters become replacement characters."""
        numbers = [int(i) for i in np.asarray(ids).reshape(-1)]
        if numbers and (min(numbers) < 0 or max(numbers) > 2**32 - 1):
            raise ValueError(
                f"ids go from {min(numbers)} to {max(numbers)}; they must be between 0 and {len(self) - 1}"
            )
        return self.backend.decode(numbers, skip_special_tokens=skip_special_tokens)

    def batch_decode(self, rows: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """`decode` of each row."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        """Text of tokens as they come, without half characters."""
        return TextStream(self, skip_special_tokens)

    # --- conversations ---

    def apply_chat_template(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        padding: bool = False,
        return_tensors: Literal["pd", "np"] | None = None,
        **known: Any,
    ) -> Any:
        """The prompt that a conversation (or each of several) becomes: ids as an `Encoding`, or text.

        `chat_template` is a template or the name of one of the tokenizer's; `known` are further names for the template.
        """
        several = bool(messages) and not isinstance(messages[0], Mapping)
        chats = cast(Sequence[Sequence[Message]], messages if several else [messages])
        template = self.template(chat_template, bool(tools))
        names = {name: getattr(self, name) for name in SPECIALS if getattr(self, name) is not None}
        texts = [
            render(template, chat, add_generation_prompt, tools=list(tools) if tools else None, **names, **known)
            for chat in chats
        ]
        if not tokenize:
            return texts if several else texts[0]
        return self(
            texts if several else texts[0], add_special_tokens=False, padding=padding, return_tensors=return_tensors
        )

    def template(self, asked: str | None, tools: bool) -> str:
        """The template to use; ValueError when there is none."""
        templates = self.settings.templates or {}
        if asked is not None:
            return templates.get(asked, asked)
        found = templates.get("tool_use") if tools else None
        found = found or templates.get("default")
        if found is None:
            raise ValueError("this tokenizer has no chat template; pass chat_template=, or use a chat model")
        return found

    # --- files ---

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json as transformers reads them."""
        folder = Path(folder)
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": self.padding_side}
        config |= {name: getattr(self, name) for name in SPECIALS if getattr(self, name) is not None}
        config["model_max_length"] = self.model_max_length
        templates = self.settings.templates or {}
        if templates:
            several = [{"name": name, "template": text} for name, text in templates.items()]
            config["chat_template"] = templates["default"] if list(templates) == ["default"] else several
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def check_text(text: Any) -> str:
    """Text that can be encoded; ValueError for anything else, half surrogates included."""
    if not isinstance(text, str):
        raise ValueError(f"a tokenizer takes text or a list of texts; got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the text is not valid Unicode at character {error.start}: a lone surrogate") from None
    return text


class AutoTokenizer:
    """Finds out which tokenizer lies at a place and reads it."""

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a Hugging Face folder or in a .gguf file; ValueError says what is missing or broken."""
        path = Path(path)
        if path.suffix.lower() == ".gguf":
            return _from_gguf(path)
        if not path.is_dir():
            raise ValueError(f"there is no folder and no .gguf file {path}; download the model, or check the name")
        config = read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
        backend = _backend(path, config)
        return Tokenizer(backend, _settings(path, config, backend))


def _backend(folder: Path, config: Mapping[str, Any]) -> Backend:
    if (folder / "tokenizer.json").is_file():
        try:
            return Backend.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exceptions
            raise ValueError(f"{folder / 'tokenizer.json'} is not a tokenizer ({error}); download it again") from None
    for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"):
        if (folder / name).is_file():
            vocabulary = read_model((folder / name).read_bytes())
            made = build(vocabulary)
            ids = vocabulary.ids
            begin, end = config.get("add_bos_token", True), config.get("add_eos_token", False)
            _surround(made, ids.get("bos") if begin else None, ids.get("eos") if end else None)
            return made
    if (folder / "vocab.json").is_file():
        return from_bpe_files(folder, "qwen2" if "Qwen" in str(config.get("tokenizer_class")) else "gpt-2")
    raise ValueError(
        f"{folder} has no tokenizer: looked for tokenizer.json, tokenizer.model, vocab.json with merges.txt"
    )


def _surround(backend: Backend, begin: int | None, end: int | None) -> None:
    """Put tokens before and after every text that is encoded with special tokens."""
    named = [(backend.id_to_token(i), i) for i in (begin, end) if i is not None]
    if not named:
        return
    before = f"{backend.id_to_token(begin)}:0 " if begin is not None else ""
    after = f" {backend.id_to_token(end)}:0" if end is not None else ""
    pair = f"{before}$A:0{after} {before}$B:0{after}"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{before}$A:0{after}", pair=pair, special_tokens=list(dict(named).items())
    )


def _settings(folder: Path, config: Mapping[str, Any], backend: Backend) -> Settings:
    extra = folder / "special_tokens_map.json"
    known = (read_json(extra) if extra.is_file() else {}) | dict(config)
    tokens: dict[str, Any] = {}
    for name in SPECIALS:
        value = known.get(name)
        text = value.get("content") if isinstance(value, Mapping) else value
        tokens[name] = text if isinstance(text, str) and backend.token_to_id(text) is not None else None
    most = known.get("model_max_length")
    side = known.get("padding_side")
    return Settings(
        **tokens,
        templates=_templates(folder, known.get("chat_template")),
        model_max_length=int(most) if isinstance(most, int | float) and 0 < most < UNLIMITED else UNLIMITED,
        padding_side="right" if side == "right" and not known.get("chat_template") else "left",
    )


def _templates(folder: Path, given: Any) -> dict[str, str]:
    """Templates by name, from the config (one, or several with names) and from chat_template.jinja."""
    found: dict[str, str] = {}
    if isinstance(given, str):
        found["default"] = given
    elif isinstance(given, list):
        found |= {
            str(t["name"]): str(t["template"])
            for t in given
            if isinstance(t, dict) and {"name", "template"} <= t.keys()
        }
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        found["default"] = alone.read_text(encoding="utf-8")
    return found


def _from_gguf(path: Path) -> Tokenizer:
    from mix.llm.gguf import open_gguf

    with open_gguf(path) as file:
        metadata = file.metadata
    backend = from_gguf(metadata, path.name)
    spm = metadata.get("tokenizer.ggml.model") == "llama"
    ids = {
        ours: metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
    }
    tokens: dict[str, Any] = {
        f"{name}_token": backend.id_to_token(i) if isinstance(i, int) else None for name, i in ids.items()
    }
    begin = metadata.get("tokenizer.ggml.add_bos_token", spm)
    end = metadata.get("tokenizer.ggml.add_eos_token", False)
    _surround(backend, ids["bos"] if begin else None, ids["eos"] if end else None)
    prefix = "tokenizer.chat_template"
    templates = {
        key.removeprefix(prefix).lstrip(".") or "default": value
        for key, value in metadata.items()
        if key.startswith(prefix) and isinstance(value, str)
    }
    length = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    limit = length if isinstance(length, int) and length > 0 else UNLIMITED
    return Tokenizer(backend, Settings(**tokens, templates=templates, model_max_length=limit))
