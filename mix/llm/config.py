"""What a decoder is built from: a frozen config of parts, the same for every family.

`families.py` reads a Hugging Face config.json into one. The config keeps that JSON, and saving writes it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Json = Mapping[str, Any]


@dataclass(frozen=True)
class LinearScaling:
    """All positions divided by `factor` (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Long waves divided by `factor`, short ones kept, those between blended (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class YarnScaling:
    """As Llama3Scaling in its idea, with a temperature on the attention (Peng et al. 2023)."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


Scaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True)
class Rope:
    """Rotary positions over the first `dim` numbers of each head; `interleaved` turns neighbours, else halves."""

    dim: int
    theta: float = 10_000.0
    interleaved: bool = False
    scaling: Scaling | None = None


@dataclass(frozen=True)
class Learned:
    """A table of `size` vectors; position p is row p + `offset`."""

    size: int
    offset: int = 0


@dataclass(frozen=True)
class Alibi:
    """No vectors: scores fall with distance, at a slope of its own for each head (Press et al. 2021)."""


Positions = Rope | Learned | Alibi

# Where the norms and the skip connections are:
#   pre       x + f(norm(x))                    Llama, GPT-2
#   inner     n + f(n), n = norm(x)             Bloom with apply_residual_connection_post_layernorm
#   post      norm(x + f(x))                    OPT 350m
#   sandwich  x + norm(f(norm(x)))              GLM-4
#   parallel  x + attention(n1(x)) + mlp(n2(x)) GPT-NeoX
Residual = Literal["pre", "inner", "post", "sandwich", "parallel"]
# How one matrix holds queries, keys and values: three matrices; q then k then v; (q, k, v) of each head in turn.
Fused = Literal["split", "concat", "per_head"]
Act = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class Names:
    """What the parts are called in the family's checkpoints, dotted; block parts are inside one layer."""

    root: Mapping[str, str]  # embed, positions, embed_norm, project_in, project_out, layers, norm, head
    block: Mapping[str, str]  # attn_norm, q, k, v, qkv, o, q_norm, k_norm, attn_out_norm, mlp_norm, gate, up, down, ...


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """One decoder-only language model.

    `window[i]` is how many keys a query of layer i sees, itself included; None: all before it. `fused_mlp` says that
    one matrix gives gate and up. `source` is the config.json that this was read from.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    norm: Literal["rms", "layer"]
    norm_eps: float
    positions: Positions
    act: Act
    gated: bool
    names: Names = field(repr=False, compare=False)
    source: Json = field(repr=False, compare=False)
    residual: Residual = "pre"
    fused_qkv: Fused = "split"
    fused_mlp: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    norm_affine: bool = True
    qk_norm: bool = False
    embed_norm: bool = False
    final_norm: bool = True
    embed_dim: int | None = None  # OPT 350m: token vectors are narrower than the model
    conv1d: bool = False  # GPT-2 stores matrices as (in, out)
    tied: bool = True
    window: tuple[int | None, ...] = ()
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim")
        for name in (*sizes, "intermediate_size", "max_position_embeddings"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{self.model_type} config: {name} is {value!r}; it must be a whole number from 1 up")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.model_type} config: {self.num_heads} attention heads cannot share {self.num_kv_heads} key "
                "and value heads; the first must be a multiple of the second"
            )
        if self.fused_qkv == "per_head" and self.num_heads != self.num_kv_heads:
            raise ValueError(f"{self.model_type} config: its fused matrix holds q, k and v of each head, so no GQA")
        if isinstance(self.positions, Rope) and (self.positions.dim % 2 or not 0 < self.positions.dim <= self.head_dim):
            raise ValueError(
                f"{self.model_type} config: rotary positions over {self.positions.dim} of {self.head_dim} numbers of a "
                "head; it must be an even part of the head"
            )
        if not self.window:
            object.__setattr__(self, "window", (None,) * self.num_layers)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a text, as the config gives them: none, one or several."""
        return as_ids(self.source.get("eos_token_id"))

    @property
    def pad_token_id(self) -> int | None:
        value = self.source.get("pad_token_id")
        return value if isinstance(value, int) and value >= 0 else None

    def to_dict(self) -> dict[str, Any]:
        """The config.json that was read, unchanged."""
        return dict(self.source)

    @classmethod
    def from_dict(cls, config: Json) -> "DecoderConfig":
        """The config in a Hugging Face config.json; ValueError names what is not supported."""
        from mix.llm.families import read_config

        return read_config(config)


def as_ids(value: Any) -> tuple[int, ...]:
    """None, one id or a list of ids -> ids."""
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(value),)
