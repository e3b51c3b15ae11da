"""Wrong, damaged and hostile files: one clear ValueError each, and nothing of them runs."""

import collections
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from ppdiffusers.weights.file import open_tensors

GOLDENS = Path(__file__).parents[2] / "goldens" / "weights"
GOOD = save({"a": np.arange(4, dtype=np.float32), "b": np.arange(3, dtype=np.int64)})


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(start, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


FILES = {
    "empty": (b"", "is empty"),
    "short": (b"abc", "not a safetensors file"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "looks like a PNG picture"),
    "html": (b"<!DOCTYPE html><html>log in</html>", "looks like an HTML or XML page"),
    "json": (b'{"error": "unauthorized", "message": "log in"}', "looks like a JSON text"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "zip": ((GOLDENS / "weights.bin").read_bytes(), "looks like a zip archive"),
    "pickle": ((GOLDENS / "training_legacy.ckpt").read_bytes(), "looks like a pickle"),
    "header length": ((2**40).to_bytes(8, "little") + bytes(50), "a header of 1,099,511,627,776 bytes"),
    "header cut": (GOOD[:40], r"truncated: its header alone"),
    "data cut": (GOOD[:-10], r"truncated: 30 of 40 bytes of tensors are there \(10 missing\)"),
    "data long": (GOOD + b"more", "4 bytes follow the last tensor"),
    "no json": (safetensors(b"{nonsense}"), "header is not JSON"),
    "no utf-8": (safetensors(b"{\xff\xfe}"), "header is not JSON"),
    "deep json": (safetensors(b"[" * 100_000), "header is not JSON"),
    "list": (safetensors([1, 2]), "not a JSON object"),
    "no entry": (safetensors({"a": 1}), "'a' has no dtype, shape and data_offsets"),
    "dtype": (safetensors({"a": entry(0, 8, dtype="F1")}, bytes(8)), "dtype 'F1'; accepted are"),
    "dtype list": (safetensors({"a": entry(0, 8, dtype=[])}, bytes(8)), "dtype"),
    "negative": (safetensors({"a": entry(-8, 0)}, bytes(8)), "not two numbers from 0 up"),
    "negative shape": (safetensors({"a": entry(0, 8, (-1, -2))}, bytes(8)), "has the shape"),
    "shape": (safetensors({"a": entry(0, 8, "xy")}, bytes(8)), "has the shape"),
    "bool shape": (safetensors({"a": entry(0, 4, (True,))}, bytes(4)), "has the shape"),
    "backwards": (safetensors({"a": entry(8, 0)}, bytes(8)), "its data_offsets give -8"),
    "size": (safetensors({"a": entry(0, 12)}, bytes(12)), "needs 8 bytes"),
    "overlap": (safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "'a' and 'b' overlap"),
    "hole": (safetensors({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)), "4 unused bytes before tensor 'b'"),
    "twice": (safetensors(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}}'), "has 'a' twice"),
    "metadata": (safetensors({"__metadata__": []}), "__metadata__ is not an object"),
    "huge": (safetensors({"a": entry(0, 2**62, (2**60,))}), "truncated"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_safetensors(tmp_path, name):
    content, message = FILES[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        open_tensors(path)
    assert "model.safetensors" in str(error.value)


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.integers(0, len(GOOD)))
def test_any_damage_is_seen_or_harmless(tmp_path_factory, at, byte, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes((GOOD[:at] + bytes([byte]) + GOOD[at + 1 :])[:cut])
    try:
        with open_tensors(path) as file:
            for key in file.shapes:
                file.read(key)
    except ValueError:
        pass


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    file = open_tensors(path)
    path.write_bytes(GOOD[:-30])
    with pytest.raises(ValueError, match=r"model\.safetensors ended at byte"):
        [file.read(key) for key in file.shapes]


# --- pickles ----------------------------------------------------------------------------------------------------------


class Runs:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def archive(content: bytes, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", content)
        for name, data in members.items():
            file.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def legacy(content: bytes) -> bytes:
    return b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})) + content


def forbidden(tmp_path):
    import os
    import subprocess

    mark = tmp_path / "mark"
    return {
        "os.system": Runs(os.system, f"touch {mark}"),
        "eval": Runs(eval, f"open({str(mark)!r}, 'w')"),
        "subprocess": Runs(subprocess.check_call, ["touch", str(mark)]),
        "getattr": Runs(getattr, Path(mark), "touch"),
        "unknown class": collections.Counter("abc"),
    }


@pytest.mark.parametrize("layout", [archive, legacy])
@pytest.mark.parametrize("name", ["os.system", "eval", "subprocess", "getattr", "unknown class"])
def test_forbidden_imports_are_named_and_do_not_run(tmp_path, name, layout):
    path = tmp_path / "model.ckpt"
    path.write_bytes(layout(pickle.dumps({"state_dict": forbidden(tmp_path)[name]}, 2)))
    with pytest.raises(ValueError, match=r"model\.ckpt wants to import \S+\..* \.safetensors"):
        open_tensors(path)
    assert not (tmp_path / "mark").exists()


def test_other_codecs_are_not_run(tmp_path):
    import codecs

    path = tmp_path / "model.ckpt"
    path.write_bytes(archive(pickle.dumps(Runs(codecs.encode, "abc", "rot13"), 2)))
    with pytest.raises(ValueError, match=r"model\.ckpt (wants to import|is damaged)"):
        open_tensors(path)


PICKLES = {
    "empty": (b"", "is not a PyTorch checkpoint"),
    "html": (b"<html>", "looks like an HTML"),
    "cut zip": ((GOLDENS / "training.ckpt").read_bytes()[:-700], "truncated or damaged"),
    "cut stream": ((GOLDENS / "training_legacy.ckpt").read_bytes()[:-20], "truncated"),
    "plain pickle": (pickle.dumps({"a": 1}), "not a PyTorch checkpoint"),
    "bad opcode": (archive(b"\x80\x02\xff"), "damaged or not a PyTorch"),
    "stops early": (archive(b"\x80\x02}"), "damaged or not a PyTorch"),
    "bad reference": (archive(b"\x80\x02K\x01Q."), "a reference that is not a storage"),
    "deep": (archive(b"\x80\x02" + b"]" * 10 + b"a" * 9 + b"."), None),
}


@pytest.mark.parametrize("name", PICKLES)
def test_damaged_pickles(tmp_path, name):
    content, message = PICKLES[name]
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    if message is None:
        assert open_tensors(path).shapes == {}
        return
    with pytest.raises(ValueError, match=message):
        open_tensors(path)


def storage_reference(name: str = "FloatStorage", length: object = 4) -> bytes:
    """BINPERSID of ('storage', torch.<name>, '0', 'cpu', length)."""
    number = b"K" + bytes([length]) if isinstance(length, int) and length >= 0 else b"J\xff\xff\xff\xff"
    return (
        b"(X\x07\x00\x00\x00storagectorch\n"
        + name.encode()
        + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number
        + b"tQ"
    )


def tensor_pickle(offset: bytes, shape: bytes, stride: bytes, **storage) -> bytes:
    head = b"\x80\x02}X\x01\x00\x00\x00a" + b"ctorch._utils\n_rebuild_tensor_v2\n("
    return head + storage_reference(**storage) + offset + b"(" + shape + b"t(" + stride + b"t\x89Nt" + b"Rs."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensor_pickle(b"K\x00", b"K\x05", b"K\x01"), "reaches beyond its storage"),
        (tensor_pickle(b"K\x04", b"K\x01", b"K\x01"), "reaches beyond its storage"),
        (tensor_pickle(b"K\x00", b"K\x02", b"K\x04"), "reaches beyond its storage"),
        (tensor_pickle(b"J\xff\xff\xff\xff", b"K\x01", b"K\x01"), "damaged"),
        (tensor_pickle(b"K\x00", b"K\x02", b""), "damaged"),
        (tensor_pickle(b"K\x00", b"K\x02", b"K\x01", length=-1), "damaged"),
        (tensor_pickle(b"K\x00", b"K\x02", b"K\x01", name="OtherStorage"), "wants to import torch.OtherStorage"),
    ],
)
def test_tensors_that_lie_about_their_storage(tmp_path, content, message):
    path = tmp_path / "model.ckpt"
    path.write_bytes(archive(content, **{"data/0": np.arange(4, dtype=np.float32).tobytes()}))
    with pytest.raises(ValueError, match=message):
        open_tensors(path)


def test_the_hand_made_tensor_is_read_when_it_is_honest(tmp_path):
    path = tmp_path / "model.ckpt"
    content = tensor_pickle(b"K\x01", b"K\x03", b"K\x01")
    path.write_bytes(archive(content, **{"data/0": np.arange(4, dtype=np.float32).tobytes()}))
    assert open_tensors(path).read("a").tolist() == [1, 2, 3]


def test_missing_and_short_storages(tmp_path):
    path = tmp_path / "model.ckpt"
    content = tensor_pickle(b"K\x01", b"K\x03", b"K\x01")
    path.write_bytes(archive(content))
    with pytest.raises(ValueError, match="lacks the data of storage '0'"):
        open_tensors(path)
    path.write_bytes(archive(content, **{"data/0": bytes(8)}))
    with pytest.raises(ValueError, match="shorter than its tensors need"):
        open_tensors(path)


@given(at=st.integers(0, 3000), byte=st.integers(0, 255))
def test_damage_anywhere_in_a_legacy_pickle_never_escapes(tmp_path_factory, at, byte):
    good = (GOLDENS / "training_legacy.ckpt").read_bytes()
    path = tmp_path_factory.getbasetemp() / "damaged.ckpt"
    path.write_bytes(good[: at % len(good)] + bytes([byte]) + good[at % len(good) + 1 :])
    try:
        with open_tensors(path) as file:
            for key in file.shapes:
                file.read(key)
    except ValueError:
        pass
