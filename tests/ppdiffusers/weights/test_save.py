"""Saving is all or nothing: a full disk or a bad number leaves what was there before."""

import errno
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors import safe_open

from ppdiffusers.models.layers import pack
from ppdiffusers.pipelines.save import save_diffusers
from ppdiffusers.weights import write
from ppdiffusers.weights.file import open_tensors
from ppdiffusers.weights.load import load
from ppdiffusers.weights.save import save_ldm
from ppdiffusers.weights.write import Entry, write_tensors, write_text
from tests.ppdiffusers.weights.conftest import checkpoint


def entry(value):
    return Entry("F32", value.shape, lambda: value)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def full_disk(monkeypatch):
    """Writing fails after the first 100 bytes, as on a full disk."""
    really = Path.open

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 100

        def write(self, data):
            if len(data) > self.left:
                self.file.write(data[: self.left])
                raise OSError(errno.ENOSPC, "No space left on device")
            self.left -= len(data)
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *why):
            return self.file.__exit__(*why)

    def opened(path, mode="r", *rest, **options):
        file = really(path, mode, *rest, **options)
        return Full(file) if "w" in mode else file

    monkeypatch.setattr(Path, "open", opened)


def test_the_official_reader_reads_our_files(tmp_path):
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.zeros((0, 2), np.float32)}
    write_tensors(tmp_path / "x.safetensors", {key: entry(value) for key, value in values.items()}, {"made": "here"})
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt", "made": "here"}
        assert all(np.array_equal(file.get_tensor(key), value) for key, value in values.items())


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, full_disk):
    with pytest.raises(
        ValueError, match=r"x\.safetensors could not be saved: the disk is full; nothing of it was left"
    ):
        write_tensors(tmp_path / "x.safetensors", {"a": entry(np.zeros(100, np.float32))}, {})
    assert files(tmp_path) == []


def test_an_old_file_stays_when_the_new_one_fails(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": entry(np.zeros(3, np.float32))}, {})
    before = path.read_bytes()

    def fails():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ValueError, match="the disk is full"):
        write_tensors(path, {"a": Entry("F32", (3,), fails)}, {})
    assert path.read_bytes() == before
    assert files(tmp_path) == ["x.safetensors"]


def test_a_pipeline_folder_without_its_index_is_not_complete(tmp_path, sd15, monkeypatch):
    def fails(path, content):
        raise ValueError("the disk is full")

    save_diffusers(sd15, tmp_path / "old")
    monkeypatch.setattr("ppdiffusers.weights.save.write_json", fails)
    with pytest.raises(ValueError, match="the disk is full"):
        save_diffusers(sd15, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    # one that was there before is not a mixture of two models
    with pytest.raises(ValueError, match="the disk is full"):
        save_diffusers(sd15, tmp_path / "old")
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        load(tmp_path / "old")


def test_a_folder_that_may_not_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="could not be saved"):
        write_text(tmp_path / "file" / "x.json", "{}")


def test_bad_numbers_are_not_saved(tmp_path):
    parts = checkpoint("sd15")
    parts.vae.quant_conv.bias.set_value(paddle.full([8], float("nan")))
    with pytest.raises(ValueError, match=r"first_stage_model\.quant_conv\.bias is NaN or infinite"):
        save_ldm(parts, tmp_path / "x.safetensors")
    parts.vae.quant_conv.bias.set_value(paddle.full([8], 70000.0))
    with pytest.raises(ValueError, match=r"quant_conv\.bias is NaN or infinite as float16"):
        save_ldm(parts, tmp_path / "x.safetensors", "float16")
    assert files(tmp_path) == []


def test_a_packed_model_is_saved_with_the_same_bits(tmp_path):
    parts = checkpoint("sd15")
    save_ldm(parts, tmp_path / "plain.safetensors")
    for model in (parts.unet, parts.vae, *parts.text_encoders):
        pack(model)
    save_ldm(parts, tmp_path / "packed.safetensors")
    assert (tmp_path / "plain.safetensors").read_bytes() == (tmp_path / "packed.safetensors").read_bytes()


def test_what_shapes_do_not_show_is_in_the_metadata(tmp_path, sd15):
    save_ldm(sd15, tmp_path / "x.safetensors")
    metadata = open_tensors(tmp_path / "x.safetensors").metadata
    assert metadata["modelspec.prediction_type"] == "epsilon"
    assert set(json.loads(metadata["mixstudio.configs"])) == {"unet", "vae", "text_encoder"}


def test_a_lie_about_an_entry_is_our_own_mistake(tmp_path):
    with pytest.raises(AssertionError, match="announced"):
        write.write_tensors(tmp_path / "x.safetensors", {"a": Entry("F32", (4,), lambda: np.zeros(3, np.float32))}, {})
    assert files(tmp_path) == []
