"""GGUF files: every number format, every architecture, and files that are not what they say."""

import contextlib
import importlib.util
import struct
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix.llm import AutoModelForCausalLM
from mix.llm.gguf import GGUF
from mix.llm.gguf_blocks import BLOCKS, dequantise


def sibling(name):
    spec = importlib.util.spec_from_file_location(f"llm_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden, files = sibling("golden"), sibling("gguf_file")


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=lambda b: b.name)
def test_blocks_mean_what_llama_cpp_says(blocks):
    with np.load(golden.ROOT / "tests" / "goldens" / "llm_gguf_blocks.npz") as known:
        raw, out = known[f"{blocks.name}_raw"], known[f"{blocks.name}_out"]
    np.testing.assert_array_equal(dequantise(blocks, raw.reshape(-1)), out.reshape(-1))


def scores(model, made):
    with paddle.no_grad():
        return model(paddle.to_tensor(made["ids"][:1])).logits.numpy()


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_model_is_the_same_from_gguf(family, tmp_path):
    made = golden.load(family)
    named = golden.Named(made["keys"])
    metadata, tensors = files.llama(
        made["config"], {k: named.array(k) for k in named.shapes}, "qwen3" if family == "qwen3" else "llama"
    )
    model = AutoModelForCausalLM.from_pretrained(files.write(tmp_path / "m.gguf", metadata, tensors))
    np.testing.assert_allclose(scores(model, made), made["logits"], atol=1e-4)


def test_rope_freqs_are_llama_3_scaling(tmp_path):
    from mix.llm.config import DecoderConfig, Llama3Scaling, Rope
    from mix.llm.positions import frequencies

    made = golden.load("llama")
    named = golden.Named(made["keys"])
    metadata, tensors = files.llama(made["config"], {k: named.array(k) for k in named.shapes})
    metadata["llama.rope.freq_base"] = 500_000.0
    scaling = Llama3Scaling(32.0, 1.0, 4.0, 8192)
    plain, scaled = (frequencies(Rope(8, 500_000.0, scaling=s))[0] for s in (None, scaling))
    tensors["rope_freqs.weight"] = files.f32(plain / scaled)
    config = GGUF(files.write(tmp_path / "m.gguf", metadata, tensors)).config()
    assert DecoderConfig.from_dict(config).positions.scaling == scaling
    tensors["rope_freqs.weight"] = files.f32(np.array([1, 2, 3, 4.0]))
    with pytest.raises(ValueError, match="rope_freqs"):
        GGUF(files.write(tmp_path / "m.gguf", metadata, tensors)).config()


def test_gpt2_from_gguf(tmp_path):
    made = golden.load("gpt2")
    named, config = golden.Named(made["keys"]), made["config"]
    names = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm"}
    names |= {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    root = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    tensors = {}
    for key in named.shapes:
        module, _, leaf = key.removeprefix("transformer.").rpartition(".")
        array = named.array(key)
        if module.startswith("h."):
            _, layer, part = module.split(".", 2)
            turned = array.T if array.ndim == 2 else array
            tensors[f"blk.{layer}.{names[part]}.{leaf}"] = files.f32(turned)
        else:
            tensors[f"{root[module]}.{leaf}"] = files.f32(array)
    metadata = {
        "general.architecture": "gpt2",
        "gpt2.block_count": config["n_layer"],
        "gpt2.context_length": config["n_positions"],
        "gpt2.embedding_length": config["n_embd"],
        "gpt2.feed_forward_length": 4 * config["n_embd"],
        "gpt2.attention.head_count": config["n_head"],
        "gpt2.attention.layer_norm_epsilon": 1e-5,
        "gpt2.vocab_size": config["vocab_size"],
    }
    model = AutoModelForCausalLM.from_pretrained(files.write(tmp_path / "m.gguf", metadata, tensors))
    np.testing.assert_allclose(scores(model, made), made["logits"], atol=1e-4)


def test_blocks_stay_in_reach_and_rows_are_in_hugging_face_order(tmp_path):
    made = golden.load("llama")
    named = golden.Named(made["keys"])
    metadata, tensors = files.llama(made["config"], {k: named.array(k) for k in named.shapes})
    with np.load(golden.ROOT / "tests" / "goldens" / "llm_gguf_blocks.npz") as known:
        raw = known["Q4_1_raw"]  # 4 x 256 numbers, as 32 rows of 32
    tensors["blk.0.attn_q.weight"] = ((32, 32), 3, raw.tobytes())
    file = GGUF(files.write(tmp_path / "m.gguf", metadata, tensors))
    form, blocks = file.blocks("model.layers.0.self_attn.q_proj.weight")
    assert (form.name, blocks.shape) == ("Q4_1", (32, 1, 20))
    numbers = file.array("model.layers.0.self_attn.q_proj.weight")
    np.testing.assert_array_equal(dequantise(form, blocks.reshape(-1)).reshape(32, 32), numbers)


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sound(tmp_path):
    made = golden.load("llama")
    named = golden.Named(made["keys"])
    return files.write(tmp_path / "m.gguf", *files.llama(made["config"], {k: named.array(k) for k in named.shapes}))


@pytest.mark.parametrize(
    ("at", "new", "why"),
    [
        (0, b"GGML", "begins with"),
        (4, struct.pack("<I", 99), "version 99"),
        (8, struct.pack("<Q", 2**63), "number of tensors"),
        (16, struct.pack("<Q", 2**40), "metadata"),
        (24, struct.pack("<Q", 2**60), "length of a metadata key"),
        (52, struct.pack("<I", 77), "unknown type 77"),
    ],
)
def test_a_forged_head_is_refused(sound, at, new, why):
    raw = bytearray(sound.read_bytes())
    raw[at : at + len(new)] = new
    sound.write_bytes(raw)
    with pytest.raises(ValueError, match=why):
        GGUF(sound)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.05, 0.5, 0.99])
def test_a_truncated_file_is_refused(sound, part):
    raw = sound.read_bytes()
    sound.write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(ValueError, match="GGUF"):
        GGUF(sound)


@pytest.mark.parametrize("seed", range(40))
def test_noise_in_the_head_never_crashes(sound, seed):
    raw = bytearray(sound.read_bytes())
    rng = np.random.RandomState(seed)
    for _ in range(4):
        raw[rng.randint(4, 1500)] = rng.randint(256)
    sound.write_bytes(raw)
    with contextlib.suppress(ValueError):
        file = GGUF(sound)
        file.config()
        assert file.shapes


def test_an_unknown_architecture_and_type_are_named(tmp_path):
    path = files.write(tmp_path / "m.gguf", {"general.architecture": "mamba"}, {"a": files.f32(np.zeros(4))})
    with pytest.raises(ValueError, match="mamba"):
        AutoModelForCausalLM.from_pretrained(path)
    files.write(path, {"general.architecture": "llama"}, {"a": ((256,), 10, b"\0" * 84)})
    with pytest.raises(ValueError, match="GGML type 10"):
        GGUF(path)


def test_damaged_numbers_are_refused(sound):
    raw = bytearray(sound.read_bytes())
    raw[-400:-396] = struct.pack("<f", float("nan"))
    sound.write_bytes(raw)
    with pytest.raises(ValueError, match="NaN"):
        AutoModelForCausalLM.from_pretrained(sound)
