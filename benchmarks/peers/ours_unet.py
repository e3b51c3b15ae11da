"""Our UNet with packed weights."""

import sys

import numpy as np
from measure import report

from app.environment import prepare

folder, dtype, runs, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
prepare()

import paddle  # noqa: E402

from ppdiffusers.models.layers import pack  # noqa: E402
from ppdiffusers.models.unet import UNet2DConditionModel  # noqa: E402

paddle.base.core.set_num_threads(threads)
kind = "bfloat16" if dtype == "bf16" else "float32"
unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet", dtype=kind)
unet.eval()
pack(unet)
inputs = {name: paddle.to_tensor(value).astype(kind) for name, value in np.load(f"{folder}/inputs.npz").items()}
added = {"text_embeds": inputs["pooled"], "time_ids": inputs["time_ids"]} if "pooled" in inputs else None


def step() -> np.ndarray:
    """One denoising step."""
    with paddle.no_grad():
        return unet(inputs["sample"], 500, inputs["text"], added_cond_kwargs=added).sample.astype("float32").numpy()


report(step, runs)
