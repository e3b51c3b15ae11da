"""The models that come with MixStudio: whole, small, told about, and used where nothing else is named."""

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import paddle
import PIL.Image
import PIL.ImageDraw
import pytest

from app.cli import main
from app.requests import ControlParams, GenerateParams
from app.requests_blend import BlendParams
from app.requests_qr import QrParams
from app.settings import ROOT
from app.studio import Studio, results
from ppdiffusers.models.clip_vision import CLIPModel, normalised, unit
from ppdiffusers.models.controlnet import ControlNetModel
from ppdiffusers.patch import patched
from ppdiffusers.pipelines.infotext import extract
from ppdiffusers.pipelines.load import load_bundle
from ppdiffusers.prompt.tokenizer import CLIPTokenizer
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


def halves(side: int = 256) -> PIL.Image.Image:
    """Dark on the left, light on the right."""
    light = np.zeros((side, side), np.uint8)
    light[:, side // 2 :] = 255
    return PIL.Image.fromarray(light).convert("RGB")


def ring(side: int = 256) -> PIL.Image.Image:
    """White on black: the edge of a disc."""
    drawn = PIL.Image.new("RGB", (side, side))
    PIL.ImageDraw.Draw(drawn).ellipse((48, 48, side - 48, side - 48), outline="white")
    return drawn


def lightness(studio: Studio, **values) -> np.ndarray:
    """A picture of a house, with whatever else is asked for."""
    job = studio.submit(GenerateParams(**{"prompt": "a house", "seed": 2, "steps": 12, **values}))
    assert job.wait(120)
    assert job.error is None
    return np.asarray(next(iter(results(job))).picture().convert("L"), np.float32)


def test_the_qr_controlnet_leads_the_light(studio):
    """Modules of 8 pixels, as the flow shows them: light where they are light, against their surroundings."""
    modules = np.random.default_rng(0).random((32, 32)) < 0.5
    shown = PIL.Image.fromarray((modules * 255).astype(np.uint8)).resize((256, 256), PIL.Image.Resampling.NEAREST)

    def agreement(picture):
        light = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA)
        return float(((light > cv2.blur(light, (9, 9))) == modules).mean())

    unit = ControlParams(model="mini-controlnet-qr", image=shown.convert("RGB"), weight=1.3)
    assert 0.4 < agreement(lightness(studio)) < 0.6
    assert agreement(lightness(studio, controls=[unit])) > 0.8


def test_the_canny_controlnet_draws_along_the_edges(studio):
    drawn = ring()
    near = cv2.dilate(np.asarray(drawn.convert("L")), np.ones((9, 9), np.uint8)) > 0

    def share(picture):
        """Of all changes of lightness, those near the ring."""
        across, down = np.gradient(cv2.GaussianBlur(picture, (0, 0), 1.5))
        change = np.hypot(across, down)
        return float(change[near].sum() / change.sum())

    unit = ControlParams(model="mini-controlnet-canny", image=drawn)
    assert share(lightness(studio, controls=[unit])) > share(lightness(studio)) + 0.15


def test_a_blend_holds_its_shapes_with_a_controlnet(studio):
    asked = {"prompt": "a house", "size": 256, "steps": 8, "seed": 1, "strength": 0.7}
    made = {}
    for control in ("", "mini-controlnet-canny"):
        told = {"control": control, "control_reads": "canny", "control_weight": 1.0}
        job = studio.submit(BlendParams(image_a=halves(), image_b=ring(), **asked, **told))
        assert job.wait(180)
        assert job.error is None
        (saved,) = results(job)
        made[control] = np.asarray(saved.picture(), np.float32)
        assert ("mini-controlnet-canny" in (extract(saved.entry.path) or "")) == bool(control)
    assert np.abs(made[""] - made["mini-controlnet-canny"]).mean() > 2


@pytest.mark.parametrize("style", ["cyanotype", "woodcut", "pixel-art"])
def test_a_style_that_comes_along_is_found_by_its_name_and_seen(style, tmp_path):
    said = ["generate", "--seed", "1", "--steps", "8", "--prompt"]
    assert main([*said, "a red apple", "--out", str(tmp_path / "plain.png")]) == 0
    assert main([*said, f"a red apple <lora:{style}:1>", "--out", str(tmp_path / "styled.png")]) == 0
    plain, styled = (np.asarray(PIL.Image.open(tmp_path / f"{name}.png"), np.float32) for name in ("plain", "styled"))
    assert np.abs(plain - styled).mean() > 3


def test_the_pair_knows_an_apple_from_a_house():
    folder = STORE / "mini-clip"
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    said = ["a red apple, flat style", "a house"]
    drawn = PIL.Image.new("RGB", (128, 128), "white")
    PIL.ImageDraw.Draw(drawn).ellipse((24, 30, 104, 112), fill=(210, 30, 40))
    with paddle.no_grad():
        seen = unit(model.get_image_features(paddle.to_tensor(normalised(drawn, 128)[None])))
        texts = unit(model.get_text_features(paddle.to_tensor(tokenizer.rows(said, 77), dtype="int64")))
        likes = (seen @ texts.T).numpy()[0]
    assert likes[0] > likes[1]


REFERENCE = """
import sys
import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
folder, data, nets, *loras = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).to(torch.float32)
z = {k: torch.from_numpy(v) for k, v in np.load(data).items()}
told = {}
with torch.no_grad():
    told["latent"] = pipe.vae.encode(z["picture"]).latent_dist.mean.numpy()
    told["picture"] = pipe.vae.decode(torch.from_numpy(told["latent"])).sample.numpy()
    told["text"] = pipe.text_encoder(z["ids"]).last_hidden_state.numpy()
    told["plain"] = pipe.unet(z["x"], 300.0, z["text"]).sample.numpy()
    for name in nets.split(","):
        net = ControlNetModel.from_pretrained(name, torch_dtype=torch.float32)
        told[name] = net(z["x"], 300.0, z["text"], z["hint"])[1].numpy()
    for lora in loras:
        pipe.load_lora_weights(lora)
        told[lora] = pipe.unet(z["x"], 300.0, z["text"]).sample.numpy()
        pipe.unload_lora_weights()
np.savez(data, **told)
"""


@pytest.mark.parity
def test_diffusers_reads_the_model_and_says_the_same(tmp_path, reference_python):
    """The files are ordinary ones: every part, both ControlNets, and the UNet with each LoRA at full strength."""
    folder, data = locate("embedded"), tmp_path / "data.npz"
    loras = sorted((STORE / "Lora").glob("*.safetensors"))
    bundle, chance = load_bundle(folder, "float32"), np.random.default_rng(0)
    ids = np.array(bundle.text.encoders[0].tokenizer.rows(["a red fox", "a star, 3d style"], 77))
    sent = {
        "picture": chance.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32),
        "x": chance.standard_normal((2, 4, 32, 32)).astype(np.float32),
        "text": chance.standard_normal((2, 77, 256)).astype(np.float32),
        "hint": chance.uniform(0, 1, (2, 3, 256, 256)).astype(np.float32),
        "ids": ids,
    }
    nets = [str(STORE / f"mini-controlnet-{name}") for name in ("qr", "canny")]
    np.savez(data, **sent)
    words = [reference_python, "-c", REFERENCE, str(folder), str(data), ",".join(nets), *map(str, loras)]
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
        for name in nets:
            net = ControlNetModel.from_pretrained(name)
            x, text, hint = (paddle.to_tensor(sent[key]) for key in ("x", "text", "hint"))
            middle = net(x, 300.0, text, hint).mid_block_res_sample.numpy()
            np.testing.assert_allclose(middle, theirs[name], atol=1e-3)
        for lora in loras:
            with patched(bundle.models, [(plan_lora(read_lora(lora), bundle.models), 1.0)]):
                styled = unet()
            np.testing.assert_allclose(styled, theirs[str(lora)], atol=1e-3)
            assert np.abs(styled - theirs["plain"]).max() > 0.05
