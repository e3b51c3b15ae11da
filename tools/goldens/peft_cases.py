"""The adapters behind tests/goldens/peft.npz: one family of llm_configs and PEFT's settings a case."""

from typing import Any

_PREFIX: dict[str, Any] = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama", {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "default": ("qwen2", {"r": 4}),
    "dora": ("llama", {"r": 4, "use_dora": True, "target_modules": ["k_proj", "o_proj", "up_proj"]}),
    "dora_bias": ("llama_biased", {"r": 4, "use_dora": True, "target_modules": ["q_proj", "down_proj"]}),
    "rslora_saved": (
        "llama",
        {
            "r": 4,
            "use_rslora": True,
            "target_modules": ["q_proj", "gate_proj"],
            "layers_to_transform": [0, 2],
            "rank_pattern": {"layers.2.self_attn.q_proj": 6},
            "alpha_pattern": {"gate_proj": 12},
            "modules_to_save": ["lm_head", "model.norm"],
        },
    ),
    "conv1d": ("gpt2", {"r": 4, "target_modules": r".*\.(c_attn|mlp\.c_proj)", "fan_in_fan_out": True}),
    "biases": ("opt", {"r": 4, "bias": "lora_only", "target_modules": ["q_proj", "fc1"]}),
    "all_biases": ("bloom", {"r": 4, "bias": "all", "target_modules": ["query_key_value"]}),
    "path_bias": ("glm4", {"r": 4, "lora_bias": True, "target_modules": ["q_proj", "gate_up_proj"]}),
    "head": ("ernie4_5", {"r": 4, "target_modules": ["lm_head", "v_proj"]}),
    "all_linear": ("gpt_neox", {"r": 4, "target_modules": "all-linear"}),
    "prefix_llama": ("llama", _PREFIX),
    "prefix_window": ("mistral", _PREFIX),
    "prefix_gpt2": ("gpt2", _PREFIX),
    "prefix_bloom": ("bloom", _PREFIX),
    "prefix_opt": ("opt", _PREFIX),
    "prefix_projection": ("qwen3", _PREFIX | {"prefix_projection": True, "encoder_hidden_size": 24}),
}
