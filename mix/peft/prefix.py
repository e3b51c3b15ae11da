"""A learned prefix: keys and values that every text sees before itself, in every layer.

The model says what it keeps of a token (`cache_layout`), so one prefix fits every family: without a cache it is a
`Context` that puts it before the keys of a batch or of each text of a pack, with a cache it is the cache's beginning.
B batch, L tokens, P virtual tokens, N layers, G key/value heads, D numbers a head.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import paddle
from paddle import Tensor, nn

import kernels
from mix.llm.cache import CacheLayout, KVCache
from mix.llm.context import Batch, Context, Heads, Pack, bias_of, text_attention
from mix.llm.generate import Generating
from mix.llm.model import CausalLM, CausalOutput, make_context
from mix.peft import files
from mix.peft.config import PrefixConfig
from mix.peft.paths import parameter
from ppdiffusers.models.layers import Linear
from ppdiffusers.training.draws import Draws

Pair = tuple[Tensor, Tensor]  # a layer's keys and values (P, G, D)


class PrefixEncoder(nn.Layer):
    """The table of a prefix, (P, 2 N G D) with a key and a value a layer, or the small network that makes it."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        width = cast(int, config.token_dim)
        out, draws = 2 * cast(int, config.num_layers) * width, Draws(config.seed)
        first = width if config.prefix_projection else out
        noise = draws.generator("prefix").standard_normal((config.num_virtual_tokens, first))
        zero = config.init_weights == "zero"
        self.embedding = nn.Layer()
        self.embedding.weight = parameter(noise * (0.0 if zero and not config.prefix_projection else 1.0))
        self.transform: nn.LayerList | None = None
        if config.prefix_projection:
            hidden = config.encoder_hidden_size or width
            layers = [Linear(width, hidden), Linear(hidden, out)]
            for i, layer in enumerate(layers):
                leaves: tuple[Any, ...] = (layer.weight, layer.bias)
                bound = leaves[0].shape[0] ** -0.5 * (0.0 if zero and i else 1.0)
                for leaf in leaves:
                    drawn = draws.generator("prefix", i, leaf.ndim).uniform(-bound, bound, leaf.shape)
                    leaf.set_value(drawn.astype(np.float32))
            self.transform = nn.LayerList(layers)

    def forward(self) -> Tensor:
        """(P, 2 N G D)."""
        table = cast(Tensor, self.embedding.weight)
        if self.transform is None:
            return table
        first, last = self.transform
        return last(paddle.tanh(first(table)))


class Prefixed:
    """What the layers see of a batch or a pack with the prefix before every text: a `Context`. Differentiates."""

    pages = None

    def __init__(self, inner: Batch | Pack, pairs: Sequence[Pair]) -> None:
        self.inner, self.pairs = inner, pairs
        self.count = pairs[0][0].shape[0]
        self.positions = inner.positions + self.count
        self.longest = inner.longest + self.count
        if isinstance(inner, Pack):
            sizes = np.diff(inner.ends)
            self.ends = np.concatenate([[0], np.cumsum(sizes + self.count)])
            self._boundaries = paddle.to_tensor(self.ends, dtype="int32")
            # Rows of [prefix, tokens]: the prefix, then a text; again for each text.
            rows = [
                np.concatenate([np.arange(self.count), self.count + np.arange(a, b)])
                for a, b in zip(inner.ends[:-1], inner.ends[1:], strict=True)
            ]
            self._rows = paddle.to_tensor(np.concatenate(rows))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        keys, values = (t.astype(k.dtype) for t in self.pairs[layer])
        if isinstance(self.inner, Pack):
            return self._pack(self.inner, q, self._spread(keys, k), self._spread(values, v), heads)
        batch = k.shape[0]
        k, v = (
            paddle.concat([t.unsqueeze(0).expand([batch, *t.shape]), own], axis=1)
            for t, own in ((keys, k), (values, v))
        )
        return self._batch(self.inner, q, k, v, heads)

    def _spread(self, prefix: Tensor, own: Tensor) -> Tensor:
        """(1, S, G, D): the prefix before each text of the pack."""
        return paddle.index_select(paddle.concat([prefix, own.squeeze(0)], axis=0), self._rows, axis=0).unsqueeze(0)

    def _pack(self, inner: Pack, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        if heads.plain(inner.most + self.count):
            q, k, v = q.squeeze(0), k.squeeze(0), v.squeeze(0)
            cu_q, cu_k = inner.boundaries, self._boundaries
            return kernels.attention_varlen(q, k, v, cu_q, cu_k, causal=True, scale=heads.scale).unsqueeze(0)
        spans = zip(inner.ends[:-1], inner.ends[1:], self.ends[:-1], self.ends[1:], strict=True)
        parts = [text_attention(q[:, a:b], k[:, int(c) : int(d)], v[:, int(c) : int(d)], heads) for a, b, c, d in spans]
        return paddle.concat(parts, axis=1)

    def _batch(self, inner: Batch, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        mask = None
        if inner.mask is not None:
            seen = paddle.ones([q.shape[0], self.count], "bool")
            mask = paddle.concat([seen, inner.mask], axis=1).unsqueeze([1, 2])
        if heads.plain(k.shape[1]):
            return kernels.attention(q, k, v, mask=mask, causal=True, scale=heads.scale)
        at = paddle.arange(k.shape[1]).unsqueeze(0)
        bias = bias_of(heads, at[:, self.count :], at)
        if mask is not None:
            bias = paddle.where(mask, bias, paddle.full([], -np.inf))
        return kernels.attention(q, k, v, mask=bias, scale=heads.scale)


class PrefixModelForCausalLM(Generating, nn.Layer):
    """A `CausalLM` with a learned prefix; the model itself is frozen and stays as it is."""

    base_model: CausalLM

    def __init__(self, model: CausalLM, config: PrefixConfig) -> None:
        super().__init__()
        self.base_model = model
        self.prefix_config = resolve(config, model.cache_layout)
        for parameter_ in model.parameters():
            parameter_.stop_gradient = True
        self.prompt_encoder = PrefixEncoder(self.prefix_config)
        self.generation_config = model.generation_config
        if config.init_tokens is not None:
            self._begin_as(config.init_tokens)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)

    @paddle.no_grad()
    def _begin_as(self, tokens: Sequence[int]) -> None:
        """The table becomes what the model keeps of these tokens."""
        count = self.prefix_config.num_virtual_tokens
        ids = [int(tokens[i % len(tokens)]) for i in range(count)]
        cache = self.base_model.new_cache(1, count)
        step = cache.step([count])
        self.base_model(paddle.to_tensor([ids] if not step.single else [[ids[0]]]), context=step)
        step.commit()
        sides = [t.astype("float32").reshape([count, 1, -1]) for pair in cache.take(0, count) for t in pair]
        cast(Tensor, self.prompt_encoder.embedding.weight).set_value(paddle.concat(sides, axis=1).flatten(1))

    # --- what stands for the model ---

    def pairs(self) -> list[Pair]:
        """Keys and values (P, G, D) of the prefix, layer by layer."""
        c = self.prefix_config
        heads, width = cast(int, c.num_attention_heads), cast(int, c.token_dim)
        table = self.prompt_encoder().reshape([c.num_virtual_tokens, -1, heads, width // heads])
        sides = table.unbind(1)
        return list(zip(sides[::2], sides[1::2], strict=True))

    def context(self, inner: Context) -> Prefixed:
        """The same texts with the prefix before each."""
        return Prefixed(cast(Batch | Pack, inner), self.pairs())

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
        **how: Any,
    ) -> CausalOutput:
        """As the model inside; a given `context` is of a cache of `new_cache`, which begins with the prefix."""
        if context is None:
            like = cast(Tensor, input_ids if inputs_embeds is None else inputs_embeds)
            context = self.context(make_context(like, attention_mask, position_ids, cu_seqlens))
        how |= {"labels": labels, "inputs_embeds": inputs_embeds, "cu_seqlens": cu_seqlens}
        return self.base_model(input_ids, context=context, **how)

    @paddle.no_grad()
    def new_cache(self, rows: int, room: int = 64) -> KVCache:
        """A cache whose rows begin with the prefix."""
        cache = self.base_model.new_cache(rows, room + self.prefix_config.num_virtual_tokens)
        dtype = cache.keys[0].dtype
        kept = [(k.unsqueeze(0).astype(dtype), v.unsqueeze(0).astype(dtype)) for k, v in self.pairs()]
        for row in range(rows):
            cache.put(row, kept)
        return cache

    def stream(self, *inputs: Any, prefix_cache: Any = None, **how: Any) -> Any:
        """See `CausalLM.stream`; computed prompts can't be kept, for they would lie where the prefix is."""
        return super().stream(*inputs, prefix_cache=_none(prefix_cache), **how)

    def generate(self, *inputs: Any, prefix_cache: Any = None, **how: Any) -> Any:
        """See `CausalLM.generate`."""
        return super().generate(*inputs, prefix_cache=_none(prefix_cache), **how)

    # --- training ---

    def trainable_parameters(self) -> dict[str, Tensor]:
        """What is trained: the table, or the network that makes it."""
        return {f"prompt_encoder.{name}": value for name, value in self.prompt_encoder.named_parameters()}

    def rate_factors(self) -> dict[str, float]:
        return {}

    def start_batch(self, number: int) -> None:
        """A prefix draws nothing."""

    # --- files ---

    def save_pretrained(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write adapter_config.json and adapter_model.safetensors as PEFT reads them: what a projection makes."""
        with paddle.no_grad():
            table = self.prompt_encoder()
        files.write(
            Path(folder), self.prefix_config.to_dict(), {"prompt_embeddings": table}, set(), dtype, self.base_model
        )

    @classmethod
    def from_pretrained(cls, model: CausalLM, folder: str | Path) -> "PrefixModelForCausalLM":
        """The model with the prefix in a PEFT folder. ValueError where it is another model's."""
        made = cls(model, PrefixConfig.from_dict(files.read_config(folder)))
        files.fill(Path(folder), {"prompt_embeddings": cast(Tensor, made.prompt_encoder.embedding.weight)}, set())
        return made


def _none(prefix_cache: Any) -> None:
    if prefix_cache is not None:
        raise ValueError("a model with a learned prefix takes no prefix_cache")


def resolve(config: PrefixConfig, layout: CacheLayout) -> PrefixConfig:
    """The config with the model's sizes; ValueError where it names others."""
    ours = {
        "token_dim": layout.kv_heads * layout.head_dim,
        "num_attention_heads": layout.kv_heads,
        "num_layers": layout.layers,
    }
    for name, value in ours.items():
        if (asked := getattr(config, name)) not in (None, value):
            raise ValueError(f"this prefix is for a model with {name} {asked}, this one has {value}")
    return dataclasses.replace(config, **ours)
