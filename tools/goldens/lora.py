"""Adapters of every kind, made and applied by LyCORIS, diffusers and peft: goldens for
tests/ppdiffusers/weights/test_lora.py.

Run with an interpreter that has torch, diffusers, transformers, peft and lycoris-lora, from a folder outside this
repository:
    python <repository>/tools/goldens/lora.py
`lora_kinds.npz` has one linear and one convolution per LyCORIS kind: the adapter's tensors and the merged weight.
`lora_models.npz` has a
tiny UNet and text encoder with adapters in the spellings that diffusers loads, and their outputs; all weights come from
their names.

"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from lora_tensors import ALPHA, adapter_tensor, kind_tensor
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from models import SD
from random_weights import random_direction, random_weight
from transformers import CLIPTextConfig, CLIPTextModel

GOLDENS = Path(__file__).parents[2] / "tests" / "goldens"

RANK = 2
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lora": (LoConModule, {}),
    "tucker": (LoConModule, {"use_tucker": True}),
    "dora_out": (LoConModule, {"weight_decompose": True}),
    "dora_in": (LoConModule, {"weight_decompose": True, "wd_on_out": False}),
    "loha": (LohaModule, {}),
    "loha_tucker": (LohaModule, {"use_tucker": True}),
    "loha_dora": (LohaModule, {"weight_decompose": True}),
    "lokr": (LokrModule, {"factor": 4}),
    "lokr_both": (LokrModule, {"factor": 4, "decompose_both": True}),
    "lokr_tucker": (LokrModule, {"factor": 4, "use_tucker": True}),
    "lokr_full": (LokrModule, {"full_matrix": True}),
    "ia3": (IA3Module, {}),
    "ia3_input": (IA3Module, {"train_on_input": True}),
}


def adapter(kind: str, layer: torch.nn.Module, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """An adapter's tensors by leaf, and the merged weight."""
    cls, options = KINDS[kind]
    module = cls("x", layer, 1.0, RANK, ALPHA, **options)
    for leaf, value in (*module.named_parameters(), *module.named_buffers()):
        if leaf == "scalar":
            continue
        value.data.copy_(torch.from_numpy(kind_tensor(kind, name, leaf, tuple(value.shape))))
    tensors = {leaf: value.detach().numpy() for leaf, value in module.state_dict().items()}
    for leaf, value in tensors.items():
        assert (value == kind_tensor(kind, name, leaf, value.shape)).all(), (kind, leaf)
    if kind.startswith(
        ("loha", "lokr")
    ):  # as forward() does it; get_merged_weight() applies alpha / rank a second time
        merged = layer.weight + module.get_weight(layer.weight.shape)
        return tensors, (module.apply_weight_decompose(merged) if "dora_scale" in tensors else merged).detach().numpy()
    return tensors, module.get_merged_weight(1.0)[0].detach().numpy()


def kinds() -> None:
    """One linear and one convolution per kind."""
    arrays: dict[str, np.ndarray] = {}
    shapes: dict[str, list[int]] = {}
    for kind in KINDS:
        for name, layer in (("linear", torch.nn.Linear(32, 48)), ("conv", torch.nn.Conv2d(8, 16, 3, padding=1))):
            layer.weight.data = torch.from_numpy(random_weight(f"{name}.weight", layer.weight.shape))
            tensors, merged = adapter(kind, layer, name)
            shapes |= {f"{kind}.{name}.{leaf}": list(value.shape) for leaf, value in tensors.items()}
            arrays[f"{kind}/{name}/merged"] = merged.astype(np.float32)
    np.savez_compressed(GOLDENS / "lora_kinds.npz", shapes=np.array(json.dumps(shapes)), **arrays)


Keys = list[tuple[str, tuple[int, ...]]]


def spell(module: str, shape: torch.Size, spelling: str, part: str) -> Keys:
    """The keys (with shapes) of a rank 2 adapter for one layer."""
    down, up = (2, *shape[1:]), (shape[0], 2, *([1, 1] if len(shape) == 4 else []))
    flat = f"lora_{'unet' if part == 'unet' else 'te'}_{module.replace('.', '_')}"
    match spelling:
        case "kohya":
            return [(f"{flat}.lora_down.weight", down), (f"{flat}.lora_up.weight", up), (f"{flat}.alpha", ())]
        case "peft" | "dora":
            keys = [(f"{part}.{module}.lora_A.weight", down), (f"{part}.{module}.lora_B.weight", up)]
            size = (shape[0],) if len(shape) == 2 else (1, shape[0], 1, 1)
            return [*keys, (f"{part}.{module}.lora_magnitude_vector", size)] if spelling == "dora" else keys
        case "diffusers":
            return [(f"{part}.{module}.lora.down.weight", down), (f"{part}.{module}.lora.up.weight", up)]
    raise KeyError(spelling)


def targets(model: torch.nn.Module, convolutions: bool) -> list[tuple[str, torch.Size]]:
    """Attention and feed-forward layers, and all convolutions of the blocks when asked."""
    found = []
    for name, layer in model.named_modules():
        attention = any(
            s in name
            for s in (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net", "proj_in", "proj_out", "_proj", "mlp.fc")
        )
        linear = isinstance(layer, torch.nn.Linear) and attention and "time_emb_proj" not in name
        conv = isinstance(layer, torch.nn.Conv2d) and (
            ("resnets" in name and convolutions) or name.endswith(("proj_in", "proj_out"))
        )
        if linear or conv:
            found.append((name, layer.weight.shape))
    return found


def models() -> None:
    """Tiny SD 1.5 parts with one adapter a spelling."""
    unet = UNet2DConditionModel(**SD, sample_size=8, layers_per_block=1)
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=99)
    )
    for model, prefix in ((unet, ""), (text, "text_model.")):  # newer transformers leave the prefix out, files have it
        state = {k: torch.from_numpy(random_weight(prefix + k, v.shape)) for k, v in model.state_dict().items()}
        model.load_state_dict(state)
        model.eval()
    sample = torch.from_numpy(random_direction("sample", (2, 4, 8, 8)).astype(np.float32))
    context = torch.from_numpy(random_direction("context", (2, 7, 24)).astype(np.float32))
    ids = torch.tensor([[0, 5, 17, 42, 98, 98, 98]])
    arrays: dict[str, Any] = {
        "unet_config": np.array(json.dumps(dict(unet.config), default=str)),
        "text_config": np.array(json.dumps(text.config.to_dict(), default=str)),
        "sample": sample, "context": context, "ids": ids,
    }  # fmt: skip
    for spelling in ("none", "kohya", "kohya_conv", "peft", "diffusers", "dora"):
        pipe = StableDiffusionPipeline(None, text, None, unet, None, None, None, requires_safety_checker=False)
        keys: Keys = []
        if spelling != "none":
            for part, model in (("unet", unet), ("text_encoder", text)):
                if part == "text_encoder" and spelling in ("diffusers", "dora"):
                    continue
                for name, shape in targets(model, spelling == "kohya_conv"):
                    keys += spell(name, shape, spelling.removesuffix("_conv"), part)
            pipe.load_lora_weights({k: torch.from_numpy(adapter_tensor(k, s)) for k, s in keys}, adapter_name="x")
        with torch.no_grad():
            arrays[f"{spelling}/unet"] = unet(sample, 321, context).sample
            arrays[f"{spelling}/text"] = text(ids).last_hidden_state
            if spelling in ("kohya", "peft"):
                pipe.set_adapters(["x"], [0.6])
                arrays[f"{spelling}/unet_0.6"] = unet(sample, 321, context).sample
        arrays[f"{spelling}/keys"] = np.array(json.dumps(keys))
        if keys:
            pipe.unload_lora_weights()
    np.savez_compressed(
        GOLDENS / "lora_models.npz",
        **{k: np.asarray(v.detach() if isinstance(v, torch.Tensor) else v) for k, v in arrays.items()},
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    kinds()
    models()
