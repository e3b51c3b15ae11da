"""Folders in and out: the same names and bits, shards and pickles, and configs that ask for what does not exist."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix.llm import AutoModelForCausalLM, CausalLM, DecoderConfig
from ppdiffusers.weights.file import open_tensors

spec = importlib.util.spec_from_file_location("llm_golden", Path(__file__).with_name("golden.py"))
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


@pytest.mark.parametrize("family", ["llama", "gpt2", "chatglm", "bloom", "qwen3", "opt_post", "gpt_neox"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saving_gives_the_checkpoint_back_bit_by_bit(family, dtype, tmp_path):
    made = golden.load(family)
    model = golden.build(made, dtype)
    model.save_pretrained(tmp_path)
    with open_tensors(tmp_path) as file:
        assert file.shapes == {k: tuple(s) for k, s in made["keys"]}
        for key in file.shapes:
            want = golden.random_weight(key, file.shapes[key])
            if dtype == "float32":
                np.testing.assert_array_equal(file.array(key), want)
    model.pack()
    model.save_pretrained(tmp_path / "packed")
    assert (tmp_path / "packed" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == model.dtype
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    saved = json.loads((tmp_path / "config.json").read_text())
    assert DecoderConfig.from_dict(saved) == model.config


def test_published_names_without_their_first_part(tmp_path):
    """gpt2 and bloom are published without `transformer.`, and with masks and a second copy of the embedding."""
    made = golden.load("gpt2")
    model = CausalLM.empty(DecoderConfig.from_dict(made["config"]))
    file = golden.Named([[k.removeprefix("transformer."), s] for k, s in made["keys"]])
    file.shapes |= {"h.0.attn.bias": (1, 1, 128, 128), "h.0.attn.masked_bias": (1,), "lm_head.weight": (97, 32)}
    plan = golden.plan_for(model, file, "gpt2")
    assert plan["transformer.h.0.attn.c_attn.bias"].key == "h.0.attn.c_attn.bias"


def test_a_random_model_trains():
    made = golden.load("llama")
    model = CausalLM.from_config(made["config"])
    ids = paddle.to_tensor(made["ids"])
    packed = model(ids.reshape([1, -1]), labels=ids.reshape([1, -1]), cu_seqlens=[0, 13, 26]).loss
    loss = model(ids, labels=ids).loss
    assert float(packed) == pytest.approx(float(loss), abs=1e-5)
    assert float(loss) == pytest.approx(np.log(97), abs=0.2)
    loss.backward()
    assert all(p.grad is not None and bool(paddle.isfinite(p.grad).all()) for p in model.parameters())


def test_generation_config_is_read(tmp_path):
    model = golden.build(golden.load("llama"))
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [4, 5], "temperature": 0.6, "transformers_version": "4.40", "top_p": None})
    )
    config = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    assert config.eos_token_id == (4, 5)
    assert config.temperature == 0.6


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "wide"}, "must be a number"),
        ({"num_hidden_layers": 0}, "num_layers"),
        ({"num_key_value_heads": 3}, "key"),
        ({"hidden_act": "relu6"}, "hidden_act"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2}}, "longrope"),
        ({"rope_parameters": {"rope_type": "linear", "banana": 2}}, "wrong settings"),
        ({"mystery": 3}, "mystery"),
    ],
)
def test_an_unsupported_config_is_refused(change, why):
    config = golden.load("llama")["config"] | change
    with pytest.raises(ValueError, match=why):
        DecoderConfig.from_dict(config)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(json.dumps(golden.load("llama")["config"]))
    with pytest.raises(ValueError, match="no weights"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    golden.build(golden.load("llama")).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(golden.load("qwen2")["config"]))
    with pytest.raises(ValueError, match="missing"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_nan_weights_are_refused(tmp_path):
    model = golden.build(golden.load("llama"))
    model.save_pretrained(tmp_path)
    raw = bytearray((tmp_path / "model.safetensors").read_bytes())
    raw[-4:] = np.float32("nan").tobytes()
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(ValueError, match="NaN"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_forward_arguments_that_do_not_fit_are_refused():
    model = golden.build(golden.load("llama"))
    ids = paddle.ones([2, 4], "int64")
    for how, why in (
        ({"input_ids": None}, "one of them"),
        ({"input_ids": ids, "attention_mask": paddle.ones([2, 3])}, "attention_mask"),
        ({"input_ids": ids, "cu_seqlens": [0, 4]}, "pack"),
        ({"input_ids": ids[:1], "cu_seqlens": [0, 3, 2]}, "rise"),
        ({"input_ids": ids[:1], "cu_seqlens": [0, 4], "attention_mask": ids[:1]}, "not both"),
        ({"input_ids": ids[0]}, "batch, tokens"),
    ):
        with pytest.raises(ValueError, match=why):
            model(**how)
