"""Training steps on command: one JSON list of text lengths a line on stdin, one line of figures for it on stdout.

Every engine trains the same model (SmolLM2-135M's config, random weights) on the same token ids. Seconds are of the
clock and of the processor; the second ones hardly mind what else runs on the machine.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence

CONFIG = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK = 8
RATE = 1e-4


def serve(step: Callable[[Sequence[int]], float]) -> None:
    """Run `step(lengths) -> loss` for each line until stdin ends."""
    for line in sys.stdin:
        lengths = json.loads(line)
        began, worked = time.perf_counter(), time.process_time()
        loss = step(lengths)
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
        told = {"seconds": seconds, "processor": processor, "tokens": sum(lengths), "loss": loss}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
