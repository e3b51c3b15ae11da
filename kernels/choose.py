"""Each op has one meaning and a short ordered table of implementations, each saying why it refuses a call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import paddle

from kernels import build

Run = Callable[..., Any]  # a Tensor, or None where the op works in place


@dataclass(frozen=True)
class Call:
    """What a kernel may look at before it accepts. Fields that an op has no use for keep their defaults."""

    op: str
    device: str  # "cpu" | "gpu"
    dtype: str  # "float32" | "bfloat16" | "float16"
    grad: bool = False
    shape: tuple[int, ...] = ()  # of the main input; attention: (L, M, H, Hkv, D)
    options: tuple[object, ...] = ()  # op specific, documented in the op's module

    def __str__(self) -> str:
        extra = f", options {self.options}" if self.options else ""
        return f"{self.op}({self.device}, {self.dtype}, shape {self.shape}, grad {self.grad}{extra})"


@dataclass(frozen=True)
class Kernel:
    """One implementation of an op; `refuse` gives a reason, or None when it can do the call."""

    name: str
    run: Run
    refuse: Callable[[Call], str | None]
    covers: str = ""  # in words, for `kernels.status`: device, dtypes, gradients


_tables: dict[str, tuple[Kernel, ...]] = {}
_NOTHING: MappingProxyType[str, str] = MappingProxyType({})
_forced: ContextVar[MappingProxyType[str, str]] = ContextVar("forced kernels", default=_NOTHING)
_asking: ContextVar[bool] = ContextVar("explain wants the call, not its result", default=False)


def no(*checks: tuple[bool, str]) -> str | None:
    """The reason of the first condition that holds, else None."""
    return next((why for bad, why in checks if bad), None)


def accept(call: Call) -> None:
    """A `refuse` for kernels that can do every call."""
    return


def table(op: str, *kernels: Kernel) -> None:
    """Declare the implementations of `op`, fastest first; the last one must accept everything."""
    _tables[op] = kernels
    _choose.cache_clear()


def tables() -> dict[str, tuple[Kernel, ...]]:
    """All ops and their kernels, in order of preference."""
    return dict(_tables)


@contextmanager
def use(everywhere: str | None = None, **per_op: str) -> Iterator[None]:
    """Force a kernel by name for every op that has it, or for single ops: `use("reference")`, `use(attention="flash")`.

    A forced kernel never falls back: a call that it refuses raises ValueError with the reason.
    """
    wish = dict(_forced.get())
    if everywhere is not None:
        holders = {op: everywhere for op, kernels in _tables.items() if any(k.name == everywhere for k in kernels)}
        if not holders:
            names = sorted({k.name for kernels in _tables.values() for k in kernels})
            raise ValueError(f"no op has a kernel called {everywhere!r}; there are {', '.join(names)}")
        wish |= holders
    for op, name in per_op.items():
        if op not in _tables:
            raise ValueError(f"there is no op called {op!r}; there are {', '.join(sorted(_tables))}")
        if name not in (known := [k.name for k in _tables[op]]):
            raise ValueError(f"{op} has no kernel called {name!r}; it has {', '.join(known)}")
        wish[op] = name
    token = _forced.set(MappingProxyType(wish))
    try:
        yield
    finally:
        _forced.reset(token)


@lru_cache(maxsize=4096)
def _choose(call: Call, forced: str | None) -> Kernel:
    for kernel in _tables[call.op]:
        if forced not in (None, kernel.name):
            continue
        why = kernel.refuse(call)
        if why is None:
            return kernel
        if forced:
            raise ValueError(f"kernel {forced!r} was asked for but refuses {call}: {why}")
    raise AssertionError(f"the table of {call.op} has no kernel that accepts everything")


build.on_change(_choose.cache_clear)  # a build in this process makes kernels available that have refused until now


class _Asked(Exception):
    """Carries a call out of an op that `explain` has started."""

    def __init__(self, call: Call) -> None:
        self.call = call


def _wish(op: str) -> str | None:
    """The kernel that has to be taken, if any: a forced one, or the plain one where MIXSTUDIO_KERNELS=off."""
    return _forced.get().get(op) or (_tables[op][-1].name if build.switched_off() else None)


def choose(call: Call) -> Kernel:
    """The first kernel of the op's table that accepts the call, or the forced one."""
    if _asking.get():
        raise _Asked(call)
    return _choose(call, _wish(call.op))


def call_of(op: str, *arguments: Any, **options: Any) -> Call:
    """What the kernels of `op` would be asked for these arguments; nothing is computed."""
    if op not in _tables:
        raise ValueError(f"there is no op called {op!r}; there are {', '.join(sorted(_tables))}")
    import kernels

    token = _asking.set(True)
    try:
        getattr(kernels, op)(*arguments, **options)
    except _Asked as asked:
        return asked.call
    finally:
        _asking.reset(token)
    raise ValueError(f"{op} needs no kernel for these arguments")


def explain(what: "Call | str", *arguments: Any, **options: Any) -> str:
    """One line a kernel: chosen, would accept, or refused with the reason.

    Takes a `Call`, or the name of an op and the arguments that it would be called with:
    explain("attention", q, k, v, causal=True).
    """
    call = call_of(what, *arguments, **options) if isinstance(what, str) else what
    chosen, lines = _choose(call, _wish(call.op)).name, []
    for kernel in _tables[call.op]:
        why = kernel.refuse(call)
        verdict = "chosen" if kernel.name == chosen else "would accept" if why is None else f"refused: {why}"
        lines.append(f"{kernel.name:<12} {verdict}")
    return "\n".join(lines)


def needs_grad(*tensors: "paddle.Tensor | None") -> bool:
    """Whether autograd will ask for a gradient through these inputs."""
    return paddle.is_grad_enabled() and any(t is not None and not t.stop_gradient for t in tensors)


def device_of(x: "paddle.Tensor") -> str:
    """ "gpu" or "cpu", where the tensor lives."""
    return "gpu" if x.place.is_gpu_place() else "cpu"


_DTYPES = {paddle.float32: "float32", paddle.bfloat16: "bfloat16", paddle.float16: "float16", paddle.float64: "float64"}


def dtype_of(x: "paddle.Tensor") -> str:
    """The dtype's plain name, as used in `Call`."""
    return _DTYPES.get(x.dtype) or str(x.dtype).removeprefix("paddle.")
