"""Writes GGUF files for tests, sound ones and others. Tensors are (shape, GGML type, bytes)."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {bool: 7, int: 4, float: 6, str: 8}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value_of(value: Any) -> bytes:
    if isinstance(value, list):
        kind = KINDS[type(value[0])]
        return struct.pack("<IQ", kind, len(value)) + b"".join(one(kind, v) for v in value)
    return one(KINDS[type(value)], value)


def one(kind: int, value: Any) -> bytes:
    return text(value) if kind == 8 else struct.pack({7: "<?", 4: "<I", 6: "<f"}[kind], value)


def f32(array: np.ndarray) -> tuple[tuple[int, ...], int, bytes]:
    return array.shape, 0, np.ascontiguousarray(array, np.float32).tobytes()


def write(path: Path, metadata: dict[str, Any], tensors: dict[str, tuple[tuple[int, ...], int, bytes]]) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        kind = 9 if isinstance(value, list) else KINDS[type(value)]
        head += text(key) + struct.pack("<I", kind) + value_of(value)
    at, data = 0, b""
    for name, (shape, kind, raw) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", kind, at)
        data += raw + b"\0" * (-len(raw) % 32)
        at = len(data)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return path


def llama(config: dict[str, Any], arrays: dict[str, np.ndarray], arch: str = "llama") -> tuple[dict[str, Any], dict]:
    """(metadata, tensors) of a Llama or Qwen model as llama.cpp's converter lays it out."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    metadata = {
        "general.architecture": arch,
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": groups,
        f"{arch}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{arch}.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        f"{arch}.vocab_size": config["vocab_size"],
    }
    if config.get("head_dim"):
        metadata[f"{arch}.attention.key_length"] = config["head_dim"]
    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    tensors = {}
    for name, array in arrays.items():
        module, _, leaf = name.rpartition(".")
        if module.startswith("model.layers."):
            _, _, layer, part = module.split(".", 3)
            if arch == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
                n = heads if "q_proj" in part else groups
                array = array.reshape(n, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
            tensors[f"blk.{layer}.{names[part]}.{leaf}"] = f32(array)
        else:
            root = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
            tensors[f"{root[module]}.{leaf}"] = f32(array)
    return metadata, tensors
