"""CLIP's text encoders: OpenAI's ViT-L, OpenCLIP's ViT-H and bigG. (B, L) token ids to (B, L, D) features.

The encoder layers know nothing about text: a picture tower can be made of them with `causal=False`.
"""

from typing import Any, ClassVar

import paddle
from paddle import Tensor, nn

import kernels
from ppdiffusers.models.config import CLIPTextConfig
from ppdiffusers.models.layers import LayerNorm, Linear, plus
from ppdiffusers.models.outputs import CLIPTextOutput, CLIPTextProjectionOutput
from ppdiffusers.models.pretrained import Pretrained


class CLIPAttention(nn.Layer):
    """Multi-head self-attention of x (B, L, D), plus `residual`; `mask` (B, 1, 1, L) is True where a key counts."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor, residual: Tensor, mask: Tensor | None = None) -> Tensor:
        shape = [*x.shape[:2], self.heads, x.shape[2] // self.heads]
        q, k, v = (project(x).reshape(shape) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(kernels.attention(q, k, v, mask=mask, causal=self.causal).flatten(2), residual=residual)


class CLIPMLP(nn.Layer):
    """Wider and back, plus `residual`."""

    def __init__(self, width: int, inner: int, act: str) -> None:
        super().__init__()
        self.act = act
        self.fc1 = Linear(width, inner)
        self.fc2 = Linear(inner, width)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.fc2(self.fc1(x, act=self.act), residual=residual)


class CLIPEncoderLayer(nn.Layer):
    """Attention and MLP, a layer norm before and a residual around each; `config` is CLIP's for text or pictures."""

    def __init__(self, config: Any, causal: bool) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = LayerNorm(width, eps)
        self.self_attn = CLIPAttention(width, config.num_attention_heads, causal)
        self.layer_norm2 = LayerNorm(width, eps)
        self.mlp = CLIPMLP(width, config.intermediate_size, config.hidden_act)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.self_attn(self.layer_norm1(x), residual=x, mask=mask)
        return self.mlp(self.layer_norm2(x), residual=x)


class CLIPEncoder(nn.Layer):
    """The layers, keeping what goes into the first and comes out of each."""

    def __init__(self, config: Any, causal: bool) -> None:
        super().__init__()
        self.layers = nn.LayerList([CLIPEncoderLayer(config, causal) for _ in range(config.num_hidden_layers)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return tuple(states)


class CLIPTextEmbeddings(nn.Layer):
    """A vector for each token and each position."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        length, most = tokens.shape[1], self.position_embedding.weight.shape[0]
        if length > most:
            raise ValueError(f"{length} tokens are too many for this text encoder, it takes {most}; split the prompt")
        return plus(tokens, self.position_embedding.weight[:length])


class CLIPTextTransformer(nn.Layer):
    """Embeddings, causal layers, final norm."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.embeddings = CLIPTextEmbeddings(config)
        self.encoder = CLIPEncoder(config, causal=True)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)


class CLIPTextModel(Pretrained):
    """Text features for the UNet's attention.

    For clip skip n take `hidden_states[-n]`, through `final_layer_norm` where the family wants it (SD 1 and 2, not XL).
    """

    CONFIG: ClassVar[type[CLIPTextConfig]] = CLIPTextConfig
    WEIGHTS_NAME: ClassVar[str] = "model"
    ALIASES: ClassVar[tuple[tuple[str, str], ...]] = (("text_model.", ""),)
    HARMLESS: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"text_projection\.weight", "projection, not asked for"),
        (r"(.*\.)?position_ids", "positions, they only count"),
        (r"(vision_model|visual_projection)\..*|logit_scale", "CLIP's eye and its training"),
    )
    config: CLIPTextConfig

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.text_model = CLIPTextTransformer(config)

    @property
    def final_layer_norm(self) -> LayerNorm:
        return self.text_model.final_layer_norm

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, D) token vectors, without positions: what textual inversion replaces rows of."""
        return self.text_model.embeddings.token_embedding(input_ids)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> CLIPTextOutput | tuple[Any, ...]:
        """Features of (B, L) token ids.

        attention_mask (B, L) is 1 where a token counts. inputs_embeds (B, L, D) stands for the token vectors, for
        textual inversion; `input_ids` then still says where the end token is. The hidden states are the L + 1 tensors
        before the final norm.
        """
        out = self.encode(input_ids, attention_mask, inputs_embeds)
        kept = out if output_hidden_states else CLIPTextOutput(out.last_hidden_state, out.pooler_output)
        return kept if return_dict else kept.to_tuple()

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None, inputs_embeds: Tensor | None) -> CLIPTextOutput:
        """Everything there is to know about the tokens."""
        tokens = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds.astype(self.dtype)
        mask = None if attention_mask is None else attention_mask.astype("bool").unsqueeze([1, 2])
        states = self.text_model.encoder(self.text_model.embeddings(tokens), mask)
        last = self.final_layer_norm(states[-1])
        ends = paddle.arange(last.shape[0]) * last.shape[1] + self.end_positions(input_ids)
        return CLIPTextOutput(last, paddle.index_select(last.flatten(0, 1), ends), states)

    def end_positions(self, input_ids: Tensor) -> Tensor:
        """(B,): where each prompt's end token is; end token 2 means the largest id, see `CLIPTextConfig`."""
        end = self.config.eos_token_id
        return (input_ids if end == 2 else (input_ids == end).astype("int32")).argmax(axis=-1)

    def config_dict(self) -> dict[str, Any]:
        return {"architectures": [type(self).__name__]} | self.config.to_dict()


class CLIPTextModelWithProjection(CLIPTextModel):
    """As `CLIPTextModel`, and the pooled features projected: what XL calls the pooled text."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.text_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> CLIPTextProjectionOutput | tuple[Any, ...]:
        """As `CLIPTextModel`; the result's first field is `text_embeds` (B, P)."""
        out = self.encode(input_ids, attention_mask, inputs_embeds)
        states = out.hidden_states if output_hidden_states else None
        embeds = self.text_projection(out.pooler_output)
        projected = CLIPTextProjectionOutput(embeds, out.last_hidden_state, states, out.pooler_output)
        return projected if return_dict else projected.to_tuple()
