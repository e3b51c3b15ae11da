"""Forcing, explaining and switching off kernels."""

import threading

import paddle
import pytest

import kernels
from kernels import choose
from kernels.choose import Call, Kernel, accept, call_of, table


@pytest.fixture
def op(monkeypatch):
    """A toy op with a picky kernel before the plain one."""
    monkeypatch.setattr(choose, "_tables", dict(choose._tables))

    def even_only(call: Call) -> str | None:
        return None if call.shape[0] % 2 == 0 else f"{call.shape[0]} is odd"

    table("toy", Kernel("picky", lambda: "picky", even_only), Kernel("reference", lambda: "reference", accept))
    yield "toy"
    choose._choose.cache_clear()


def toy(n: int) -> str:
    return choose.choose(Call("toy", "cpu", "float32", shape=(n,))).name


def test_the_first_that_accepts_is_chosen(op):
    assert (toy(2), toy(3)) == ("picky", "reference")


def test_a_forced_kernel_never_falls_back(op):
    with kernels.use(toy="picky"):
        assert toy(2) == "picky"
        with pytest.raises(ValueError, match=r"'picky' was asked for but refuses toy\(.*\): 3 is odd"):
            toy(3)


def test_forcing_nests_and_ends(op):
    with kernels.use("reference"):
        assert toy(2) == "reference"
        with kernels.use(toy="picky"):
            assert toy(2) == "picky"
        assert toy(2) == "reference"
    assert toy(2) == "picky"
    with pytest.raises(RuntimeError, match="from the body"), kernels.use("reference"):
        raise RuntimeError("from the body")
    assert toy(2) == "picky"


def test_forcing_is_seen_by_its_own_thread_only(op):
    seen = []
    with kernels.use("reference"):
        other = threading.Thread(target=lambda: seen.append(toy(2)))
        other.start()
        other.join()
    assert seen == ["picky"]


def test_unknown_names_are_told_with_the_known_ones(op):
    with (
        pytest.raises(ValueError, match=r"no op has a kernel called 'quick'; there are .*reference"),
        kernels.use("quick"),
    ):
        pass
    with pytest.raises(ValueError, match=r"there is no op called 'tea'; there are .*attention"), kernels.use(tea="x"):
        pass
    with pytest.raises(ValueError, match="toy has no kernel called 'x'; it has picky, reference"), kernels.use(toy="x"):
        pass


def test_explain_gives_a_line_a_kernel(op):
    assert kernels.explain(Call("toy", "cpu", "float32", shape=(3,))) == (
        "picky        refused: 3 is odd\nreference    chosen"
    )
    with kernels.use("reference"):
        assert kernels.explain(Call("toy", "cpu", "float32", shape=(2,))) == (
            "picky        would accept\nreference    chosen"
        )


def test_explain_takes_the_arguments_of_the_op():
    q = paddle.zeros([1, 3, 2, 8])
    lines = kernels.explain("attention", q, q, q, causal=True).splitlines()
    assert [line.split()[0] for line in lines] == [kernel.name for kernel in choose.tables()["attention"]]
    assert sum(line.endswith("chosen") for line in lines) == 1
    with pytest.raises(ValueError, match="there is no op called 'tea'"):
        kernels.explain("tea", q)
    with pytest.raises(ValueError, match="do not fit"):  # the op's own complaint
        kernels.explain("add", q, q[:, 1:])
    with pytest.raises(ValueError, match="needs no kernel"):
        kernels.explain("adamw_step", [], [], [], [], step=1, lr=0.1)


def test_asking_computes_nothing_and_leaves_no_trace():
    x = paddle.zeros([4])
    x.stop_gradient = False
    assert call_of("silu", x) == Call("silu", "cpu", "float32", True, (4,), (0,))
    assert kernels.silu(x).shape == [4]


def test_every_table_ends_with_a_kernel_that_takes_all():
    for op, rows in choose.tables().items():
        for dtype in ("float32", "bfloat16", "float16", "float64"):
            assert rows[-1].refuse(Call(op, "gpu", dtype, True, (3, 3, 3, 3, 3))) is None
        assert len({row.name for row in rows}) == len(rows)


def test_status_tells_every_extension_and_op():
    found = kernels.status()
    assert {op.op for op in found.ops} == set(choose.tables())
    assert all(extension.ready == (extension.why_not is None) for extension in found.extensions)
    assert {"elementwise", "norm", "loss", "optim", "layout"} <= {extension.name for extension in found.extensions}
    assert len(str(found).splitlines()) == len(found.extensions) + len(found.ops)
