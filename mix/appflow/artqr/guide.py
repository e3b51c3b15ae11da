"""Guidance while the picture is made: at every step the predicted picture is nudged until its modules read right.

The idea is DiffQRCoder's (Liao et al., WACV 2025): a loss over modules that counts only those on the wrong side, and
its gradient with respect to the latents of the predicted x0. Here the gradient runs through the VAE's decoder alone,
never through the UNet, which makes it affordable without a GPU; that the latents stay on the decoder's manifold is why
the nudge looks like part of the picture.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import paddle
from paddle import Tensor

from mix.appflow.artqr.draw import Layout
from mix.appflow.artqr.matrix import FINDER, Code
from ppdiffusers.models.outputs import DecoderOutput
from ppdiffusers.models.vae import AutoencoderKL
from ppdiffusers.pipelines.bundle import Bundle

LUMA = (0.299, 0.587, 0.114)
SIGMA = 0.32  # of the Gaussian that weighs a module's pixels, in modules


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the picture's modules shall be, as arrays (n, n): 1 light or -1 dark; the border; how far beyond it; how
    much each counts.
    """

    sign: np.ndarray
    edge: np.ndarray
    margin: np.ndarray
    weight: np.ndarray


def wanted(code: Code, edge: np.ndarray, margin: float) -> Wanted:
    """Every module beyond the border by the margin; finder patterns count less, the repair draws them anyway."""
    sign = np.where(code.modules, -1.0, 1.0)
    return Wanted(
        sign=sign.astype(np.float32),
        edge=edge.astype(np.float32),
        margin=np.full_like(sign, margin, np.float32),
        weight=np.where(code.grid.kinds == FINDER, 0.5, 1.0).astype(np.float32),
    )


class ScanLoss:
    """How far a picture's modules are from being read right: 0 when all are beyond the border by their margin."""

    def __init__(self, want: Wanted, layout: Layout) -> None:
        arrays = (want.sign, want.edge, want.margin, want.weight)
        self.sign, self.edge, self.margin, self.weight = (paddle.to_tensor(one) for one in arrays)
        self.rows = paddle.to_tensor(_weights(layout.v, layout.n))
        self.columns = paddle.to_tensor(_weights(layout.u, layout.n).T.copy())

    def modules(self, picture: Tensor) -> Tensor:
        """(B, 3, Y, X) in [-1, 1] -> (B, n, n): each module's luminance in [0, 1], weighed towards its middle."""
        return paddle.matmul(paddle.matmul(self.rows, _luma(picture)[:, 0] * 0.5 + 0.5), self.columns)

    def __call__(self, picture: Tensor) -> Tensor:
        """The mean over modules of the squared lack, one number for the batch's sum."""
        lack = paddle.nn.functional.relu(self.margin - self.sign * (self.modules(picture) - self.edge))
        return (self.weight * lack * lack).sum() / self.weight.sum()


def _luma(picture: Tensor) -> Tensor:
    """(B, 3, Y, X) -> (B, 1, Y, X)."""
    return cast(Tensor, sum(picture[:, i : i + 1] * share for i, share in enumerate(LUMA)))


def _weights(at: np.ndarray, n: int) -> np.ndarray:
    """(n, pixels): a Gaussian around each module's middle, cut at one module, summing to 1."""
    away = np.abs(at[None] - (np.arange(n) + 0.5)[:, None])
    weight = np.where(away < 1.0, np.exp(-0.5 * (away / SIGMA) ** 2), 0)
    return (weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-6)).astype(np.float32)


def plain_decoder(bundle: Bundle) -> AutoencoderKL:
    """The bundle's VAE with plain float32 weights, which take gradients; its own may be packed for speed."""
    vae = AutoencoderKL(bundle.vae.config)
    vae.set_state_dict({name: value.astype("float32") for name, value in bundle.vae.state_dict().items()})
    for parameter in vae.parameters():
        parameter.stop_gradient = True
    vae.eval()
    return vae


@dataclass(eq=False)
class CodeGuide:
    """A `ppdiffusers.sampling.denoise.Guide` for one layout; counts its calls and remembers the last loss.

    Args:
        rate: how far the latents move, in their standard deviations where every module is wrong.
        start, end: the part of the steps within which it acts.
        inner: gradient steps each time.
        close: what pulls the latents back to where the network put them.
        colours: a picture (1, 3, Y, X) in [-1, 1] whose colours are held, whatever becomes of its lightness; small
            models else paint a light module in a dark place in a colour of their own.
        hold: how much that counts beside the modules.
    """

    vae: AutoencoderKL
    loss: ScanLoss
    rate: float = 1.0
    start: float = 0.15
    end: float = 1.0
    inner: int = 1
    close: float = 0.0
    colours: Tensor | None = None
    hold: float = 2.0
    calls: int = 0
    last: float = float("nan")

    def __call__(self, x0: Tensor, sigma: float, step: int, steps: int) -> Tensor:
        """x0 (B, C, Y, X) with modules nearer to right; x0 itself outside the window."""
        if self.rate <= 0 or not self.start * steps <= step < self.end * steps + 1e-6:
            return x0
        moved = x0
        for _ in range(self.inner):
            moved = self.nudged(moved, x0)
        self.calls += 1
        return moved

    def nudged(self, z: Tensor, origin: Tensor) -> Tensor:
        """One gradient step; its length grows with the root of the loss, so that it ends where nothing is wrong."""
        with paddle.enable_grad():
            free = z.detach()
            free.stop_gradient = False
            decoded = cast(DecoderOutput, self.vae.decode(free / self.vae.config.scaling_factor)).sample
            loss = self.loss(decoded)
            total = loss if self.close <= 0 else loss + self.close * ((free - origin) ** 2).mean()
            if self.colours is not None and self.hold > 0:
                moved = decoded - self.colours
                drift = moved - _luma(moved)
                total = total + self.hold * (drift * drift).mean()
            (slope,) = paddle.grad([total], [free])
        self.last = float(loss)
        size = float((slope * slope).mean().sqrt())
        if size < 1e-12 or self.last <= 0:
            return z
        return (z - slope * (self.rate * self.last**0.5 / size)).detach()
