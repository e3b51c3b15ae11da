"""Plans are total and strict, ops are exact, and what stops half-way leaves no model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn
from safetensors.numpy import save_file

from ppdiffusers.weights.file import open_tensors
from ppdiffusers.weights.plan import (
    Rows,
    Squeeze,
    Take,
    Transpose,
    as_stored,
    iter_plan,
    make_plan,
    refuse_unknown,
    run_plan,
    sort_extra,
    widest,
)


class Small(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(2, 3, 1)
        self.linear = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)


def empty():
    with paddle.LazyGuard():
        return Small()


RNG = np.random.default_rng(0)
TENSORS = {
    "conv.weight": RNG.standard_normal((3, 2, 1, 1), np.float32),
    "conv.bias": RNG.standard_normal(3, np.float32),
    "linear.weight": RNG.standard_normal((4, 3), np.float32),
    "linear.bias": RNG.standard_normal(4, np.float32),
    "norm.weight": RNG.standard_normal(4, np.float32),
    "norm.bias": RNG.standard_normal(4, np.float32),
}


def written(folder, **changes):
    tensors = {key: changes.get(key.replace(".", "_"), value) for key, value in TENSORS.items()}
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "x.safetensors")
    return open_tensors(folder / "x.safetensors")


def loaded(file, dtype=None):
    model = empty()
    run_plan(make_plan(model, as_stored, file.shapes), file, model, dtype)
    return model


@pytest.mark.parametrize("op", [Transpose(), Squeeze()])
def test_ops_undo_themselves_and_know_their_shapes(op):
    array = np.arange(6.0).reshape((2, 3, 1, 1) if op == Squeeze() else (2, 3))
    assert op.apply(array).shape == op.shape(array.shape)
    assert np.array_equal(op.undo(op.apply(array)), array)


@given(parts=st.integers(1, 4), rows=st.integers(0, 3))
def test_rows_stacked_again_are_the_whole(parts, rows):
    array = np.arange(parts * rows * 2).reshape(parts * rows, 2)
    pieces = [Rows(i, parts).apply(array) for i in range(parts)]
    assert np.array_equal(np.concatenate(pieces), array)
    assert {Rows(i, parts).shape(array.shape) for i in range(parts)} == {(rows, 2)}


def test_linear_weights_are_transposed_and_convolutions_are_not(tmp_path):
    model = loaded(written(tmp_path))
    assert np.array_equal(model.linear.weight.numpy(), TENSORS["linear.weight"].T)
    assert np.array_equal(model.conv.weight.numpy(), TENSORS["conv.weight"])
    x = paddle.ones([1, 3])
    assert np.allclose(model.linear(x).numpy(), TENSORS["linear.weight"].sum(1) + TENSORS["linear.bias"], atol=1e-6)


def test_a_pointwise_convolution_feeds_a_linear(tmp_path):
    model = loaded(written(tmp_path, linear_weight=TENSORS["linear.weight"][:, :, None, None]))
    assert np.array_equal(model.linear.weight.numpy(), TENSORS["linear.weight"].T)


@pytest.mark.parametrize("source", ["float16", "float32", "float64"])
@pytest.mark.parametrize("target", ["float16", "bfloat16", "float32", None])
def test_dtypes_are_cast_on_the_way(tmp_path, source, target):
    file = written(tmp_path, **{key.replace(".", "_"): value.astype(source) for key, value in TENSORS.items()})
    model = loaded(file, target)
    for name, parameter in model.named_parameters():
        want = TENSORS[name].astype(source)
        want = want.T if name == "linear.weight" else want
        assert str(parameter.dtype) == f"paddle.{target or source}"
        assert np.array_equal(
            parameter.astype("float64").numpy(),
            paddle.to_tensor(want).astype(target or source).astype("float64").numpy(),
        )
        assert not parameter.stop_gradient


def test_bfloat16_files(tmp_path):
    from ppdiffusers.weights.entries import entries_of
    from ppdiffusers.weights.write import write_tensors

    write_tensors(tmp_path / "b.safetensors", entries_of(loaded(written(tmp_path)), dtype="bfloat16"), {})
    file = open_tensors(tmp_path / "b.safetensors")
    assert {*file.dtypes.values()} == {"BF16"}
    for dtype in ("float32", "float16", "bfloat16"):
        for name, parameter in loaded(file, dtype).named_parameters():
            want = paddle.to_tensor(TENSORS[name]).astype("bfloat16").astype(dtype).astype("float32").numpy()
            got = parameter.astype("float32").numpy()
            assert np.array_equal(got.T if name == "linear.weight" else got, want)


def test_mixed_files_become_their_widest_float():
    assert widest(["F16", "F16", "I64"]) == "float16"
    assert widest(["F16", "F32"]) == "float32"
    assert widest(["F16", "BF16"]) == "float32"
    assert widest(["F32", "F64"]) == "float64"


def test_everything_missing_or_misshapen_is_counted_and_named():
    shapes = {"conv.weight": (3, 2, 3, 3), "linear.weight": (3, 4), "norm.weight": (4,), "norm.bias": (4,)}
    missing = "2 parameters are missing, first conv.bias, linear.bias"
    wrong = r"2 have the wrong shape, first conv.weight is \[3, 2, 3, 3\]"
    with pytest.raises(ValueError, match=f"f does not fit this Small: {missing}; {wrong}"):
        make_plan(empty(), as_stored, shapes, "f")


def test_unknown_keys_are_refused_and_harmless_ones_counted():
    plan = {"a": Take("a")}
    shapes = ["a", "model_ema.decay", "alphas_cumprod", "x.position_ids", "cond_stage_model.model.logit_scale", "betas"]
    counts = refuse_unknown(shapes, [plan], "f")
    assert sum(counts.values()) == 5
    with pytest.raises(ValueError, match="f: 2 keys belong to no part of this model, first b, c"):
        refuse_unknown([*shapes, "b", "c"], [plan], "f")
    assert refuse_unknown([*shapes, "b"], [plan], "f", [("b", "mine")])["mine"] == 1
    assert sort_extra(["my_alphas_cumprod"])[1] == ["my_alphas_cumprod"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_numbers_are_named_and_leave_no_model(tmp_path, bad):
    value = TENSORS["norm.weight"].copy()
    value[2] = bad
    file = written(tmp_path, norm_weight=value)
    model = empty()
    with pytest.raises(ValueError, match=r"'norm\.weight' holds NaN or infinite numbers"):
        run_plan(make_plan(model, as_stored, file.shapes), file, model)
    assert not any(p._is_initialized() for p in model.parameters())
    with pytest.raises(RuntimeError):
        model.linear(paddle.ones([1, 3]))


def test_numbers_that_float16_cannot_hold_are_named(tmp_path):
    file = written(tmp_path, conv_bias=np.array([1, 70000, 2], np.float32))
    with pytest.raises(ValueError, match=r"'conv\.bias' has numbers beyond float16"):
        loaded(file, "float16")
    loaded(file, "bfloat16")


def test_stopping_half_way_leaves_no_model(tmp_path):
    file = written(tmp_path)
    model = empty()
    work = iter_plan(make_plan(model, as_stored, file.shapes), file, model)
    assert [next(work), next(work)] == [(1, 6, "conv.weight"), (2, 6, "conv.bias")]
    work.close()
    assert not any(p._is_initialized() for p in model.parameters())


def test_nonsense_dtypes_are_refused(tmp_path):
    for dtype in ("int8", "float33"):
        with pytest.raises(ValueError, match=r"weights cannot become|number format"):
            loaded(written(tmp_path), dtype)


PEAK = """
import sys, gc, numpy as np, paddle
sys.path.insert(0, sys.argv[1])
from paddle import nn
from ppdiffusers.weights.file import open_tensors
from ppdiffusers.weights.plan import as_stored, make_plan, run_plan

def memory(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

with paddle.LazyGuard():
    model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(48)))
    spare = nn.Sequential(nn.Linear(64, 64))
with open_tensors(sys.argv[2]) as file:
    plan = make_plan(model, as_stored, file.shapes)
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    run_plan(plan, file, model, "float32")
print(memory("VmHWM") - before, sum(p.size * 4 for p in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_peaks_at_the_weights_and_a_tenth(tmp_path, dtype):
    # 192 MB of weights; each layer is 4 MB, as a UNet's layers are small beside the UNet
    layers = {f"{i}.weight": np.full((1024, 1024), i, dtype) for i in range(48)}
    save_file(layers | {f"{i}.bias": np.zeros(1024, dtype) for i in range(48)}, tmp_path / "x.safetensors")
    command = [sys.executable, "-c", PEAK, str(Path(__file__).parents[3]), str(tmp_path / "x.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, weights = map(int, done.stdout.split())
    assert peak <= 1.1 * weights, f"{peak / weights:.3f}"
