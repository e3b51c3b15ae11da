"""The tiny language models behind tests/goldens/llm_*.npz: one config a family or variant, in transformers' words."""

from typing import Any

_SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
_GLM = _SMALL | {"head_dim": 8, "pad_token_id": 0}
_BLOOM = {
    "vocab_size": 97,
    "hidden_size": 48,
    "n_layer": 3,
    "n_head": 6,
    "seq_length": 128,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
_OPT = {
    "vocab_size": 97,
    "hidden_size": 32,
    "ffn_dim": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "word_embed_proj_dim": 32,
    "pad_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "llama3": {"model_type": "llama", **_SMALL, "rope_parameters": _LLAMA3, "tie_word_embeddings": True},
    "llama_biased": {
        "model_type": "llama",
        **_SMALL,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    },
    "mistral": {"model_type": "mistral", **_SMALL, "sliding_window": 9},
    "qwen2": {"model_type": "qwen2", **_SMALL, "rope_parameters": _YARN},
    "qwen2_window": {
        "model_type": "qwen2",
        **_SMALL,
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", **_SMALL, "head_dim": 16, "tie_word_embeddings": True},
    "ernie4_5": {"model_type": "ernie4_5", **_SMALL, "head_dim": 8, "pad_token_id": 0},
    "glm": {"model_type": "glm", **_GLM},
    "glm4": {"model_type": "glm4", **_GLM, "attention_bias": False},
    "bloom": {"model_type": "bloom", **_BLOOM},
    "bloom_inner": {"model_type": "bloom", **_BLOOM, "apply_residual_connection_post_layernorm": True},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 97,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 128,
        "eos_token_id": 2,
    },
    "opt": {"model_type": "opt", **_OPT},
    "opt_post": {"model_type": "opt", **_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 20},
    "gpt_neox": {
        "model_type": "gpt_neox",
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "eos_token_id": 2,
    },
    # THUDM's own config.json, and the same network in transformers' words.
    "chatglm": {
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_residual_connection_post_layernorm": False,
        "ffn_hidden_size": 56,
        "hidden_size": 32,
        "kv_channels": 8,
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 4,
        "num_layers": 3,
        "original_rope": True,
        "padded_vocab_size": 97,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": 128,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "glm_for_chatglm": {
        "model_type": "glm",
        **_GLM,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
}

_OURS = "model.layers.{}."
_THEIRS = "transformer.encoder.layers.{}."
CHATGLM_NAMES: dict[str, list[str]] = {
    "transformer.embedding.word_embeddings.weight": ["model.embed_tokens.weight"],
    _THEIRS + "input_layernorm.weight": [_OURS + "input_layernorm.weight"],
    _THEIRS + "self_attention.query_key_value.weight": [_OURS + f"self_attn.{x}_proj.weight" for x in "qkv"],
    _THEIRS + "self_attention.query_key_value.bias": [_OURS + f"self_attn.{x}_proj.bias" for x in "qkv"],
    _THEIRS + "self_attention.dense.weight": [_OURS + "self_attn.o_proj.weight"],
    _THEIRS + "post_attention_layernorm.weight": [_OURS + "post_attention_layernorm.weight"],
    _THEIRS + "mlp.dense_h_to_4h.weight": [_OURS + "mlp.gate_up_proj.weight"],
    _THEIRS + "mlp.dense_4h_to_h.weight": [_OURS + "mlp.down_proj.weight"],
    "transformer.encoder.final_layernorm.weight": ["model.norm.weight"],
    "transformer.output_layer.weight": ["lm_head.weight"],
}

BEAMS: list[dict[str, Any]] = [
    {"num_beams": 3, "max_new_tokens": 24, "eos_token_id": None},
    {"num_beams": 4, "max_new_tokens": 24, "eos_token_id": [2, 17, 23, 31, 40, 41, 42], "length_penalty": 0.6},
    {
        "num_beams": 4,
        "max_new_tokens": 30,
        "eos_token_id": [2, 17, 23, 31, 40, 41, 42],
        "early_stopping": True,
        "num_return_sequences": 3,
    },
    {
        "num_beams": 3,
        "max_new_tokens": 30,
        "eos_token_id": [5, 9, 11, 60, 61, 62, 63, 64],
        "early_stopping": "never",
        "length_penalty": 1.5,
        "repetition_penalty": 1.2,
        "num_return_sequences": 3,
    },
]
