"""The families of models: how a Hugging Face config.json of each becomes a `DecoderConfig`.

Read from transformers' documentation of each config, and for ChatGLM from its published config.json; what a family can
ask for beyond this is refused by name.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mix.llm.config import (
    Act,
    Alibi,
    DecoderConfig,
    Json,
    Learned,
    LinearScaling,
    Llama3Scaling,
    Names,
    Rope,
    Scaling,
    YarnScaling,
)
from mix.llm.fields import Fields

ACTS: Mapping[str, Act] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}

# --- names ------------------------------------------------------------------------------------------------------------

_LLAMA_ROOT = {"embed": "model.embed_tokens", "layers": "model.layers", "norm": "model.norm", "head": "lm_head"}
_LLAMA_BLOCK = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
LLAMA = Names(_LLAMA_ROOT, _LLAMA_BLOCK)
GLM = Names(
    _LLAMA_ROOT,
    _LLAMA_BLOCK
    | {
        "gate_up": "mlp.gate_up_proj",
        "attn_out_norm": "post_self_attn_layernorm",
        "mlp_out_norm": "post_mlp_layernorm",
    },
)
_MEGATRON_BLOCK = {
    "attn_norm": "input_layernorm",
    "qkv": "self_attention.query_key_value",
    "o": "self_attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "up": "mlp.dense_h_to_4h",
    "gate_up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}
BLOOM = Names(
    {
        "embed": "transformer.word_embeddings",
        "embed_norm": "transformer.word_embeddings_layernorm",
        "layers": "transformer.h",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    _MEGATRON_BLOCK,
)
CHATGLM = Names(
    {
        "embed": "transformer.embedding.word_embeddings",
        "layers": "transformer.encoder.layers",
        "norm": "transformer.encoder.final_layernorm",
        "head": "transformer.output_layer",
    },
    _MEGATRON_BLOCK,
)
NEOX = Names(
    {
        "embed": "gpt_neox.embed_in",
        "layers": "gpt_neox.layers",
        "norm": "gpt_neox.final_layer_norm",
        "head": "embed_out",
    },
    _MEGATRON_BLOCK | {"qkv": "attention.query_key_value", "o": "attention.dense"},
)
GPT2 = Names(
    {
        "embed": "transformer.wte",
        "positions": "transformer.wpe",
        "layers": "transformer.h",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    {
        "attn_norm": "ln_1",
        "qkv": "attn.c_attn",
        "o": "attn.c_proj",
        "mlp_norm": "ln_2",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    },
)
OPT = Names(
    {
        "embed": "model.decoder.embed_tokens",
        "positions": "model.decoder.embed_positions",
        "project_in": "model.decoder.project_in",
        "project_out": "model.decoder.project_out",
        "layers": "model.decoder.layers",
        "norm": "model.decoder.final_layer_norm",
        "head": "lm_head",
    },
    {
        "attn_norm": "self_attn_layer_norm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.out_proj",
        "mlp_norm": "final_layer_norm",
        "up": "fc1",
        "down": "fc2",
    },
)

# --- pieces that several families share -------------------------------------------------------------------------------


def act_of(fields: Fields, name: str, default: str) -> Act:
    asked = fields.get(name, default=default)
    if asked not in ACTS:
        raise ValueError(f"{fields.family} with {name}={asked!r} is not supported; there are {', '.join(ACTS)}")
    return ACTS[asked]


def rope_of(fields: Fields, head_dim: int, theta: float, part: float = 1.0, interleaved: bool = False) -> Rope:
    """Rotary positions from `rope_theta` and `rope_scaling`, or from transformers 5's `rope_parameters`."""
    old = fields.get("rope_scaling", default={})
    rope = dict(fields.get("rope_parameters", default=old))
    theta = fields.number("rope_theta", default=theta)
    part = fields.number("partial_rotary_factor", default=part)
    theta, part = rope.pop("rope_theta", theta), rope.pop("partial_rotary_factor", part)
    most = fields.number("max_position_embeddings", default=2048)
    return Rope(int(head_dim * part), float(theta), interleaved, scaling_of(fields.family, rope, most))


_SCALINGS: Mapping[str, Callable[..., Scaling]] = {
    "linear": LinearScaling,
    "llama3": Llama3Scaling,
    "yarn": YarnScaling,
}


def scaling_of(family: str, rope: dict[str, Any], most: int) -> Scaling | None:
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    if kind == "default":
        return None
    if kind not in _SCALINGS:
        raise ValueError(
            f"{family} with rope scaling {kind!r} is not supported; there are default, linear, llama3, yarn"
        )
    if kind == "yarn":
        rope.setdefault("original_max_position_embeddings", most)
    try:
        return _SCALINGS[kind](**rope)
    except TypeError as error:
        raise ValueError(f"{family} has a rope scaling {kind!r} with the wrong settings ({error})") from None


def windows_of(fields: Fields, layers: int, first: int = 0) -> tuple[int | None, ...]:
    """The sliding window of each layer, by `layer_types` where given, else from layer `first` on."""
    window = fields.number("sliding_window", default=None)
    kinds = fields.get("layer_types", default=None)
    if kinds is None:
        return tuple(window if i >= first else None for i in range(layers))
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown or len(kinds) != layers:
        raise ValueError(
            f"{fields.family} with layer_types {sorted(set(kinds))} ({len(kinds)} for {layers} layers) is not "
            "supported; each layer must be full_attention or sliding_attention"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def llama_like(fields: Fields, *, theta: float = 10_000.0, **own: Any) -> DecoderConfig:
    """The parts that Llama, Qwen, Mistral, GLM and ERNIE share; `own` is what differs."""
    heads, width = fields.number("num_attention_heads"), fields.number("hidden_size")
    layers = fields.number("num_hidden_layers")
    head_dim = fields.number("head_dim", default=width // heads)
    rope = rope_of(fields, head_dim, theta, own.pop("part", 1.0), own.pop("interleaved", False))
    tied = bool(fields.get("tie_word_embeddings", default=own.pop("tied", False)))
    shared: dict[str, Any] = {
        "model_type": fields.family,
        "vocab_size": fields.number("vocab_size"),
        "hidden_size": width,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": fields.number("num_key_value_heads", default=heads),
        "head_dim": head_dim,
        "intermediate_size": fields.number("intermediate_size"),
        "max_position_embeddings": fields.number("max_position_embeddings", default=2048),
        "norm": "rms",
        "norm_eps": fields.number("rms_norm_eps", default=1e-6),
        "positions": rope,
        "act": fields.only("hidden_act", "silu", "swish") and "silu",
        "gated": True,
        "tied": tied,
        "names": LLAMA,
        "source": fields.config,
    }
    return DecoderConfig(**(shared | own))


# --- families ---------------------------------------------------------------------------------------------------------


def llama(fields: Fields) -> DecoderConfig:
    fields.only("rope_interleaved", False)
    bias = bool(fields.get("attention_bias", default=False))
    return llama_like(fields, qkv_bias=bias, out_bias=bias, mlp_bias=bool(fields.get("mlp_bias", default=False)))


def mistral(fields: Fields) -> DecoderConfig:
    return llama_like(fields, window=windows_of(fields, fields.number("num_hidden_layers")))


def qwen_windows(fields: Fields) -> tuple[int | None, ...]:
    """Qwen names a window that only counts with `use_sliding_window`."""
    layers = fields.number("num_hidden_layers")
    windows = windows_of(fields, layers, fields.number("max_window_layers", default=28))
    return windows if fields.get("use_sliding_window", default=False) else (None,) * layers


def qwen2(fields: Fields) -> DecoderConfig:
    return llama_like(fields, qkv_bias=True, window=qwen_windows(fields))


def qwen3(fields: Fields) -> DecoderConfig:
    bias = bool(fields.get("attention_bias", default=False))
    return llama_like(fields, qkv_bias=bias, out_bias=bias, qk_norm=True, window=qwen_windows(fields))


def ernie45(fields: Fields) -> DecoderConfig:
    bias = bool(fields.get("use_bias", default=False))
    return llama_like(fields, theta=500_000.0, interleaved=True, tied=True, qkv_bias=bias, out_bias=bias, mlp_bias=bias)


def glm(fields: Fields, **own: Any) -> DecoderConfig:
    """GLM-4 as transformers stores it; the same network as ChatGLM2, q, k and v apart."""
    bias = bool(fields.get("attention_bias", default=True))
    return llama_like(fields, part=0.5, interleaved=True, qkv_bias=bias, fused_mlp=True, names=GLM, **own)


def glm4(fields: Fields) -> DecoderConfig:
    return glm(fields, residual="sandwich")


def chatglm(fields: Fields) -> DecoderConfig:
    """ChatGLM2, ChatGLM3 and GLM-4 as THUDM published them."""
    for name, needed in (("rmsnorm", True), ("post_layer_norm", True), ("original_rope", True)):
        fields.only(name, needed)
    fields.only("apply_residual_connection_post_layernorm", False)
    heads, channels = fields.number("num_attention_heads"), fields.number("kv_channels")
    grouped = fields.get("multi_query_attention", default=False)
    groups = fields.number("multi_query_group_num", default=1)
    bias = bool(fields.get("add_bias_linear", default=False))
    fields.get("vocab_size", default=None)
    return DecoderConfig(
        model_type=fields.family,
        vocab_size=fields.number("padded_vocab_size"),
        hidden_size=fields.number("hidden_size"),
        num_layers=fields.number("num_layers"),
        num_heads=heads,
        num_kv_heads=groups if grouped else heads,
        head_dim=channels,
        intermediate_size=fields.number("ffn_hidden_size"),
        max_position_embeddings=fields.number("seq_length"),
        norm="rms",
        norm_eps=fields.number("layernorm_epsilon", default=1e-5),
        positions=Rope(channels // 2, 10_000.0 * fields.number("rope_ratio", default=1.0), interleaved=True),
        act="silu",
        gated=True,
        fused_qkv="concat",
        fused_mlp=True,
        qkv_bias=bias or bool(fields.get("add_qkv_bias", default=False)),
        out_bias=bias,
        mlp_bias=bias,
        tied=bool(fields.only("tie_word_embeddings", False)),
        names=CHATGLM,
        source=fields.config,
    )


def bloom(fields: Fields) -> DecoderConfig:
    width, heads = fields.number("hidden_size", "n_embed"), fields.number("n_head", "num_attention_heads")
    inner = bool(fields.get("apply_residual_connection_post_layernorm", default=False))
    return DecoderConfig(
        model_type=fields.family,
        vocab_size=fields.number("vocab_size"),
        hidden_size=width,
        num_layers=fields.number("n_layer", "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        intermediate_size=4 * width,
        # ALiBi has no last position; Bloom was trained on 2,048 tokens and is used far beyond.
        max_position_embeddings=fields.number("seq_length", default=2048),
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon", default=1e-5),
        positions=Alibi(),
        act="gelu_tanh",
        gated=False,
        residual="inner" if inner else "pre",
        fused_qkv="per_head",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        embed_norm=True,
        tied=bool(fields.get("tie_word_embeddings", default=True)),
        names=BLOOM,
        source=fields.config,
    )


def gpt2(fields: Fields) -> DecoderConfig:
    fields.only("scale_attn_weights", True)
    fields.only("scale_attn_by_inverse_layer_idx", False)
    width, heads = fields.number("n_embd", "hidden_size"), fields.number("n_head", "num_attention_heads")
    most = fields.number("n_positions", "max_position_embeddings", default=1024)
    return DecoderConfig(
        model_type=fields.family,
        vocab_size=fields.number("vocab_size"),
        hidden_size=width,
        num_layers=fields.number("n_layer", "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        intermediate_size=fields.number("n_inner", default=4 * width),
        max_position_embeddings=most,
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon", default=1e-5),
        positions=Learned(most),
        act=act_of(fields, "activation_function", "gelu_new"),
        gated=False,
        fused_qkv="concat",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        conv1d=True,
        tied=bool(fields.get("tie_word_embeddings", default=True)),
        names=GPT2,
        source=fields.config,
    )


def opt(fields: Fields) -> DecoderConfig:
    width, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    most, narrow = fields.number("max_position_embeddings"), fields.number("word_embed_proj_dim", default=width)
    before = bool(fields.get("do_layer_norm_before", default=True))
    bias = bool(fields.get("enable_bias", default=True))
    fields.used.add("_remove_final_layer_norm")
    return DecoderConfig(
        model_type=fields.family,
        vocab_size=fields.number("vocab_size"),
        hidden_size=width,
        num_layers=fields.number("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        intermediate_size=fields.number("ffn_dim"),
        max_position_embeddings=most,
        norm="layer",
        norm_eps=1e-5,
        positions=Learned(most, offset=2),
        act=act_of(fields, "activation_function", "relu"),
        gated=False,
        residual="pre" if before else "post",
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        norm_affine=bool(fields.get("layer_norm_elementwise_affine", default=True)),
        final_norm=before and not fields.config.get("_remove_final_layer_norm", False),
        embed_dim=None if narrow == width else narrow,
        tied=bool(fields.get("tie_word_embeddings", default=True)),
        names=OPT,
        source=fields.config,
    )


def gpt_neox(fields: Fields) -> DecoderConfig:
    width, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    theta = fields.number("rotary_emb_base", default=10_000.0)
    part = fields.number("rotary_pct", default=0.25)
    bias = bool(fields.get("attention_bias", default=True))
    return DecoderConfig(
        model_type=fields.family,
        vocab_size=fields.number("vocab_size"),
        hidden_size=width,
        num_layers=fields.number("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        intermediate_size=fields.number("intermediate_size"),
        max_position_embeddings=fields.number("max_position_embeddings", default=2048),
        norm="layer",
        norm_eps=fields.number("layer_norm_eps", default=1e-5),
        positions=rope_of(fields, width // heads, theta, part),
        act=act_of(fields, "hidden_act", "gelu"),
        gated=False,
        residual="parallel" if fields.get("use_parallel_residual", default=True) else "pre",
        fused_qkv="per_head",
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        tied=bool(fields.get("tie_word_embeddings", default=False)),
        names=NEOX,
        source=fields.config,
    )


FAMILIES: Mapping[str, Callable[[Fields], DecoderConfig]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "ernie4_5": ernie45,
    "glm": glm,
    "glm4": glm4,
    "chatglm": chatglm,
    "bloom": bloom,
    "gpt2": gpt2,
    "opt": opt,
    "gpt_neox": gpt_neox,
}


def read_config(config: Json) -> DecoderConfig:
    """A config.json as transformers writes it -> our config; ValueError says what is missing or not supported."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"models of type {family!r} are not supported; there are {', '.join(FAMILIES)}")
    fields = Fields(config, str(family))
    try:
        made = FAMILIES[str(family)](fields)
    except (TypeError, ZeroDivisionError) as error:
        raise ValueError(f"the config.json of this {family} model is damaged: {error}") from None
    fields.done()
    return made
