"""Tiny adapters on tiny random models, run by PEFT: goldens for tests/mix/peft.

Run with an interpreter that has torch, transformers and peft, from a folder outside this repository:
    python <repository>/tools/goldens/llm_peft.py
gives tests/goldens/peft.npz (scores, loss and gradients of each case) and tests/goldens/peft_lora, a folder as PEFT
saves it. `llm_peft.py run MODEL ADAPTER IDS OUT` runs a saved adapter on a saved model, for tests marked parity.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from llm import build
from peft_cases import CASES
from random_weights import random_weight

GOLDENS = Path(__file__).parents[2] / "tests" / "goldens"


def adapted(case: str) -> Any:
    """The case's model, with adapter weights made from their names in PEFT's files."""
    family, settings = CASES[case]
    model, _, _ = build(family)
    made = {"task_type": "CAUSAL_LM"} | settings
    kind = made.pop("peft_type", "LORA")
    config = (peft.PrefixTuningConfig if kind == "PREFIX_TUNING" else peft.LoraConfig)(**made)
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.from_numpy(random_weight(spelled(name), parameter.shape))
                if "lora_magnitude" in name:
                    parameter.mul_(noise)
                else:
                    parameter.copy_(noise * (3.0 if "prompt_encoder" in name else 1.0))
    return model.eval()


def spelled(name: str) -> str:
    """A parameter's name as the files have it."""
    name = name.replace(".modules_to_save.default", "").replace(
        "lora_magnitude_vector.default.weight", "lora_magnitude_vector"
    )
    return name.replace(".default", "")


def run(case: str) -> dict[str, np.ndarray]:
    model = adapted(case)
    ids = torch.from_numpy(np.random.RandomState(11).randint(3, 97, (2, 13)))
    out = model(input_ids=ids, labels=ids)
    out.loss.backward()
    grads = {f"grad {spelled(n)}": p.grad.numpy() for n, p in model.named_parameters() if p.requires_grad}
    found = {"ids": ids.numpy(), "logits": out.logits.detach().numpy(), "loss": out.loss.detach().numpy(), **grads}
    return {f"{case}/{key}": value for key, value in found.items()}


def rerun(model: str, adapter: str, ids: str, out: str) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits = peft.PeftModel.from_pretrained(base, adapter).eval()(torch.from_numpy(np.load(ids))).logits
    np.save(out, logits.numpy())


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["run"]:
        return rerun(*sys.argv[2:6])
    arrays: dict[str, np.ndarray] = {}
    for case in CASES:
        arrays |= run(case)
        print(f"{case}: {sum(key.startswith(f'{case}/grad') for key in arrays)} gradients")
    np.savez_compressed(GOLDENS / "peft.npz", **arrays)
    model = adapted("rslora_saved")
    model.save_pretrained(GOLDENS / "peft_lora")
    (GOLDENS / "peft_lora" / "README.md").unlink(missing_ok=True)
    path = GOLDENS / "peft_lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1, sort_keys=True) + "\n")
    print(f"peft.npz: {(GOLDENS / 'peft.npz').stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
