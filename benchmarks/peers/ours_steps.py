"""mix.train's step: the loss, the backward pass, and AdamW on float32 masters; in packs, or padded as the peers are."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from app import environment

environment.prepare()

import numpy as np  # noqa: E402
from steps import CONFIG, RANK, RATE, TARGETS, serve  # noqa: E402

from mix.llm.model import CausalLM  # noqa: E402
from mix.peft import LoRAConfig, LoRAModel  # noqa: E402
from mix.train.examples import Example  # noqa: E402
from mix.train.loss import batch_loss  # noqa: E402
from mix.train.packing import packed, padded  # noqa: E402
from ppdiffusers.training.optimiser import AdamW, AdamWConfig  # noqa: E402

method, dtype, batches = sys.argv[1], sys.argv[2], sys.argv[4]
base = CausalLM.from_config(CONFIG)
if dtype == "bf16":
    base.to(dtype="bfloat16")
model = LoRAModel(base, LoRAConfig(r=RANK, target_modules=TARGETS)) if method == "lora" else base
model.train()
moved = model.trainable_parameters() if isinstance(model, LoRAModel) else dict(base.named_parameters())
optimiser, number = AdamW(moved, AdamWConfig()), 0
draw = np.random.default_rng(0)


def step(lengths: Sequence[int]) -> float:
    """One step on a pack or on a padded batch."""
    global number
    number += 1
    texts = [draw.integers(3, CONFIG["vocab_size"], n).astype(np.int32) for n in lengths]
    made = (packed if batches == "pack" else padded)([Example(t, np.ones(len(t), bool)) for t in texts])
    loss = batch_loss(model, made)
    loss.backward()
    optimiser.gather(1.0)
    optimiser.step(number, RATE)
    return float(loss)


serve(step)
