"""The adapters of tests/goldens/peft.npz (made by tools/goldens/llm_peft.py), as ours."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import paddle

from mix.peft import LoRAModel, PrefixModelForCausalLM
from mix.peft.config import LoRAConfig, PrefixConfig
from mix.peft.files import layouts_of

ROOT = Path(__file__).parents[3]
GOLDENS = ROOT / "tests" / "goldens"
sys.path.append(str(ROOT / "tools" / "goldens"))
from peft_cases import CASES  # noqa: E402
from random_weights import random_weight  # noqa: E402


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tests_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


golden = _module(ROOT / "tests" / "mix" / "llm" / "golden.py")


def base(case: str) -> Any:
    """The case's model without its adapter."""
    return golden.build(golden.load(CASES[case][0]))


def arrays(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / "peft.npz") as file:
        return {key.partition("/")[2]: file[key] for key in file.files if key.startswith(f"{case}/")}


def in_files(name: str) -> str:
    """A trained parameter's name as PEFT has it (a prefix's network is two layers and a tanh there)."""
    return name.replace("transform.1.", "transform.2.")


def adapted(case: str) -> tuple[Any, set[str]]:
    """The case's model with PEFT's adapter weights, and which parameters lie the other way round in files."""
    settings = dict(CASES[case][1])
    if settings.pop("peft_type", "LORA") == "PREFIX_TUNING":
        model: Any = PrefixModelForCausalLM(base(case), PrefixConfig(**settings))
        turned = {n for n in model.trainable_parameters() if "transform" in n and n.endswith("weight")}
        times = 3.0
    else:
        settings.pop("fan_in_fan_out", None)
        model = LoRAModel(base(case), LoRAConfig(**settings))
        turned, times = layouts_of(model.base_model), 1.0
    for name, parameter in model.trainable_parameters().items():
        fill(name, parameter, name in turned, times)
    return model, turned


def fill(name: str, parameter: paddle.Tensor, turned: bool, times: float = 1.0) -> None:
    """Give a parameter the numbers that its name stands for, as the golden's maker did."""
    shape = parameter.shape[::-1] if turned else parameter.shape
    noise = random_weight(in_files(name), shape)
    with paddle.no_grad():
        if "lora_magnitude" in name:
            parameter.set_value(parameter * paddle.to_tensor(noise))
        else:
            parameter.set_value(np.ascontiguousarray(noise.T if turned else noise) * np.float32(times))
