"""Greedy tokens after given prompts, and scores along given answers, by us: see benchmarks/llm_tokens.py.

The kind of run is "stored" or "exact", whose products take activations as they are.
"""

import contextlib
import sys
from pathlib import Path

from app import environment

environment.prepare()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

import kernels  # noqa: E402
from mix.llm import AutoModelForCausalLM  # noqa: E402

folder, kind, name, asked, out = Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5])
model, told = AutoModelForCausalLM.from_pretrained(folder / name), {}
exact = kernels.use(quantized_linear="exact", decoder_step="composed")
with np.load(asked) as file, paddle.no_grad(), exact if kind == "exact" else contextlib.nullcontext():
    for i in range(sum(key.startswith("prompt") for key in file)):
        prompt, answer = file[f"prompt{i}"].tolist(), file[f"greedy{i}"].tolist()
        events = model.stream([prompt], max_new_tokens=len(answer), eos_token_id=(), do_sample=False)
        told[f"tokens{i}"] = np.array([event.id for event in events if hasattr(event, "id")])
        scores = model(paddle.to_tensor([prompt + answer[:-1]])).logits
        told[f"scores{i}"] = scores[0, len(prompt) - 1 :].astype("float32").numpy()
np.savez(out, **told)
sys.stdout.write("{}\n")
