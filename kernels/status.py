"""The kernels about themselves: which extensions are here and why others are not, which kernels each op has."""

from dataclasses import dataclass

from kernels import build
from kernels.choose import tables


@dataclass(frozen=True)
class ExtensionStatus:
    """One shared library of ops."""

    name: str
    why_not: str | None  # None: loaded

    @property
    def ready(self) -> bool:
        """Whether its ops can be called."""
        return self.why_not is None


@dataclass(frozen=True)
class OpStatus:
    """One op: its kernels in order of preference, each with what it covers in words."""

    op: str
    kernels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Status:
    """Everything about the kernels of this process; printing it gives lines for people."""

    extensions: tuple[ExtensionStatus, ...]
    ops: tuple[OpStatus, ...]

    def __str__(self) -> str:
        lines = [f"{e.name:<20} {e.why_not or 'ready'}" for e in self.extensions]
        for op in self.ops:
            kernels = ", ".join(f"{name} ({covers})" if covers else name for name, covers in op.kernels)
            lines.append(f"{op.op:<20} {kernels}")
        return "\n".join(lines)


def status() -> Status:
    """Load what has been built and report. Never compiles, never fails."""
    extensions = tuple(ExtensionStatus(name, build.why_not(name)) for name in sorted(build.EXTENSIONS))
    ops = tuple(OpStatus(op, tuple((k.name, k.covers) for k in kernels)) for op, kernels in sorted(tables().items()))
    return Status(extensions, ops)
