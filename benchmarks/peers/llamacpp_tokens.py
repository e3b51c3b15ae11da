"""Greedy tokens after given prompts, and scores along given answers, by llama.cpp: see benchmarks/llm_tokens.py."""

import sys
from pathlib import Path

import numpy as np
from llama_cpp import Llama

folder, name, asked, out, threads = (
    Path(sys.argv[1]),
    sys.argv[3],
    Path(sys.argv[4]),
    Path(sys.argv[5]),
    int(sys.argv[6]),
)
model = Llama(str(folder / name), n_ctx=512, n_threads=threads, n_threads_batch=threads, logits_all=True, verbose=False)
told = {}
with np.load(asked) as file:
    for i in range(sum(key.startswith("prompt") for key in file)):
        prompt, answer = file[f"prompt{i}"].tolist(), file[f"greedy{i}"].tolist()
        model.reset()
        model.eval(prompt)
        tokens = [int(np.argmax(model.scores[model.n_tokens - 1]))]
        while len(tokens) < len(answer):
            model.eval(tokens[-1:])
            tokens.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.reset()
        model.eval(prompt + answer[:-1])
        told[f"tokens{i}"] = np.array(tokens)
        told[f"scores{i}"] = np.array(model.scores[len(prompt) - 1 : model.n_tokens])
np.savez(out, **told)
sys.stdout.write("{}\n")
