"""transformers over the numbers of a GGUF file."""

import sys
from collections.abc import Iterator

import torch
from measure_llm import BEGINNING, NEW, PROMPT, Loading, ids, report
from transformers import AutoModelForCausalLM

folder, dtype, name, runs, threads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
torch.set_num_threads(threads)
kind = torch.bfloat16 if dtype == "bf16" else torch.float32
loading = Loading()
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=kind).eval()
about = loading.done()
size = float(sum(p.numel() * p.element_size() for p in model.parameters()))
start, long = (torch.tensor([ids(count, model.config.vocab_size)]) for count in (BEGINNING, PROMPT))


def tokens() -> Iterator[object]:
    """Greedy tokens, one call a token."""
    with torch.inference_mode():
        out, new = model(start, use_cache=True, logits_to_keep=1), 0
        while new <= NEW:
            best = out.logits[:, -1].argmax(-1, keepdim=True)
            yield int(best)
            out, new = model(best, past_key_values=out.past_key_values, use_cache=True), new + 1


def prompt() -> object:
    """Scores after the prompt."""
    with torch.inference_mode():
        return model(long, use_cache=True, logits_to_keep=1).logits.float().numpy()


report(tokens, prompt, about | {"bytes": size}, (runs, threads))
