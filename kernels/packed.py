"""A weight in the layout that a fast kernel wants, made once; the plain tensor can be freed and got back bit for bit."""

from collections.abc import Callable
from dataclasses import dataclass

from paddle import Tensor


@dataclass(frozen=True, eq=False)
class Packed:
    """An opaque weight for `linear` or `conv2d`."""

    kind: str  # "linear" | "conv2d"
    shape: tuple[int, ...]  # of the plain weight: (in, out) or (out, in, kh, kw)
    dtype: str
    blob: Tensor  # the plain weight itself where no packing kernel is at hand
    layout: str = "plain"  # name of the kernel that understands the blob
    _unpack: Callable[["Packed"], Tensor] | None = None

    def unpack(self) -> Tensor:
        """The plain weight, the same bits that were packed."""
        return self.blob if self._unpack is None else self._unpack(self)
