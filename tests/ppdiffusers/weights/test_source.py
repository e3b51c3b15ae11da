"""Files, folders and names of embedded models; a store made for the test stands in for the one that is shipped."""

from pathlib import Path

import numpy as np
import pytest

from ppdiffusers import StableDiffusionPipeline
from ppdiffusers.models.clip_vision import CLIPModel
from ppdiffusers.weights import source
from ppdiffusers.weights.load import load_part
from ppdiffusers.weights.source import ModelSource, ModelStore, locate
from tests.app.conftest import put_tiny


@pytest.fixture
def store(tmp_path, monkeypatch) -> ModelStore:
    root = tmp_path / "store"
    put_tiny(root / "mini-diffusion")
    (root / "style.safetensors").write_bytes(b"")
    monkeypatch.setattr(source, "STORE", root)
    return ModelStore(root)


@pytest.mark.parametrize(
    ("text", "place", "revision", "embedded"),
    [
        ("embedded", "embedded", "", "mini-diffusion"),
        ("embedded/", "embedded/", "", "mini-diffusion"),
        ("embedded/mini-clip", "embedded/mini-clip", "", "mini-clip"),
        ("owner/name@fp16", "owner/name", "fp16", None),
        ("owner/name", "owner/name", "", None),
        ("some@home.safetensors", "some@home.safetensors", "", None),
        ("/a/b@c/model.safetensors", "/a/b@c/model.safetensors", "", None),
    ],
)
def test_parse(text, place, revision, embedded):
    asked = ModelSource.parse(text)
    assert (asked.place, asked.revision, asked.embedded) == (place, revision, embedded)
    assert ModelSource.parse(asked) is asked


def test_the_store_names_what_it_has_the_default_first(store):
    assert store.names() == ("mini-diffusion", "style.safetensors")
    assert store.find("style") == store.root / "style.safetensors"
    with pytest.raises(ValueError, match=r"no embedded model is called 'mini'; there are mini-diffusion, style"):
        store.find("mini")
    with pytest.raises(ValueError, match="no embedded model"):
        store.find("../store/../..")


def test_an_installation_without_models_says_so(tmp_path):
    with pytest.raises(ValueError, match="came without its embedded models"):
        locate("embedded", ModelStore(tmp_path / "nothing"))


def test_a_folder_of_that_name_comes_first(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("embedded") == store.root / "mini-diffusion"
    (tmp_path / "embedded").mkdir()
    assert locate("embedded") == Path("embedded")


@pytest.mark.parametrize("text", ["owner/name", "owner/name@main"])
def test_a_hub_name_is_not_downloaded_but_explained(text):
    with pytest.raises(ValueError, match=f"models add {text}"):
        locate(text)


def test_a_missing_file_is_told():
    with pytest.raises(ValueError, match=r"no file or folder nothing\.safetensors"):
        locate("nothing.safetensors")


def test_the_embedded_pipeline_makes_a_picture_of_its_own_size(store):
    pipe = StableDiffusionPipeline.from_pretrained("embedded", dtype="float32")
    assert pipe.bundle.name == "mini-diffusion"
    config = pipe.bundle.unet.config
    images = [pipe("a fox", num_inference_steps=2, seed=3).images[0] for _ in range(2)]
    assert images[0].size == ((config.sample_size or 64) * pipe.bundle.factor,) * 2
    assert np.array_equal(*map(np.asarray, images))


def test_parts_and_models_load_by_name(store):
    assert load_part("embedded", "vae").config == load_part(store.root / "mini-diffusion", "vae").config
    with pytest.raises(ValueError, match="no embedded model is called 'mini-clip'"):
        CLIPModel.from_pretrained("embedded/mini-clip")
