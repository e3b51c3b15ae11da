"""A weight in the layout that a fast kernel wants; the plain tensor can be freed and got back bit for bit."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from paddle import Tensor

from kernels import build

_CASES = 64  # sizes of a layer's input that are remembered


@dataclass(eq=False)
class Packed:
    """An opaque weight for `linear` or `conv2d`, made by `pack_linear` and `pack_conv2d`.

    It belongs to this process: oneDNN's layout is chosen for the CPU at hand and named by a number; store plain ones.
    A convolution moves it to another layout where its input's size asks for that.
    """

    kind: str  # "linear" | "conv2d"
    shape: tuple[int, ...]  # of the plain weight: (in, out) or (out, in, kh, kw)
    dtype: str
    held: tuple[Tensor, int]  # bytes in the kernel's layout and which oneDNN layout; or the plain weight and -1
    layout: str = "plain"  # "plain" | "onednn", the kernels that understand the bytes
    halves: bool = True  # linear: whether the first and second half of the columns are laid out apart, as GEGLU wants
    _wanted: dict[Hashable, int] = field(default_factory=dict, repr=False)

    def unpack(self) -> Tensor:
        """The plain weight, the same bits that were packed."""
        blob, number = self.held
        return blob if self.layout == "plain" else build.run("mix_dnn_unpack", blob, number)

    def fitted(self, case: Hashable, ask: Callable[[int], int]) -> tuple[Tensor, int]:
        """The bytes and their layout as a call wants them: `ask` tells which from the present one, once a case.

        They are moved, not kept twice; whoever still computes with the old ones holds them.
        """
        blob, number = self.held
        wanted = self._wanted.get(case)
        if wanted is None:
            if len(self._wanted) >= _CASES:
                self._wanted.clear()
            wanted = self._wanted[case] = ask(number)
        if wanted != number:
            self.held = blob, number = build.run("mix_dnn_repack", blob, number, wanted), wanted
        return blob, number

    @property
    def nbytes(self) -> int:
        """Memory that the blob takes; a little more than the plain weight's, as odd channel counts are padded."""
        blob, _ = self.held
        return blob.size * blob.element_size()
