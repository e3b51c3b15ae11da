"""Checkpoint files of every format give the numbers that were put in."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from ppdiffusers.weights.dtype import FLOAT8, finite, to_array
from ppdiffusers.weights.file import find_weights, open_tensors
from ppdiffusers.weights.unpickle import read_pickle

GOLDENS = Path(__file__).parents[2] / "goldens" / "weights"
BASE = np.arange(24, dtype=np.float32)
EXPECTED = {
    "plain": BASE.reshape(4, 6),
    "transposed": BASE.reshape(4, 6).T,
    "window": BASE.reshape(4, 6)[1:3, 2:5],
    "every_second": BASE[::2],
    "expanded": np.repeat(BASE[:3, None], 4, axis=1),
    "scalar": BASE[5],
    "empty": BASE[:0].reshape(0, 3),
    "parameter": np.arange(6, dtype=np.float32).reshape(2, 3),
}
COUNTED = {"float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}


def test_safetensors_tensors_metadata_and_dtypes(tmp_path):
    tensors = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3),
        "scalar": np.array(3, np.int64),
        "none": np.zeros((0, 3)),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"author": "me"})
    with open_tensors(tmp_path / "x.safetensors") as file:
        assert file.metadata == {"author": "me"}
        assert file.shapes == {"a": (2, 3), "scalar": (), "none": (0, 3)}
        assert file.dtypes == {"a": "F16", "scalar": "I64", "none": "F64"}
        for key, value in tensors.items():
            assert file.read(key).numpy().dtype == value.dtype
            assert np.array_equal(file.read(key).numpy(), value)


def test_a_tensor_outlives_its_file(tmp_path):
    save_file({"a": np.arange(1000, dtype=np.float32)}, tmp_path / "x.safetensors")
    with open_tensors(tmp_path / "x.safetensors") as file:
        tensor = file.read("a")
    del file
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert float(tensor.sum()) == 499500
    tensor += 1  # the memory is the tensor's own
    assert float(tensor.sum()) == 500500


@pytest.mark.parametrize("name", ["training.ckpt", "training_legacy.ckpt", "weights.bin"])
def test_pickled_checkpoints_as_torch_writes_them(name):
    with open_tensors(GOLDENS / name) as file:
        assert set(file.shapes) == EXPECTED.keys() | COUNTED
        for key, value in EXPECTED.items():
            assert np.array_equal(file.read(key).numpy(), value), key
        for key in COUNTED:
            tensor = file.read(key)
            assert str(tensor.dtype) == f"paddle.{key}"
            assert tensor.astype("float32").tolist() == ([0, 1, 1, 1, 1] if key == "bool" else [0, 1, 2, 3, 4])


def test_plain_values_of_a_training_checkpoint_are_its_metadata():
    with open_tensors(GOLDENS / "training.ckpt") as file:
        assert file.metadata["global_step"] == "875000"


def test_textual_inversions_in_pickles():
    assert open_tensors(GOLDENS / "inversion.pt").shapes == {"string_to_token.*": (), "string_to_param.*": (2, 4)}
    assert open_tensors(GOLDENS / "inversion.pt").metadata == {"name": "counting", "step": "500"}
    assert open_tensors(GOLDENS / "learned_embeds.bin").read("<cat>").tolist() == [0, 1, 2, 3]


def _shards(folder: Path, stem: str = "diffusion_pytorch_model") -> dict[str, str]:
    weight_map = {}
    for i in range(2):
        name = f"{stem}-0000{i + 1}-of-00002.safetensors"
        save_file({f"k{i}": np.full(3, i, np.float32)}, folder / name)
        weight_map[f"k{i}"] = name
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def test_shards_are_one_file(tmp_path):
    _shards(tmp_path)
    with open_tensors(tmp_path) as file:
        assert file.shapes == {"k0": (3,), "k1": (3,)}
        assert file.read("k1").tolist() == [1, 1, 1]


def test_a_missing_shard_is_named(tmp_path):
    weight_map = _shards(tmp_path)
    (tmp_path / weight_map["k1"]).unlink()
    with pytest.raises(ValueError, match=r"lists 2 shards, 1 are missing, first .*00002-of-00002"):
        open_tensors(tmp_path)


def test_a_shard_without_a_promised_tensor_is_named(tmp_path):
    weight_map = _shards(tmp_path)
    index = {"weight_map": weight_map | {"other": weight_map["k1"]}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks 1 tensors that .* promises, first 'other'"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"weight_map": {"a": "../secret"}}', '{"weight_map": {}}', '"\\ud800"']
)
def test_an_index_that_is_no_index(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json"):
        open_tensors(tmp_path)


def test_safetensors_come_before_bin_and_the_variant_is_asked_for(tmp_path):
    for name in ("model.fp16.safetensors", "model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).touch()
    assert find_weights(tmp_path).name == "model.safetensors"
    assert find_weights(tmp_path, "fp16").name == "model.fp16.safetensors"
    (tmp_path / "model.safetensors").unlink()
    assert find_weights(tmp_path).name == "pytorch_model.bin"
    (tmp_path / "pytorch_model.bin").unlink()
    assert find_weights(tmp_path).name == "model.fp16.safetensors"
    with pytest.raises(ValueError, match="has no weights of variant 'bf16'"):
        find_weights(tmp_path, "bf16")


def test_eight_bit_floats_by_definition():
    # the limits named in arXiv:2209.05433, table 1
    assert FLOAT8["F8_E4M3"][[0x7E, 0x08, 0x01]].tolist() == [448, 2.0**-6, 2.0**-9]
    assert FLOAT8["F8_E5M2"][[0x7B, 0x04, 0x01]].tolist() == [57344, 2.0**-14, 2.0**-16]
    assert np.isnan(FLOAT8["F8_E4M3"][0xFF])
    assert FLOAT8["F8_E5M2"][0xFC] == -np.inf


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_finite_sees_every_kind_of_bad_number_and_no_other(dtype):
    good = [0.0, -0.0, 1.5, -65504.0, 6e-5, 5.9e-8]
    assert finite(*to_array(paddle.to_tensor(good, dtype=dtype)))
    for bad in (float("nan"), -float("nan"), float("inf"), -float("inf")):
        assert not finite(*to_array(paddle.to_tensor([*good, bad], dtype=dtype))), bad


def test_reading_a_pickle_reads_no_storage():
    stored, _ = read_pickle(GOLDENS / "training.ckpt")
    assert stored["plain"].start == stored["transposed"].start  # one storage, two tensors
