"""What a GGUF file's architecture means in Hugging Face's words: names, layouts, config.json."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mix.llm.config import Llama3Scaling, Rope
from mix.llm.positions import frequencies

Metadata = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Place:
    """Where one of Hugging Face's tensors is: the file's key, the order of its rows, and whether it lies transposed."""

    key: str
    rows: np.ndarray | None = None
    turned: bool = False


_LLAMA_ROOT = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LLAMA_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GPT2_ROOT = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_GPT2_BLOCK = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


@dataclass(frozen=True)
class Architecture:
    """Names of an architecture, the layers' prefix, and which tensors lie differently."""

    root: Mapping[str, str]
    block: Mapping[str, str]
    layers: str
    permuted: tuple[str, ...] = ()  # llama.cpp turns neighbours where Hugging Face turns halves
    turned: tuple[str, ...] = ()


_LLAMA = Architecture(_LLAMA_ROOT, _LLAMA_BLOCK, "model.layers", permuted=("attn_q", "attn_k"))
_QWEN = Architecture(_LLAMA_ROOT, _LLAMA_BLOCK, "model.layers")
_GPT2 = Architecture(_GPT2_ROOT, _GPT2_BLOCK, "transformer.h", turned=("attn_qkv", "attn_output", "ffn_up", "ffn_down"))
ARCHITECTURES: Mapping[str, Architecture] = {"llama": _LLAMA, "qwen2": _QWEN, "qwen3": _QWEN, "gpt2": _GPT2}
IGNORED = frozenset({"rope_freqs.weight"})  # read into the config


def architecture_of(metadata: Metadata, source: str) -> Architecture:
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise ValueError(
            f"{source} holds a model of architecture {name!r}; supported in GGUF are {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[str(name)]


def places_of(metadata: Metadata, shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Place]:
    """Hugging Face's name -> place, for every tensor of the file; ValueError for a tensor that nobody knows."""
    arch = architecture_of(metadata, source)
    heads = _of(metadata, "attention.head_count", source)
    groups = _of(metadata, "attention.head_count_kv", source, heads)
    found: dict[str, Place] = {}
    for key, shape in shapes.items():
        if key in IGNORED:
            continue
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z_0-9]+)\.(weight|bias)", key)
        layer, part, leaf = match.groups() if match else (None, "", "")
        known = arch.root if layer is None else arch.block
        if part not in known:
            raise ValueError(f"{source}: the tensor {key!r} belongs to no part of this architecture")
        name = f"{known[part]}.{leaf}" if layer is None else f"{arch.layers}.{int(layer)}.{known[part]}.{leaf}"
        count = heads if part == "attn_q" else groups
        rows = halves_from_neighbours(shape[0], count, source) if part in arch.permuted else None
        found[name] = Place(key, rows, turned=part in arch.turned and leaf == "weight")
    return found


def halves_from_neighbours(width: int, heads: int, source: str) -> np.ndarray:
    """The order of rows that puts rotary pairs from neighbouring rows into the two halves of each head."""
    if heads < 1 or width % (2 * heads):
        raise ValueError(f"{source}: {width} rows of queries or keys do not make {heads} heads of even width")
    return np.arange(width).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _of(metadata: Metadata, key: str, source: str, default: Any = None) -> Any:
    """A number of the architecture's own metadata."""
    full = f"{metadata.get('general.architecture')}.{key}"
    value = metadata.get(full, default)
    if value is None:
        raise ValueError(f"{source} lacks the metadata {full}; it is not a complete model")
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{source}: {full} is {value!r}; it must be one number")
    return value


def config_of(metadata: Metadata, keys: set[str], rope: np.ndarray | None, source: str) -> dict[str, Any]:
    """The config.json of the model in a GGUF file; `rope` are the file's divisors of rotary frequencies."""
    architecture_of(metadata, source)
    made = _gpt2(metadata, source) if metadata["general.architecture"] == "gpt2" else _llama(metadata, rope, source)
    tokens = metadata.get("tokenizer.ggml.tokens")
    vocab = len(tokens) if isinstance(tokens, list) else int(_of(metadata, "vocab_size", source))
    ids = {
        f"{ours}_token_id": metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    return made | {"vocab_size": vocab, "tie_word_embeddings": "output.weight" not in keys} | ids


def _gpt2(metadata: Metadata, source: str) -> dict[str, Any]:
    width = int(_of(metadata, "embedding_length", source))
    return {
        "model_type": "gpt2",
        "n_embd": width,
        "n_layer": int(_of(metadata, "block_count", source)),
        "n_head": int(_of(metadata, "attention.head_count", source)),
        "n_positions": int(_of(metadata, "context_length", source)),
        "n_inner": int(_of(metadata, "feed_forward_length", source, 4 * width)),
        "layer_norm_epsilon": float(_of(metadata, "attention.layer_norm_epsilon", source, 1e-5)),
        "activation_function": "gelu_new",
    }


def _llama(metadata: Metadata, rope: np.ndarray | None, source: str) -> dict[str, Any]:
    width, heads = _of(metadata, "embedding_length", source), _of(metadata, "attention.head_count", source)
    head_dim = int(_of(metadata, "attention.key_length", source, width // max(heads, 1)))
    theta = float(_of(metadata, "rope.freq_base", source, 10_000.0))
    made = {
        "model_type": metadata["general.architecture"],
        "hidden_size": int(width),
        "intermediate_size": int(_of(metadata, "feed_forward_length", source)),
        "num_hidden_layers": int(_of(metadata, "block_count", source)),
        "num_attention_heads": int(heads),
        "num_key_value_heads": int(_of(metadata, "attention.head_count_kv", source, heads)),
        "head_dim": head_dim,
        "max_position_embeddings": int(_of(metadata, "context_length", source)),
        "rms_norm_eps": float(_of(metadata, "attention.layer_norm_rms_epsilon", source)),
        "rope_theta": theta,
        "hidden_act": "silu",
    }
    if int(_of(metadata, "rope.dimension_count", source, head_dim)) != head_dim:
        raise ValueError(f"{source}: rotary positions over a part of each head are not supported for this architecture")
    scaling = _rope_factors(rope, theta, head_dim, source) or _rope_scaling(metadata, source)
    return made | ({"rope_scaling": scaling} if scaling else {})


def _rope_scaling(metadata: Metadata, source: str) -> dict[str, Any] | None:
    kind = metadata.get(f"{metadata['general.architecture']}.rope.scaling.type", "none")
    if kind == "none":
        return None
    factor = float(_of(metadata, "rope.scaling.factor", source))
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise ValueError(f"{source}: rope scaling {kind!r} is not supported; there are none, linear and yarn")
    original = int(_of(metadata, "rope.scaling.original_context_length", source))
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}


def _rope_factors(rope: np.ndarray | None, theta: float, head_dim: int, source: str) -> dict[str, Any] | None:
    """Llama 3's scaling, which llama.cpp stores as one divisor a frequency: found again from its largest divisor."""
    if rope is None or np.allclose(rope, 1.0):
        return None
    scaling = Llama3Scaling(float(rope.max()), 1.0, 4.0, 8192)
    plain, scaled = (frequencies(Rope(head_dim, theta, scaling=s))[0] for s in (None, scaling))
    if rope.shape != plain.shape or not np.allclose(plain / scaled, rope, rtol=1e-3):
        raise ValueError(f"{source}: its rope_freqs are not Llama 3's scaling, the only one that is supported")
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
