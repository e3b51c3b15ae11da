"""One grid: every op and kernel, dtypes, odd shapes, forward and gradient, against the plain op in float32.

What a kernel refuses is skipped, after checking that forcing it raises that very reason and that the reason is a known
one: a kernel that refuses or accepts too much is found here.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import kernels
from kernels import build
from kernels.choose import call_of, tables

TOLERANCE = {"float32": 3e-5, "bfloat16": 2e-2}  # of the largest number of the expected result
REASONS = (
    "needs a GPU",
    "needs the CPU",
    "no backward",
    "no gradient of the angles",
    "one table of angles for the whole batch only",
    "Paddle's own float32 sum is as fast",
    "without a gradient the reference works in blocks as well",
    "up to 512 queries are one block",
    "not built",
    "switched off",
)


@dataclass(frozen=True)
class Case:
    """Calls `op` on random tensors of these shapes (None: left out), then the `rest`, with options."""

    op: str
    shapes: tuple[tuple[int, ...] | None, ...]
    options: dict[str, Any] = field(default_factory=dict)
    rest: Callable[[], tuple[Any, ...]] = tuple
    fixed: int = 0  # this many of the last tensors get no gradient
    keyword: str | None = None  # the last tensor goes by this name

    def __str__(self) -> str:
        options = "".join(f" {name}={value}" for name, value in self.options.items())
        return f"{self.op}{'x'.join(str(list(s)) if s else '-' for s in self.shapes)}{options}".replace(" ", "")

    def tensors(self, dtype: str) -> list[paddle.Tensor | None]:
        random = np.random.default_rng(7)
        drawn = [None if s is None else random.standard_normal(s).astype("float32") for s in self.shapes]
        return [None if d is None else paddle.to_tensor(d).astype(dtype).detach() for d in drawn]

    def arguments(self, tensors: list[paddle.Tensor | None]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.keyword:
            return (*tensors[:-1], *self.rest()), {**self.options, self.keyword: tensors[-1]}
        return (*tensors, *self.rest()), self.options


def labels(*values: int) -> Callable[[], tuple[Any, ...]]:
    return lambda: (paddle.to_tensor(values, dtype="int64"),)


def group_norm(*shape: int, groups: int, shifted: bool = False, act: str | None = None) -> Case:
    c = shape[-1]
    shapes = (shape, (c,), (c,), (shape[0], c) if shifted else None)
    return Case("group_norm", shapes, {"groups": groups, "act": act}, keyword="shift")


ACTIVATIONS = [
    Case(op, (shape,)) for op in ("silu", "gelu", "gelu_tanh", "quick_gelu") for shape in ((1,), (3, 5, 43), (33001,))
]
GATED = [Case(op, (shape,)) for op in ("geglu", "swiglu") for shape in ((1, 2), (3, 5, 86), (2, 33002))]
GATED += [Case("swiglu", (shape, shape)) for shape in ((7,), (3, 129), (33001,))]
NORMS = [
    group_norm(2, 5, 7, 60, groups=6, act="silu", shifted=True),
    group_norm(1, 9, 32, groups=8),
    group_norm(3, 700, 24, groups=3, act="silu"),
    group_norm(2, 8, 8, 1280, groups=32, shifted=True),
    *(Case("layer_norm", ((*lead, c), (c,), (c,))) for lead, c in (((3,), 33), ((2, 5), 320), ((70,), 7))),
    *(Case("layer_norm", (shape, None, None)) for shape in ((3, 33), (2, 5, 320))),
    *(Case("rms_norm", ((*lead, c), (c,))) for lead, c in (((3,), 33), ((2, 5), 320), ((70,), 7))),
]
ROPES = [
    Case("rope", ((2, 5, 3, d), (*lead, 5, d // 2), (*lead, 5, d // 2)), {"interleaved": pairs}, fixed=fixed)
    for d, lead, fixed in ((38, (), 2), (64, (2,), 2), (2, (), 2), (10, (), 0))
    for pairs in (False, True)
]
LOSSES = [
    Case("cross_entropy", ((5, 37),), rest=labels(3, 36, -100, 0, 7)),
    Case("cross_entropy", ((2, 9001),), rest=labels(9000, 4)),
    Case("cross_entropy", ((2, 3, 5),), {"ignore_index": 2}, rest=lambda: (paddle.to_tensor([[0, 2, 1], [4, 2, 2]]),)),
    Case("cross_entropy", ((2, 6),), rest=labels(-100, -100)),
    Case("linear_cross_entropy", ((5, 16), (16, 37)), rest=labels(3, 36, -100, 0, 7)),
    Case("linear_cross_entropy", ((4, 16), (90, 16)), {"turned": True}, rest=labels(89, -100, 0, 5)),
]
MAPS = [
    *(Case("add", (shape, shape)) for shape in ((1,), (3, 5, 43), (33001,))),
    *(Case("concat_channels", ((*lead, 3), (*lead, 20))) for lead in ((2, 5, 7), (1,), (40, 40))),
    *(Case("upsample_nearest2x", (shape,)) for shape in ((1, 1, 1, 3), (2, 5, 7, 20), (1, 30, 30, 33))),
]
# attention, linear and conv2d have grids of their own; these keep the three in this one's net
LARGE = [
    Case("attention", ((2, 5, 4, 24), (2, 19, 2, 24), (2, 19, 2, 24)), {"causal": True}),
    Case("attention", ((1, 70, 2, 40), (1, 33, 2, 40), (1, 33, 2, 40))),
    Case("attention_varlen", ((9, 2, 16), (9, 2, 16), (9, 2, 16)), {"causal": True}, rest=lambda: (ends(), ends())),
    Case("attention_decode", ((2, 1, 4, 16), (2, 9, 2, 16), (2, 9, 2, 16)), rest=lambda: (ints(4, 9),), fixed=3),
    Case("linear", ((3, 5, 32), (32, 48), (48,)), {"act": "geglu"}),
    Case("conv2d", ((2, 9, 7, 8), (16, 8, 3, 3), (16,)), {"padding": 1, "act": "silu"}),
]
CASES = [*ACTIVATIONS, *GATED, *NORMS, *ROPES, *LOSSES, *MAPS, *LARGE]


def ints(*values: int) -> paddle.Tensor:
    return paddle.to_tensor(values, dtype="int32")


def ends() -> paddle.Tensor:
    return ints(0, 4, 9)


def outcome(case: Case, tensors: list[paddle.Tensor | None], grad: bool) -> list[np.ndarray]:
    """The result and, if asked for, the gradients of a random projection of it."""
    leaves = [t for t in tensors if t is not None]
    for i, leaf in enumerate(leaves):
        leaf.stop_gradient = not grad or i >= len(leaves) - case.fixed
    arguments, options = case.arguments(tensors)
    out = getattr(kernels, case.op)(*arguments, **options)
    wide = out.astype("float32")
    if grad:
        weights = np.random.default_rng(3).standard_normal(out.shape).astype("float32")
        (wide * paddle.to_tensor(weights)).sum().backward()
    kept = [leaf.grad for leaf in leaves if not leaf.stop_gradient]
    return [wide.numpy(), *(g.astype("float32").numpy() for g in kept)]


_expected: dict[tuple[str, str, bool], list[np.ndarray]] = {}


def expected(case: Case, dtype: str, grad: bool) -> list[np.ndarray]:
    """The plain op in float32 on the numbers that `dtype` can hold."""
    key = (str(case), dtype, grad)
    if key not in _expected:
        tensors = [None if t is None else t.astype("float32").detach() for t in case.tensors(dtype)]
        with kernels.use("reference"):
            _expected[key] = outcome(case, tensors, grad)
    return _expected[key]


def refusal(case: Case, kernel: str, dtype: str, grad: bool) -> str | None:
    tensors = case.tensors(dtype)
    for i, t in enumerate(tensors):
        if t is not None:
            t.stop_gradient = not grad or i >= len(tensors) - case.fixed
    arguments, options = case.arguments(tensors)
    call = call_of(case.op, *arguments, **options)
    why = next(k for k in tables()[case.op] if k.name == kernel).refuse(call)
    if why is not None:
        assert any(known in why for known in REASONS), (
            f"{kernel} refuses {call} for a reason that nobody expected: {why}"
        )
        with kernels.use(**{case.op: kernel}), pytest.raises(ValueError, match="was asked for but refuses") as told:
            getattr(kernels, case.op)(*arguments, **options)
        assert why in str(told.value)
    return why


def close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    assert got.shape == want.shape
    bound = tolerance * max(float(np.abs(want).max(initial=0)), 1e-3)
    np.testing.assert_allclose(got, want, rtol=0, atol=bound)


@pytest.mark.parametrize("grad", [False, True], ids=["forward", "gradient"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_kernel_means_the_same(case, dtype, grad):
    if grad and case.op == "attention_decode":
        pytest.skip("decoding is not differentiated")
    want, taken = expected(case, dtype, grad), []
    for kernel in tables()[case.op]:
        if refusal(case, kernel.name, dtype, grad) is None:
            with kernels.use(**{case.op: kernel.name}):
                got = outcome(case, case.tensors(dtype), grad)
            assert len(got) == len(want)
            for mine, its in zip(got, want, strict=True):
                close(mine, its, TOLERANCE[dtype])
            taken.append(kernel.name)
    assert "reference" in taken


# Tested below, in test_quant.py and in test_decoder.py: their inputs fit no case.
ELSEWHERE = {"adamw_step", "quantized_linear", "decoder_step"}


def test_the_grid_knows_every_op():
    assert {case.op for case in CASES} | ELSEWHERE == set(tables())


@pytest.mark.parametrize("op", sorted(set(tables()) - ELSEWHERE))
def test_a_built_kernel_is_used(op):
    """With the extensions built, the CPU's own kernel takes at least one plain call of every op."""
    if paddle.device.get_device() != "cpu":
        pytest.skip("a GPU has its own order")
    first = tables()[op][0].name
    refusals = [refusal(case, first, dtype, False) for case in CASES if case.op == op for dtype in TOLERANCE]
    absent = [why for why in refusals if why and why.startswith(("not built", "switched off"))]
    if absent:
        pytest.skip(absent[0])
    assert None in refusals


@pytest.mark.parametrize(("param", "grad"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16")])
@pytest.mark.parametrize("kernel", [k.name for k in tables()["adamw_step"]])
def test_adamw_kernels_walk_the_same_path(kernel, param, grad):
    if kernel == "native" and (why := build.why_not("optim")):
        pytest.skip(why)

    def walk(name: str, dtype: str) -> list[np.ndarray]:
        random = np.random.default_rng(5)
        shapes = [(5,), (), (70001,), (3, 7, 11), (0, 4)]

        def draw(of: str) -> list[paddle.Tensor]:
            return [paddle.to_tensor(random.standard_normal(s).astype("float32")).astype(of) for s in shapes]

        params = [p.astype(dtype).detach() for p in draw(param)]
        for p in params:
            p.stop_gradient = False
        means, squares = ([paddle.zeros(s) for s in shapes] for _ in range(2))
        for step in (1, 2, 3):
            with kernels.use(adamw_step=name):
                kernels.adamw_step(params, draw(grad), means, squares, step=step, lr=1e-2, weight_decay=0.1)
        return [t.astype("float32").numpy() for t in (*params, *means, *squares)]

    for mine, its in zip(walk(kernel, param), walk("reference", "float32"), strict=True):
        close(mine, its, TOLERANCE[param])


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_smaller_instruction_sets_mean_the_same(isa):
    """The grid again as on a CPU without AVX-512, or without its bfloat16; one that lacks more runs what it has."""
    if "MIXSTUDIO_ISA" in os.environ:
        return  # this is the inner run
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", "every_kernel"]
    environment = {**os.environ, "MIXSTUDIO_ISA": isa}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:]
