"""The models that come with MixStudio: whole, small, told about, and used where nothing else is named."""

import json
import subprocess
from pathlib import Path

import numpy as np
import paddle
import PIL.Image
import pytest

from app.requests import GenerateParams
from app.requests_qr import QrParams
from app.settings import ROOT
from app.studio import Studio, results
from ppdiffusers.patch import patched
from ppdiffusers.pipelines.load import load_bundle
from ppdiffusers.weights.lora import plan_lora, read_lora
from ppdiffusers.weights.source import STORE, ModelStore, locate

LIMIT = 160 << 20  # bytes of all weights together


@pytest.fixture
def studio(tmp_path, monkeypatch):
    monkeypatch.setattr("app.catalog.EMBEDDED", STORE)
    with Studio.open(tmp_path) as opened:
        yield opened


def test_all_of_them_together_are_small():
    assert sum(file.stat().st_size for file in STORE.rglob("*") if file.is_file()) <= LIMIT


def test_every_model_has_its_licence_and_its_card():
    told = (STORE / "README.md").read_text(encoding="utf-8")
    for name in ModelStore(STORE).names():
        assert f"`{name}`" in told, f"{name} is not in assets/models/README.md"
    assert "CC BY-SA 4.0" in told
    assert (ROOT / "docs" / "models" / "mini-diffusion.md").is_file()


def test_the_catalogue_offers_it_first(studio):
    model = studio.catalog.default()
    assert model.name == "mini-diffusion"
    assert model.embedded
    assert not model.problem
    told = studio.runtime.recommended()
    assert (told["width"], told["height"]) == (256, 256)


def test_a_prompt_alone_makes_the_picture_that_it_asks_for(studio):
    """A red apple on white: red in the middle, white around; the seed decides the rest."""
    job = studio.submit(GenerateParams(prompt="a red apple, flat style", seed=1))
    assert job.wait(120)
    assert job.error is None
    (saved,) = results(job)
    picture = np.asarray(saved.picture().convert("RGB"), np.float32)
    assert picture.shape == (256, 256, 3)
    middle, rim = picture[96:160, 96:160].mean((0, 1)), picture[:16, :16].mean((0, 1))
    assert middle[0] > 120
    assert middle[0] - middle[2] > 60
    assert rim.min() > 200


def test_the_pipeline_is_found_by_its_name():
    folder = locate("embedded")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert {"unet", "vae", "text_encoder", "tokenizer", "scheduler"} <= {p.name for p in Path(folder).iterdir()}


def test_a_code_with_nothing_but_a_text_and_a_prompt_scans(studio):
    job = studio.submit(QrParams(text="https://example.org", prompt="a flat icon of a sunflower", seed=3))
    assert job.wait(300)
    assert job.error is None
    best = next(iter(results(job)))
    assert best.extra["qr"]["ok"], best.extra["qr"]["reasons"]
    assert isinstance(best.picture(), PIL.Image.Image)


REFERENCE = """
import sys
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
folder, data, *loras = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).to(torch.float32)
z = {k: torch.from_numpy(v) for k, v in np.load(data).items()}
told = {}
with torch.no_grad():
    told["latent"] = pipe.vae.encode(z["picture"]).latent_dist.mean.numpy()
    told["picture"] = pipe.vae.decode(torch.from_numpy(told["latent"])).sample.numpy()
    told["text"] = pipe.text_encoder(z["ids"]).last_hidden_state.numpy()
    told["plain"] = pipe.unet(z["x"], 300.0, z["text"]).sample.numpy()
    for lora in loras:
        pipe.load_lora_weights(lora)
        told[lora] = pipe.unet(z["x"], 300.0, z["text"]).sample.numpy()
        pipe.unload_lora_weights()
np.savez(data, **told)
"""


@pytest.mark.parity
def test_diffusers_reads_the_model_and_says_the_same(tmp_path, reference_python):
    """The files are ordinary ones: every part, and the UNet with each LoRA that is there, at full strength."""
    folder, data = locate("embedded"), tmp_path / "data.npz"
    loras = sorted((STORE / "Lora").glob("*.safetensors"))
    bundle, chance = load_bundle(folder, "float32"), np.random.default_rng(0)
    ids = np.array(bundle.text.encoders[0].tokenizer.rows(["a red fox", "a star, 3d style"], 77))
    sent = {
        "picture": chance.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32),
        "x": chance.standard_normal((2, 4, 32, 32)).astype(np.float32),
        "text": chance.standard_normal((2, 77, 256)).astype(np.float32),
        "ids": ids,
    }
    np.savez(data, **sent)
    words = [reference_python, "-c", REFERENCE, str(folder), str(data), *map(str, loras)]
    subprocess.run(words, check=True, cwd=tmp_path)
    theirs = np.load(data)

    def unet():
        x, text = paddle.to_tensor(sent["x"]), paddle.to_tensor(sent["text"])
        return bundle.unet(x, 300.0, text).sample.numpy()

    with paddle.no_grad():
        latent = bundle.vae.encode(paddle.to_tensor(sent["picture"])).latent_dist.mean
        np.testing.assert_allclose(latent.numpy(), theirs["latent"], atol=1e-3)
        decoded = bundle.vae.decode(paddle.to_tensor(theirs["latent"])).sample.numpy()
        np.testing.assert_allclose(decoded, theirs["picture"], atol=1e-3)
        told = bundle.text.encoders[0].model(paddle.to_tensor(ids, dtype="int64")).last_hidden_state
        np.testing.assert_allclose(told.numpy(), theirs["text"], atol=1e-3)
        np.testing.assert_allclose(unet(), theirs["plain"], atol=1e-3)
        for lora in loras:
            with patched(bundle.models, [(plan_lora(read_lora(lora), bundle.models), 1.0)]):
                styled = unet()
            np.testing.assert_allclose(styled, theirs[str(lora)], atol=1e-3)
            assert np.abs(styled - theirs["plain"]).max() > 0.05
