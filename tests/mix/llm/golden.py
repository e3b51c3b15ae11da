"""The tiny models of tests/goldens/llm_*.npz (made by tools/goldens/llm.py), as folders and as ours."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mix.llm.config import DecoderConfig
from mix.llm.model import CausalLM
from mix.llm.names import plan_for
from ppdiffusers.weights.plan import run_plan

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "tools" / "goldens"))
from random_weights import random_weight  # noqa: E402

FILES = (ROOT / "tests" / "goldens").glob("llm_*.npz")
FAMILIES = sorted(p.stem.removeprefix("llm_") for p in FILES if p.stem not in ("llm_gguf_blocks", "llm_sampling"))


class Named:
    """A checkpoint whose tensors are computed from their names."""

    def __init__(self, keys: list[Any]) -> None:
        self.shapes = {k: tuple(s) for k, s in keys}
        self.dtypes = dict.fromkeys(self.shapes, "F32")

    def array(self, key: str) -> np.ndarray:
        return random_weight(key, self.shapes[key])


def load(family: str) -> dict[str, Any]:
    with np.load(ROOT / "tests" / "goldens" / f"llm_{family}.npz") as file:
        golden = dict(file)
    return golden | {"config": json.loads(str(golden["config"])), "keys": json.loads(str(golden["keys"]))}


def build(golden: dict[str, Any], dtype: str = "float32") -> CausalLM:
    """The golden's model with its weights."""
    model = CausalLM.empty(DecoderConfig.from_dict(golden["config"]))
    file = Named(golden["keys"])
    run_plan(plan_for(model, file, "golden"), file, model, dtype)
    return model.eval()
