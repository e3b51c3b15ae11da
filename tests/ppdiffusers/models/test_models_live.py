"""Live against diffusers and transformers: they load the folders that we save, and compute the same."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdiffusers.models.clip import CLIPTextModel, CLIPTextModelWithProjection
from ppdiffusers.models.config import TINY_SD15, TINY_SD21, TINY_SDXL, TINY_SDXL_REFINER
from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.models.unet import UNet2DConditionModel
from ppdiffusers.models.vae import AutoencoderKL
from tests.ppdiffusers.models.conftest import error, fill
from tools.parity_full import make_inputs, outputs

PYTHON = os.environ.get("MIXSTUDIO_REFERENCE_PYTHON")
TOOLS = Path(__file__).parents[3] / "tools"
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not PYTHON, reason="MIXSTUDIO_REFERENCE_PYTHON names no interpreter with torch and diffusers"),
]
MODELS = {
    "sd15_unet": (UNet2DConditionModel, TINY_SD15.unet),
    "sd21_unet": (UNet2DConditionModel, TINY_SD21.unet),
    "controlnet": (ControlNetModel, TINY_SD15.controlnet),
    "vae": (AutoencoderKL, TINY_SD15.vae),
    "vit_l": (CLIPTextModel, TINY_SD15.text_encoder),
    "big_g": (CLIPTextModelWithProjection, TINY_SDXL.text_encoder_2),
}
REFERENCE = """
import sys, numpy as np, torch, diffusers, transformers
sys.path.append(sys.argv[1])
from parity_full import outputs
kind, folder = sys.argv[2], sys.argv[3]
library = transformers if kind.startswith("CLIP") else diffusers
model, info = getattr(library, kind).from_pretrained(folder, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
with np.load(folder + "/given.npz") as file, torch.no_grad():
    given = {k: torch.from_numpy(v) for k, v in file.items()}
    outs = outputs(kind, model.eval(), given)
np.savez(folder + "/wanted.npz", **{k: v.numpy() for k, v in outs.items()})
"""


@pytest.mark.parametrize("name", MODELS)
def test_they_load_what_we_save(tmp_path, name):
    kind, config = MODELS[name]
    model = fill(kind(config))
    model.save_pretrained(tmp_path)
    size = 77 if kind.__name__.startswith("CLIP") else 8
    made = make_inputs(kind.__name__, config.to_dict(), size)
    given = {k: v if k == "ids" else v.astype("float32") for k, v in made.items()}
    np.savez(tmp_path / "given.npz", **given)
    command = [PYTHON, "-c", REFERENCE, str(TOOLS), kind.__name__, str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    with paddle.no_grad():
        outs = outputs(kind.__name__, model, {k: paddle.to_tensor(v) for k, v in given.items()})
    with np.load(tmp_path / "wanted.npz") as wanted:
        assert max(error(outs[k], wanted[k]) for k in wanted.files) < 1e-5


@pytest.mark.parametrize("preset", [TINY_SDXL, TINY_SDXL_REFINER])
def test_they_read_the_configs_of_xl(tmp_path, preset):
    (tmp_path / "config.json").write_text(json.dumps(preset.unet.to_dict()))
    code = "import diffusers, json; diffusers.UNet2DConditionModel.from_config(json.load(open('config.json')))"
    subprocess.run([PYTHON, "-c", code], check=True, cwd=tmp_path, capture_output=True)
