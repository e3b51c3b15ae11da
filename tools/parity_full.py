"""Full-size models with random weights against diffusers and transformers, in float32: is every tensor in its place?

    MIXSTUDIO_REFERENCE_PYTHON=/path/to/python python tools/parity_full.py [part ...]

For each part the reference interpreter builds the model from our config.json, fills it with random numbers, saves it as
its own library does and runs it; then this interpreter loads that folder and runs the same inputs. One after the other,
so that memory holds one model at a time. Needs up to 11 GB of disk and 12 GB of memory for the UNet of XL.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "MIXSTUDIO_REFERENCE_PYTHON"
# part: preset, its field, our class, how large the input is
PARTS: dict[str, tuple[str, str, str, int]] = {
    "sd15_unet": ("SD15", "unet", "UNet2DConditionModel", 32),
    "sd15_controlnet": ("SD15", "controlnet", "ControlNetModel", 32),
    "sd15_vae": ("SD15", "vae", "AutoencoderKL", 32),
    "sd15_text": ("SD15", "text_encoder", "CLIPTextModel", 77),
    "sd21_unet": ("SD21", "unet", "UNet2DConditionModel", 32),
    "sd21_text": ("SD21", "text_encoder", "CLIPTextModel", 77),
    "sdxl_unet": ("SDXL", "unet", "UNet2DConditionModel", 32),
    "sdxl_text_2": ("SDXL", "text_encoder_2", "CLIPTextModelWithProjection", 77),
    "sdxl_refiner_unet": ("SDXL_REFINER", "unet", "UNet2DConditionModel", 32),
}
DEFAULT = ("sd15_unet", "sd15_controlnet", "sd15_vae", "sd15_text", "sdxl_unet", "sdxl_text_2")


def make_inputs(kind: str, config: dict[str, Any], size: int) -> dict[str, np.ndarray]:
    """What the model is called with, standard normal where that makes sense."""
    draw = np.random.RandomState(0).standard_normal
    if kind.startswith("CLIP"):
        ids = np.random.RandomState(0).randint(1, 49000, (2, size))
        ids[:, 0], ids[:, 60:] = 49406, 49407
        return {"ids": ids}
    if kind == "AutoencoderKL":
        return {"picture": draw((1, 3, 8 * size, 8 * size)), "latent": draw((1, 4, size, size))}
    made = {
        "sample": draw((1, 4, size, size)),
        "timestep": np.array([741.0]),
        "text": draw((1, 77, config["cross_attention_dim"])),
    }
    if kind == "ControlNetModel":
        made["picture"] = draw((1, 3, 8 * size, 8 * size))
    if config["addition_embed_type"]:
        pooled = 1280
        count = (config["projection_class_embeddings_input_dim"] - pooled) // config["addition_time_embed_dim"]
        made["text_embeds"] = draw((1, pooled))
        made["time_ids"] = np.array([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0][:count]])
    return made


def outputs(kind: str, model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Run a model of either library; their calls are the same."""
    if kind.startswith("CLIP"):
        out = model(given["ids"], output_hidden_states=True)
        pooled = {"text_embeds": out.text_embeds} if hasattr(out, "text_embeds") else {"pooled": out.pooler_output}
        return {"last": out.last_hidden_state, "penultimate": out.hidden_states[-2]} | pooled
    if kind == "AutoencoderKL":
        return {
            "mean": model.encode(given["picture"]).latent_dist.mean,
            "picture": model.decode(given["latent"]).sample,
        }
    names = ("text_embeds", "time_ids")
    added = {"added_cond_kwargs": {k: given[k] for k in names}} if "time_ids" in given else {}
    arguments = [given["sample"], given["timestep"], given["text"]]
    if kind == "ControlNetModel":
        out = model(*arguments, given["picture"], **added)
        return {"mid": out.mid_block_res_sample, "first": out.down_block_res_samples[0]}
    return {"sample": model(*arguments, **added).sample}


def reference(kind: str, size: int, folder: Path) -> None:
    """In the reference environment: build, fill, save, run."""
    import diffusers
    import torch
    import transformers

    config = json.loads((folder / "asked.json").read_text())
    if kind.startswith("CLIP"):
        model = getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
    else:
        model = getattr(diffusers, kind).from_config(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.normal_(0, 0.05 if "embedding.weight" in name else (value.numel() / value.shape[0]) ** -0.5)
            else:
                value.normal_(float(name.endswith("weight")), 0.1)
    model.eval().save_pretrained(folder / "model")
    made = make_inputs(kind, config, size)
    given = {k: torch.from_numpy(v if k == "ids" else v.astype(np.float32)) for k, v in made.items()}
    start = time.perf_counter()
    with torch.no_grad():
        outs = outputs(kind, model, given)
    report = {"seconds": time.perf_counter() - start}
    np.savez(folder / "wanted.npz", **{k: v.numpy() for k, v in outs.items()})
    (folder / "reference.json").write_text(
        json.dumps(report | {"parameters": sum(p.numel() for p in model.parameters())})
    )


def ours(kind: str, size: int, folder: Path) -> None:
    """In the product's environment: load what the reference saved, run, compare."""
    sys.path.insert(0, str(ROOT))
    from app import environment

    environment.prepare()
    import paddle

    import ppdiffusers

    start = time.perf_counter()
    model = getattr(ppdiffusers, kind).from_pretrained(folder / "model")
    loaded = time.perf_counter()
    made = make_inputs(kind, json.loads((folder / "asked.json").read_text()), size)
    given = {k: paddle.to_tensor(v if k == "ids" else v.astype(np.float32)) for k, v in made.items()}
    with paddle.no_grad():
        outs = outputs(kind, model, given)
        done = time.perf_counter()
    errors = {}
    with np.load(folder / "wanted.npz") as wanted:
        for name in wanted.files:
            difference = np.abs(outs[name].numpy().astype(np.float64) - wanted[name])
            errors[name] = [float(difference.max() / np.abs(wanted[name]).max())]
            errors[name].append(float(np.linalg.norm(difference) / np.linalg.norm(wanted[name].astype(np.float64))))
    report = {"load": loaded - start, "seconds": done - loaded, "errors": errors}
    report["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (folder / "ours.json").write_text(json.dumps(report))


def compare(part: str, python: str) -> str:
    """Rows of the table for one part."""
    sys.path.insert(0, str(ROOT))
    from ppdiffusers.models import config

    preset, field, kind, size = PARTS[part]
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        (folder / "asked.json").write_text(json.dumps(getattr(getattr(config, preset), field).to_dict()))
        for interpreter, side in ((python, "reference"), (sys.executable, "ours")):
            # from another folder than the repository, whose `kernels` the reference's libraries would find
            subprocess.run([interpreter, str(Path(__file__)), f"--{side}", kind, str(size), name], check=True, cwd=name)
        theirs, mine = (json.loads((folder / f"{side}.json").read_text()) for side in ("reference", "ours"))
    model = f"{theirs['parameters'] / 1e6:.0f} M | {size}"
    peak = f"{mine['peak_gib']:.1f}"
    errors = mine["errors"].items()
    rows = [f"| {part} | {out} | {model} | {top:.1e} | {norm:.1e} | {peak} |" for out, (top, norm) in errors]
    return "\n".join(rows)


def main(parts: list[str]) -> None:
    python = os.environ.get(REFERENCE)
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not python:
        raise SystemExit(f"set {REFERENCE}; parts are {', '.join(PARTS)}" + (f", not {unknown[0]}" if unknown else ""))
    print("| part | output | parameters | size | largest error / largest value | error norm / norm | our peak GiB |")
    print("|---|---|---|---|---|---|---|")
    for part in parts:
        print(compare(part, python), flush=True)


if __name__ == "__main__":
    SIDES = {"--reference": reference, "--ours": ours}
    if sys.argv[1:2] and sys.argv[1] in SIDES:
        SIDES[sys.argv[1]](sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main(sys.argv[1:] or list(DEFAULT))
