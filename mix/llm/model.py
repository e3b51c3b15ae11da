"""A decoder-only language model, built from the parts that its config names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import paddle
from paddle import Tensor, nn

import kernels
from mix.llm.cache import CacheLayout, KVCache
from mix.llm.config import DecoderConfig, Learned, Rope
from mix.llm.context import Batch, Context, Pack
from mix.llm.fused import Fused, fuse
from mix.llm.generate import Generating
from mix.llm.layers import Block, Parts, TiedHead, make_linear, make_norm
from mix.llm.names import spell_for
from mix.llm.positions import Angles
from mix.llm.quantized import QuantizedEmbedding, refuse_saving
from ppdiffusers.models.layers import Linear, pack, plus
from ppdiffusers.models.pretrained import Pretrained
from ppdiffusers.weights.dtype import paddle_name
from ppdiffusers.weights.entries import entries_of
from ppdiffusers.weights.write import write_tensors, write_text

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class CausalOutput:
    """Scores of the next token (B, L, V); the mean loss where labels were given; the states before each layer and
    after the last norm where asked for."""

    logits: Tensor
    loss: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class CausalLM(Generating, Parts, Pretrained):
    """A language model under its checkpoint's names. Build with `from_config`, load with `AutoModelForCausalLM`."""

    CONFIG: ClassVar[Any] = DecoderConfig
    WEIGHTS_NAME: ClassVar[str] = "model"
    config: DecoderConfig

    @classmethod
    def empty(cls, config: Any) -> "Self":
        """A model without memory for its weights, for loaders."""
        return super().empty(config)

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.name_parts(config.names.root)
        width = config.embed_dim or config.hidden_size
        self.put("embed", nn.Embedding(config.vocab_size, width))
        if isinstance(config.positions, Learned):
            rows = config.positions.size + config.positions.offset
            self.put("positions", nn.Embedding(rows, config.hidden_size))
        if config.embed_norm:
            self.put("embed_norm", make_norm(config))
        if width != config.hidden_size:
            self.put("project_in", Linear(width, config.hidden_size, bias=False))
            self.put("project_out", Linear(config.hidden_size, width, bias=False))
        self.put("layers", nn.LayerList([Block(config, i) for i in range(config.num_layers)]))
        if config.final_norm:
            self.put("norm", make_norm(config))
        head = TiedHead(self.part("embed")) if config.tied else make_linear(config, width, config.vocab_size, False)
        self.put("head", head)
        self._angles = Angles(config.positions) if isinstance(config.positions, Rope) else None
        self._fused: Fused | str | None = None

    @classmethod
    def from_config(cls, config: DecoderConfig | Mapping[str, Any]) -> "Self":
        """A model with random weights: matrices and tables normal with the config's `initializer_range`, biases 0."""
        made = cls(config if isinstance(config, DecoderConfig) else DecoderConfig.from_dict(config))
        spread = nn.initializer.Normal(0.0, made.config.initializer_range)
        for layer in made.sublayers():
            if isinstance(layer, Linear | nn.Embedding) and not isinstance(layer, TiedHead):
                spread(cast(Any, layer.weight))
        return made

    # --- what other parts ask about the model ---

    @property
    def cache_layout(self) -> CacheLayout:
        """What this model keeps of each token: for caches, paged caches and learned prefixes."""
        c = self.config
        return CacheLayout(c.num_layers, c.num_kv_heads, c.head_dim, paddle_name(self.dtype))

    @property
    def dtype(self) -> paddle.dtype:
        """Of what goes through the layers, whatever the weights are stored as."""
        embed = self.part("embed")
        return getattr(paddle, embed.numbers) if isinstance(embed, QuantizedEmbedding) else embed.weight.dtype

    def fused(self) -> Fused | str:
        """The layers as one op for tokens over a cache, or why that is not possible: a sentence."""
        if isinstance(self._fused, Fused) and not self._fused.fits():
            self._fused = None
        if self._fused is None or isinstance(self._fused, str):
            self._fused = fuse(self.config, self.blocks)
        return self._fused

    @property
    def blocks(self) -> Sequence[Block]:
        return cast(Sequence[Block], self.part("layers"))

    def new_cache(self, rows: int, room: int = 64) -> KVCache:
        """An empty cache for that many texts."""
        return KVCache(self.cache_layout, rows, room)

    # --- forward ---

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        cu_seqlens: Sequence[int] | Tensor | None = None,
        context: Context | None = None,
        keep: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> CausalOutput:
        """Scores of the next token after each of the tokens (B, L).

        attention_mask (B, L) is 1 where a token counts. cu_seqlens are the boundaries of texts packed into one row
        (1, T). `context` stands for all of these when there is a cache, see `KVCache.step`. inputs_embeds (B, L, C)
        stands for the token vectors. labels (B, L), -100 where nothing is to be learned, give the loss of each next
        token. `keep` (N,) says for which of the B L tokens, in order, scores are wanted: logits are then (1, N, V).
        """
        h = self.embed(input_ids, inputs_embeds)
        if context is None:
            context = make_context(h, attention_mask, position_ids, cu_seqlens)
        h, states = self.trunk(h, context, output_hidden_states)
        if keep is not None:
            h = paddle.index_select(h.reshape([1, -1, h.shape[-1]]), keep, axis=1)
        logits = self.head(h)
        loss = None if labels is None else next_token_loss(logits, labels, cu_seqlens)
        return CausalOutput(logits, loss, (*states, h) if output_hidden_states else None)

    def embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None = None) -> Tensor:
        """Token vectors (B, L, C) of ids (B, L)."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of them")
        if inputs_embeds is not None:
            return inputs_embeds.astype(self.dtype)
        ids = cast(Tensor, input_ids)
        if ids.ndim != 2 or not ids.size:
            raise ValueError(f"input_ids must be (batch, tokens) with at least one token; got {tuple(ids.shape)}")
        plain = ids.numpy()
        low, high = int(plain.min()), int(plain.max())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(
                f"token ids go from {low} to {high}, this model knows 0 to {self.config.vocab_size - 1}; "
                "is the tokenizer another model's?"
            )
        return self.part("embed")(ids)

    def trunk(self, h: Tensor, context: Context, wants_states: bool = True) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All layers: (what the head reads, the states before each layer if they are wanted)."""
        c = self.config
        if isinstance(c.positions, Learned) and context.longest > c.positions.size:
            raise ValueError(
                f"{context.longest} tokens are too many, this model has {c.positions.size} positions; shorten the text"
            )
        if c.embed_dim:
            h = self.part("project_in")(h)
        if isinstance(c.positions, Learned):
            h = plus(h, self.part("positions")(context.positions + c.positions.offset))
        if c.embed_norm:
            h = self.part("embed_norm")(h)
        angles = self._angles.at(context.positions, context.longest) if self._angles else None
        h, states = self._layers(h, context, angles, wants_states)
        return (self.part("norm")(h) if c.final_norm else h), states

    def _layers(
        self, h: Tensor, context: Context, angles: tuple[Tensor, Tensor] | None, wants_states: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        one_op = not wants_states and not paddle.is_grad_enabled() and angles is not None
        pages = getattr(context, "pages", None) if one_op else None
        if pages is not None and isinstance(fused := self.fused(), Fused):
            return fused.run(h, pages, cast(Any, angles)), ()
        states: list[Tensor] = []
        for block in self.blocks:
            states.append(h)
            h = block(h, context, angles)
        return h, tuple(states)

    def head(self, h: Tensor) -> Tensor:
        """(B, L, C) -> scores (B, L, V)."""
        return self.part("head")(self.part("project_out")(h) if self.config.embed_dim else h)

    # --- files ---

    @classmethod
    def from_pretrained(cls, path: str | Path, dtype: str | None = None, **how: Any) -> "CausalLM":  # type: ignore[override]
        """See `AutoModelForCausalLM.from_pretrained`."""
        from mix.llm.loading import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(path, dtype, **how)

    def save_pretrained(self, folder: str | Path, variant: str | None = None, dtype: str | None = None) -> None:
        """Write config.json and safetensors as transformers reads them: the same names, the same bits, fused ones kept.

        `dtype` casts the weights on the way. Raises ValueError when a weight is not finite or quantised, or the disk is
        full.
        """
        refuse_saving(self)
        folder, name = Path(folder), f"model.{variant}" if variant else "model"
        write_tensors(folder / f"{name}.safetensors", entries_of(self, spell_for(self, self.config), dtype), {})
        config = self.config.to_dict() | {"torch_dtype": dtype or paddle_name(self.dtype)}
        write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")

    def pack(self) -> None:
        """Keep every matrix only in the layout of the fast kernels: for inference."""
        pack(self)


def make_context(
    h: Tensor, mask: Tensor | None, positions: Tensor | None, ends: Sequence[int] | Tensor | None
) -> Context:
    """The context of texts without a cache: a batch, or one pack."""
    batch, length = h.shape[:2]
    if ends is None:
        if mask is not None and list(mask.shape) != [batch, length]:
            raise ValueError(f"attention_mask is {tuple(mask.shape)}, the tokens are {(batch, length)}")
        return Batch(mask, batch, length, positions)
    if mask is not None:
        raise ValueError("give attention_mask or cu_seqlens, not both: a pack has no padding")
    pack = Pack(as_list(ends), positions)
    if batch != 1 or pack.ends[-1] != length:
        raise ValueError(f"cu_seqlens ends at {pack.ends[-1]}, the tokens are {(batch, length)}; a pack is (1, T)")
    return pack


def as_list(ends: Sequence[int] | Tensor) -> list[int]:
    """Boundaries of a pack as Python numbers."""
    return [int(end) for end in (cast(Any, ends.tolist()) if isinstance(ends, Tensor) else ends)]


def next_token_loss(logits: Tensor, labels: Tensor, ends: Sequence[int] | Tensor | None = None) -> Tensor:
    """Mean cross entropy of each token's successor; the last token of a text, packed or not, has none."""
    ahead = paddle.concat([labels[:, 1:], paddle.full_like(labels[:, :1], -100)], axis=1)
    if ends is not None:
        last = [end - 1 for end in as_list(ends)[1:]]
        ahead[:, paddle.to_tensor(last)] = -100
    return kernels.cross_entropy(logits, ahead)
