"""A weight in the layout that a fast kernel wants; the plain tensor can be freed and got back bit for bit."""

from dataclasses import dataclass

from paddle import Tensor

from kernels import build


@dataclass(frozen=True, eq=False)
class Packed:
    """An opaque weight for `linear` or `conv2d`, made by `pack_linear` and `pack_conv2d`.

    It belongs to this process: oneDNN's layout is chosen for the CPU at hand and named by a number; store plain ones.
    """

    kind: str  # "linear" | "conv2d"
    shape: tuple[int, ...]  # of the plain weight: (in, out) or (out, in, kh, kw)
    dtype: str
    blob: Tensor  # bytes in the kernel's layout, or the plain weight where no kernel packs
    layout: str = "plain"  # "plain" | "onednn", the kernels that understand the blob
    id: int = -1  # which oneDNN layout
    halves: bool = True  # linear: whether the first and second half of the columns are laid out apart, as GEGLU wants

    def unpack(self) -> Tensor:
        """The plain weight, the same bits that were packed."""
        if self.layout == "plain":
            return self.blob
        return build.run("mix_dnn_unpack", self.blob, self.id)

    @property
    def nbytes(self) -> int:
        """Memory that the blob takes; a little more than the plain weight's, as odd channel counts are padded."""
        return self.blob.size * self.blob.element_size()
