"""The averaged weights of a run in float16, with what a trained autoencoder's folder tells beside them.

    python small_export.py vae --run build/run_vae.run --model build/start --images build/small/unet --out build/model
    python small_export.py clip --run build/run_clip.run --model build/start/clip --out build/model
    python small_export.py unet --run build/run_unet.run --model build/model --out build/model

A run keeps float32 averages in its states; its own result is in the type that it computed with.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from app import environment

environment.prepare()

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from PIL import Image  # noqa: E402

from ppdiffusers.models.clip_vision import CLIPModel  # noqa: E402
from ppdiffusers.training import checkpoint  # noqa: E402
from ppdiffusers.weights.load import load_part  # noqa: E402


def averaged(model: Any, run: Path) -> int:
    """Set the averaged weights of the newest state; gives its step."""
    state = checkpoint.newest(run / "state")
    if state is None:
        raise SystemExit(f"{run} has no state yet")
    kind = "average." if any(key.startswith("average.") for key in state.tensors) else "master."
    parameters = dict(model.named_parameters())
    for key, tensor in state.tensors.items():
        if key.startswith(kind):
            parameters[key.removeprefix(kind)].set_value(tensor)
    return state.step


@paddle.no_grad()
def whiten(vae: Any, images: Path, count: int = 96) -> None:
    """Make the latents' channels uncorrelated, of mean 0 and deviation 1 over these pictures.

    The affine map (ZCA, Bell and Sejnowski 1997) goes into the 1x1 convolutions around the latents, so pictures come
    back as before and the scale is 1. Channels of one spread are what noise schedules assume.
    """
    paths = sorted(images.glob("*.png"))
    paths = paths[:: max(1, len(paths) // count)][:count]
    found = []
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32).transpose(2, 0, 1) / 127.5 - 1
        found.append(vae.encode(paddle.to_tensor(pixels[None])).latent_dist.mode().numpy())
    latents = np.concatenate(found).astype(np.float64)
    channels = latents.shape[1]
    rows = latents.swapaxes(0, 1).reshape(channels, -1)
    mean, (spread, axes) = rows.mean(axis=1), np.linalg.eigh(np.cov(rows))
    there, back = ((axes * spread**power) @ axes.T for power in (-0.5, 0.5))
    weight, bias = (getattr(vae.quant_conv, name).numpy().astype(np.float64) for name in ("weight", "bias"))
    weight[:channels] = np.einsum("cd,d...->c...", there, weight[:channels])
    bias[:channels] = there @ (bias[:channels] - mean)
    bias[channels:] += 2 * np.log(np.diag(there))  # the deviations shrink as the means do
    after, shift = (getattr(vae.post_quant_conv, name).numpy().astype(np.float64) for name in ("weight", "bias"))
    flat = after.reshape(channels, channels)
    put(vae.quant_conv, weight, bias)
    put(vae.post_quant_conv, (flat @ back).reshape(after.shape), shift + flat @ mean)


def put(layer: Any, weight: np.ndarray, bias: np.ndarray) -> None:
    layer.weight.set_value(weight.astype(np.float32))
    layer.bias.set_value(bias.astype(np.float32))


def replace_folder(new: Path, old: Path) -> None:
    """Put a finished folder in the place of another one."""
    gone = old.with_name(old.name + ".old")
    shutil.rmtree(gone, ignore_errors=True)
    if old.exists():
        old.rename(gone)
    new.rename(old)
    shutil.rmtree(gone, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("vae", "clip", "unet"))
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="where the run started from")
    parser.add_argument("--images", type=Path, help="pictures to whiten a new autoencoder's latents over")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    new = args.out / f"{args.part}.new"
    shutil.rmtree(new, ignore_errors=True)
    model = CLIPModel.from_pretrained(args.model) if args.part == "clip" else load_part(args.model, args.part)
    step = averaged(model, args.run)
    if args.images is not None:
        whiten(model, args.images)
    model.save_pretrained(new, dtype="float16")
    if args.part == "clip":
        for name in ("merges.txt", "vocab.json", "special_tokens_map.json", "tokenizer_config.json"):
            shutil.copyfile(args.model / name, new / name)
    if args.images is not None:
        config = json.loads((new / "config.json").read_text())
        config["scaling_factor"] = 1.0
        (new / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    replace_folder(new, args.out / args.part)
    print(f"{args.part}: step {step}")


if __name__ == "__main__":
    main()
