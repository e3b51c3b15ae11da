"""Our language model over a GGUF file: `stored` keeps it quantised as it is, other words are dtypes."""

import sys
from collections.abc import Iterator

from measure_llm import BEGINNING, NEW, PROMPT, Loading, ids, report

from app.environment import prepare

folder, dtype, name, runs, threads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
prepare()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from mix.llm import AutoModelForCausalLM, Token  # noqa: E402
from mix.llm.generate import next_scores  # noqa: E402
from mix.llm.quantized import QuantizedLinear  # noqa: E402

paddle.base.core.set_num_threads(threads)
kinds = {"fp32": "float32", "bf16": "bfloat16", "stored": "auto"}
loading = Loading()
kind = kinds.get(dtype, dtype)
model = AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", dtype=kind, pack=dtype in ("fp32", "bf16"))
about = loading.done()


def weight_bytes() -> float:
    """What a token reads: all matrices, the head among them."""
    leaves = model.sublayers()
    quantised = {id(m.quantized): m.quantized.nbytes for m in leaves if isinstance(m, QuantizedLinear)}
    packed = [m.packed for m in leaves if getattr(m, "packed", None) is not None]
    return float(sum(quantised.values()) + sum(np.prod(p.shape) * (4 if dtype == "fp32" else 2) for p in packed))


start, long = ids(BEGINNING, model.config.vocab_size), ids(PROMPT, model.config.vocab_size)


def tokens() -> Iterator[object]:
    """New tokens as a caller gets them."""
    events = model.stream([start], max_new_tokens=NEW + 1, eos_token_id=(), do_sample=False)
    return (event for event in events if isinstance(event, Token))


def prompt() -> np.ndarray:
    """Scores after the prompt."""
    with paddle.no_grad():
        return next_scores(model, model.new_cache(1, PROMPT).step([PROMPT]), np.asarray([long]))


report(tokens, prompt, about | {"bytes": weight_bytes()}, (runs, threads))
