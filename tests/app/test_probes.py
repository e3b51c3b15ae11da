"""doctor's question to each op: who takes your typical call, and why did the others not?"""

import paddle
import pytest

from app import probes
from app.probes import Ask, probe
from kernels import choose
from kernels.choose import Kernel, accept


@pytest.fixture
def silu_table(monkeypatch):
    """Replace the kernels of silu."""

    def replace(*kernels: Kernel) -> None:
        monkeypatch.setitem(choose._tables, "silu", kernels)
        choose._choose.cache_clear()

    yield replace
    choose._choose.cache_clear()


def same(x, *_):
    return x


def test_reasons_are_told_in_full(silu_table):
    silu_table(Kernel("fast", same, lambda call: "needs (this): and that"), Kernel("plain", same, accept))
    found = probe("silu", Ask(paddle, "float32"))
    assert (found.chosen, found.refused) == ("plain", {"fast": "needs (this): and that"})


def test_the_first_that_accepts_is_chosen(silu_table):
    silu_table(Kernel("fast", same, accept), Kernel("plain", same, accept))
    assert probe("silu", Ask(paddle, "bfloat16")).chosen == "fast"


def test_an_error_inside_a_kernel_is_not_a_refusal(silu_table):
    def broken(x, *_):
        raise ValueError("an illegal instruction, so to say")

    silu_table(Kernel("fast", broken, accept), Kernel("plain", same, accept))
    with pytest.raises(ValueError, match="illegal instruction"):
        probe("silu", Ask(paddle, "float32"))


def test_every_op_says_what_it_takes():
    found = probes.choices(paddle)
    assert {choice.op for choice in found} == set(choose.tables())
    assert all(reason for choice in found for reason in choice.refused.values())
