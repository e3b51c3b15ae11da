"""From texts to what the UNet attends to: chunks, weights, clip skip, textual inversion, one or two text encoders.

# B pictures, L tokens (77 for each chunk), D width of all encoders together, P width of the pooled text
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import paddle
from paddle import Tensor

from ppdiffusers.models.clip import CLIPTextModel
from ppdiffusers.prompt.chunk import COMMA_BACKTRACK, EMPHASIS, Chunk, count, split
from ppdiffusers.prompt.embedding import Embedding, Words, collect
from ppdiffusers.prompt.schedule import schedule
from ppdiffusers.prompt.tokenizer import LENGTH, CLIPTokenizer
from ppdiffusers.prompt.weight import split_and


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the UNet is told: `text` (B, L, D), and for SDXL `pooled` (B, P)."""

    text: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """How prompts are read; the defaults are the WebUI's.

    clip_skip counts as the WebUI does: 1 is the last layer, 2 the one before (diffusers' `clip_skip=1`). SDXL was
    trained on 2, so 1 and 2 mean the same there. emphasis: "Original" restores the mean that weights have shifted, "No
    norm" does not, "Ignore" reads weights and drops them, "None" reads brackets as text. zero_empty_negative: an empty
    negative prompt becomes zeros, as the WebUI and diffusers have it for SDXL's base. same_length: the negative prompts
    get as many chunks as the prompts (the WebUI's option "pad prompt/negative prompt").
    """

    clip_skip: int = 1
    emphasis: str = "Original"
    comma_backtrack: int = COMMA_BACKTRACK
    zero_empty_negative: bool = False
    same_length: bool = False

    def __post_init__(self) -> None:
        if self.emphasis not in EMPHASIS:
            raise ValueError(f"there is no emphasis mode {self.emphasis!r}; choose one of {', '.join(EMPHASIS)}")
        if self.clip_skip < 1:
            raise ValueError(f"clip skip {self.clip_skip} is not possible; 1 is the last layer, 2 the one before")
        if self.comma_backtrack < 0:
            raise ValueError(f"comma backtrack {self.comma_backtrack} is not possible; give 0 or more tokens")


DEFAULT = PromptSettings()


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A text encoder and how its family reads it.

    `layer` counts from the end what the UNet was trained on (1 or, for SDXL, 2); `final_norm` says whether that goes
    through the final layer norm; `pooled` whether the encoder gives the pooled text; textual inversions use `name`.
    """

    name: str
    tokenizer: CLIPTokenizer
    model: CLIPTextModel
    layer: int = 1
    final_norm: bool = True
    pooled: bool = False

    def read(self, chunk: Chunk, vectors: dict[str, Tensor], clip_skip: int) -> tuple[Tensor, Tensor | None]:
        """Features (77, D) of one chunk before weights, and the pooled text (P,) if the encoder gives it."""
        depth = max(clip_skip, self.layer)
        if depth > self.model.config.num_hidden_layers:
            layers = self.model.config.num_hidden_layers
            raise ValueError(f"clip skip {clip_skip} is too deep: the text encoder {self.name} has {layers} layers")
        ids = paddle.to_tensor([self.tokenizer.row([slot.token for slot in chunk])], dtype="int64")
        out = self.model(ids, inputs_embeds=self._embeds(ids, chunk, vectors), output_hidden_states=True)
        hidden = out.hidden_states[-depth]
        if self.final_norm:
            hidden = self.model.final_layer_norm(hidden)
        return hidden[0], out.text_embeds[0] if self.pooled else None

    def _embeds(self, ids: Tensor, chunk: Chunk, vectors: dict[str, Tensor]) -> Tensor | None:
        """Token vectors (1, 77, D) with those of embeddings in their places; None if the chunk has no embedding."""
        taught = [(place, slot) for place, slot in enumerate(chunk, start=1) if slot.embedding is not None]
        if not taught:
            return None
        rows = list(self.model.embed_tokens(ids)[0].unbind(0))
        for place, slot in taught:
            rows[place] = vectors[slot.embedding or ""][slot.row].astype(rows[place].dtype)
        return paddle.stack(rows).unsqueeze(0)


@dataclass(frozen=True, eq=False)
class TextEncoders:
    """All text encoders of a model, and the words it was taught."""

    encoders: tuple[TextEncoder, ...]
    embeddings: tuple[Embedding, ...] = ()

    @classmethod
    def sd(cls, tokenizer: CLIPTokenizer, model: CLIPTextModel) -> TextEncoders:
        """SD 1.x (ViT-L) and 2.x (OpenCLIP ViT-H, of which diffusers and we keep 23 of 24 layers)."""
        name = "clip_l" if model.config.hidden_act == "quick_gelu" else "clip_h"
        return cls((TextEncoder(name, tokenizer, model),))

    @classmethod
    def sdxl(
        cls, tokenizer: CLIPTokenizer, model: CLIPTextModel, tokenizer_2: CLIPTokenizer, model_2: CLIPTextModel
    ) -> TextEncoders:
        """SDXL base: ViT-L and OpenCLIP bigG side by side, the latter gives the pooled text."""
        first = TextEncoder("clip_l", tokenizer, model, layer=2, final_norm=False)
        return cls((first, *cls.sdxl_refiner(tokenizer_2, model_2).encoders))

    @classmethod
    def sdxl_refiner(cls, tokenizer_2: CLIPTokenizer, model_2: CLIPTextModel) -> TextEncoders:
        """SDXL's refiner: bigG alone."""
        return cls((TextEncoder("clip_g", tokenizer_2, model_2, layer=2, final_norm=False, pooled=True),))

    def with_embeddings(self, paths: Iterable[str | Path]) -> tuple[TextEncoders, list[str]]:
        """(encoders that know the textual inversions of the files, one sentence for each file that does not fit)."""
        widths = {encoder.name: int(encoder.model.config.hidden_size) for encoder in self.encoders}
        embeddings, notices = collect(paths, widths)
        return replace(self, embeddings=tuple(embeddings)), notices

    @cached_property
    def words(self) -> tuple[Words, ...]:
        """The names of embeddings in each encoder's tokens."""
        return tuple(Words(encoder.tokenizer, self.embeddings) for encoder in self.encoders)

    def chunks(self, text: str, settings: PromptSettings = DEFAULT) -> list[tuple[Chunk, ...]]:
        """The text's chunks, each as all encoders see it."""
        per_encoder = [split(text, words, settings.emphasis, settings.comma_backtrack) for words in self.words]
        return list(zip_longest(*per_encoder, fillvalue=()))


class Encoding:
    """Encoded chunks, each encoded once; valid while the encoders' weights stay as they are.

    Every chunk goes through the encoders by itself, so that a picture does not depend on the others of its batch,
    neither in its last bits nor through the mean that "Original" emphasis restores (the WebUI takes it over the batch;
    this is what it gives for one picture).
    """

    def __init__(self, encoders: TextEncoders, settings: PromptSettings = DEFAULT) -> None:
        self.encoders = encoders
        self.settings = settings
        self._seen: dict[tuple[Chunk, ...], tuple[Tensor, Tensor | None]] = {}
        self._vectors = [
            {embedding.name: paddle.to_tensor(embedding.vectors[i]) for embedding in encoders.embeddings}
            for i in range(len(encoders.encoders))
        ]

    def row(self, text: str, chunks: int | None = None) -> tuple[Tensor, Tensor | None]:
        """One text as (L, D), and the pooled text (P,) of its first chunk; empty chunks are added up to `chunks`."""
        split_text = self.encoders.chunks(text, self.settings)
        empty: tuple[Chunk, ...] = ((),) * len(self.encoders.encoders)
        split_text += [empty] * ((chunks or 0) - len(split_text))
        parts = [self._chunk(chunk) for chunk in split_text]
        return paddle.concat([features for features, _ in parts]), parts[0][1]

    def length(self, text: str) -> int:
        """How many chunks a text has."""
        return len(self.encoders.chunks(text, self.settings))

    def batch(self, texts: Sequence[str], chunks: int | None = None) -> Conditioning:
        """Texts as one Conditioning; shorter ones get empty chunks, up to `chunks` if that is given."""
        if not texts:
            raise ValueError("there is no prompt to encode; give at least one, it may be empty")
        most = max(chunks or 0, *(self.length(text) for text in texts))
        return stack([self.row(text, most) for text in texts])

    @paddle.no_grad()
    def _chunk(self, chunk: tuple[Chunk, ...]) -> tuple[Tensor, Tensor | None]:
        if chunk not in self._seen:
            read = [
                encoder.read(part, vectors, self.settings.clip_skip)
                for encoder, part, vectors in zip(self.encoders.encoders, chunk, self._vectors, strict=True)
            ]
            restore = self.settings.emphasis == "Original"
            features = [emphasise(hidden, part, restore) for (hidden, _), part in zip(read, chunk, strict=True)]
            pooled = next((pooled for _, pooled in read if pooled is not None), None)
            self._seen[chunk] = (paddle.concat(features, axis=-1), pooled)
        return self._seen[chunk]


def emphasise(hidden: Tensor, chunk: Chunk, restore: bool) -> Tensor:
    """Features (77, D) times their tokens' weights; `restore` scales them back to their mean before."""
    if all(slot.weight == 1.0 for slot in chunk):
        return hidden
    weights = [1.0, *(slot.weight for slot in chunk), *[1.0] * (LENGTH - 1 - len(chunk))]
    before = hidden.astype("float32")
    after = before * paddle.to_tensor(weights, dtype="float32").unsqueeze(1)
    if restore:
        mean = float(after.mean())
        after = after * (float(before.mean()) / mean if mean else 1.0)
    return after.astype(hidden.dtype)


def stack(rows: Sequence[tuple[Tensor, Tensor | None]]) -> Conditioning:
    """Rows of equal length as a batch."""
    pooled = [vector for _, vector in rows if vector is not None]
    return Conditioning(paddle.stack([text for text, _ in rows]), paddle.stack(pooled) if pooled else None)


def join(conditions: Sequence[Conditioning]) -> Conditioning | None:
    """Batches behind each other, for one call of the UNet; None where their texts differ in length."""
    if len({condition.text.shape[1] for condition in conditions}) > 1:
        return None
    pooled = [condition.pooled for condition in conditions if condition.pooled is not None]
    return Conditioning(paddle.concat([c.text for c in conditions]), paddle.concat(pooled) if pooled else None)


def encode(encoders: TextEncoders, texts: Sequence[str], settings: PromptSettings = DEFAULT) -> Conditioning:
    """Texts with weights, without schedules or AND, as (B, L, D); shorter texts get empty chunks."""
    return Encoding(encoders, settings).batch(texts)


def count_tokens(
    encoders: TextEncoders, text: str, steps: int = 20, settings: PromptSettings = DEFAULT
) -> tuple[int, int]:
    """(tokens, of how many) for the counter beside a prompt: the longest text of its schedule and its AND parts."""
    texts = {said for part, _ in split_and(text) for _, said in schedule(part, steps)}
    counts = [count(list(chunks)) for said in texts for chunks in zip(*encoders.chunks(said, settings), strict=True)]
    return max(counts)
