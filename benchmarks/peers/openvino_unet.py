"""OpenVINO's CPU plugin on the UNet converted from PyTorch, with float32 or bfloat16 execution."""

import sys

import numpy as np
import openvino
import torch
from diffusers import UNet2DConditionModel
from measure import report

folder, dtype, runs, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
inputs = dict(np.load(f"{folder}/inputs.npz"))


class Step(torch.nn.Module):
    """The UNet with positional tensors only, as the converter wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet").eval()

    def forward(self, sample, text, *added):  # noqa: ANN001, ANN002, ANN201
        """One denoising step."""
        extra = {"text_embeds": added[0], "time_ids": added[1]} if added else None
        return self.unet(sample, torch.tensor(500), text, added_cond_kwargs=extra, return_dict=False)[0]


with torch.no_grad():
    step = Step()
    model = openvino.convert_model(step, example_input=tuple(torch.from_numpy(v) for v in inputs.values()))
del step  # the converted model holds what it needs
core = openvino.Core()
precision = "bf16" if dtype == "bf16" else "f32"
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads})
report(lambda: compiled(list(inputs.values()))[0], runs)
