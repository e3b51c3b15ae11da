"""PyTorch checkpoints as torch itself writes them, for the reader that must do without torch.

Run with the reference environment from another folder: `python <repo>/tools/goldens/pickles.py`. All numbers are
counting sequences, so the test knows them without a second file.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).parents[2] / "tests" / "goldens" / "weights"


def lightning_class() -> type:
    """A class under the name that old training checkpoints of Stable Diffusion mention."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        sys.modules[part] = types.ModuleType(part)
    kind = type("ModelCheckpoint", (), {"__module__": name, "__qualname__": "ModelCheckpoint"})
    sys.modules[name].ModelCheckpoint = kind
    return kind


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32)
    found = {"plain": base.reshape(4, 6), "transposed": base.reshape(4, 6).T, "window": base.reshape(4, 6)[1:3, 2:5]}
    found |= {"every_second": base[::2], "expanded": base[:3].reshape(3, 1).expand(3, 4), "scalar": base[5]}
    found |= {"empty": base[:0].reshape(0, 3), "parameter": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))}
    for dtype in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        found[dtype] = torch.arange(5).to(getattr(torch, dtype))
    return found


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    training = {
        "epoch": 3,
        "global_step": 875000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": tensors(),
        "callbacks": {lightning_class(): {"best_model_score": np.float64(0.5), "current_score": torch.tensor(1.0)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "lr_schedulers": [],
    }
    torch.save(training, OUT / "training.ckpt")
    torch.save(training, OUT / "training_legacy.ckpt", _use_new_zipfile_serialization=False)
    torch.save(tensors(), OUT / "weights.bin")
    inversion = {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.arange(8.0).reshape(2, 4))}),
        "name": "counting",
        "step": 500,
        "sd_checkpoint": None,
    }
    torch.save(inversion, OUT / "inversion.pt")
    torch.save({"<cat>": torch.arange(4.0)}, OUT / "learned_embeds.bin")


if __name__ == "__main__":
    main()
