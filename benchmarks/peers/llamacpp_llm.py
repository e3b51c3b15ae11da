"""llama.cpp through llama-cpp-python."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from llama_cpp import Llama
from measure_llm import BEGINNING, PROMPT, Loading, ids, report

folder, name, runs, threads = Path(sys.argv[1]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
loading = Loading()
model = Llama(
    str(folder / name),
    n_ctx=1024,
    n_batch=PROMPT,
    n_ubatch=PROMPT,
    n_threads=threads,
    n_threads_batch=threads,
    verbose=False,
)
about = loading.done()
size = float((folder / name).stat().st_size)
start, long = ids(BEGINNING, model.n_vocab()), ids(PROMPT, model.n_vocab())


def tokens() -> Iterator[object]:
    """Greedy tokens as its own generator gives them."""
    return iter(model.generate(start, temp=0.0, repeat_penalty=1.0))


def prompt() -> object:
    """Scores after the prompt."""
    model.reset()
    model.eval(long)
    return np.asarray(model.scores[PROMPT - 1])


report(tokens, prompt, about | {"bytes": size}, (runs, threads))
