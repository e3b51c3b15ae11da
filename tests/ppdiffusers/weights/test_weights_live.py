"""What we write, diffusers and transformers load; what they write, we load; tensor by tensor, bit for bit."""

import os
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from ppdiffusers.pipelines.save import save_diffusers
from ppdiffusers.weights.load import load
from ppdiffusers.weights.save import named, save_ldm
from tests.ppdiffusers.weights.conftest import FAMILIES, checkpoint, same_parts

PYTHON = os.environ.get("MIXSTUDIO_REFERENCE_PYTHON")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not PYTHON, reason="MIXSTUDIO_REFERENCE_PYTHON names no interpreter with torch and diffusers"),
]
PIPELINES = {
    "sd15": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl-base": "StableDiffusionXLPipeline",
    "sdxl-refiner": "StableDiffusionXLImg2ImgPipeline",
}
READ = """
import sys, diffusers, safetensors.torch
kind, folder, file = sys.argv[1:]
kind = getattr(diffusers, kind)
def dump(pipe, name):
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        model = getattr(pipe, part, None)
        if model is not None:
            state = {k: v.contiguous() for k, v in model.state_dict().items() if not k.endswith("position_ids")}
            safetensors.torch.save_file(state, f"{name}-{part}.safetensors")
dump(kind.from_pretrained(folder), "folder")
dump(kind.from_single_file(file, config=folder), "single")
"""
WRITE = """
import sys, torch, diffusers
kind, folder = sys.argv[1:]
pipe = getattr(diffusers, kind).from_pretrained(folder)
pipe.save_pretrained("again", max_shard_size="300KB")
pipe.save_pretrained("pickled", safe_serialization=False)
pipe.to(torch.float16).save_pretrained("half", variant="fp16")
"""


def reference(code, where, *arguments):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [PYTHON, "-c", code, *map(str, arguments)], cwd=where, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_loads_both_of_our_forms(tmp_path, family):
    parts = checkpoint(family)
    save_diffusers(parts, tmp_path / "folder")
    save_ldm(parts, tmp_path / "single.safetensors")
    reference(READ, tmp_path, PIPELINES[family], tmp_path / "folder", tmp_path / "single.safetensors")
    for name, model in named(parts).items():
        ours = load_file(tmp_path / "folder" / name / f"{model.WEIGHTS_NAME}.safetensors")
        for form in ("folder", "single"):
            theirs = load_file(tmp_path / f"{form}-{name}.safetensors")
            bare = {k if k in theirs else k.removeprefix("text_model."): v for k, v in ours.items()}
            assert bare.keys() == theirs.keys()
            assert all(np.array_equal(bare[k], theirs[k]) for k in bare), form


@pytest.mark.parametrize("family", FAMILIES)
def test_we_load_shards_pickles_and_variants_of_diffusers(tmp_path, family):
    parts = checkpoint(family)
    save_diffusers(parts, tmp_path / "folder")
    reference(WRITE, tmp_path, PIPELINES[family], tmp_path / "folder")
    assert list((tmp_path / "again" / "unet").glob("*-of-*.safetensors"))
    assert (tmp_path / "pickled" / "unet" / "diffusion_pytorch_model.bin").exists()
    for form in ("again", "pickled"):
        assert same_parts(parts, load(tmp_path / form)), form
    save_diffusers(parts, tmp_path / "ours16", dtype="float16")
    assert same_parts(load(tmp_path / "ours16", "float16"), load(tmp_path / "half", "float16", variant="fp16"))
