"""transformers, with peft for LoRA: padded batches, torch's fused AdamW.

dtype fp32; bf16: weights and moments in bfloat16; amp: float32 weights, products in bfloat16 by autocast.
"""

import sys
from collections.abc import Sequence

import numpy as np
import peft
import torch
from steps import CONFIG, RANK, RATE, TARGETS, serve
from transformers import LlamaConfig, LlamaForCausalLM

method, dtype, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
torch.manual_seed(0)
settings = {k: v for k, v in CONFIG.items() if k != "model_type"}
model = LlamaForCausalLM(LlamaConfig(**settings, attn_implementation="sdpa")).train()
if dtype == "bf16":
    model = model.to(torch.bfloat16)
if method == "lora":
    model = peft.get_peft_model(model, peft.LoraConfig(r=RANK, target_modules=TARGETS, task_type="CAUSAL_LM"))
moved = [p for p in model.parameters() if p.requires_grad]
optimiser = torch.optim.AdamW(moved, lr=RATE, fused=True)
draw = np.random.default_rng(0)


def step(lengths: Sequence[int]) -> float:
    """One step on a padded batch."""
    ids, mask = np.zeros((len(lengths), max(lengths)), np.int64), np.zeros((len(lengths), max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length], mask[row, :length] = draw.integers(3, CONFIG["vocab_size"], length), 1
    inputs, seen = torch.from_numpy(ids), torch.from_numpy(mask)
    labels = inputs.masked_fill(seen == 0, -100)
    full = bool(mask.all())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "amp"):
        loss = model(inputs, attention_mask=None if full else seen, labels=labels, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(moved, 1.0)
    optimiser.step()
    optimiser.zero_grad()
    return float(loss)


serve(step)
