"""Rotary position embedding.

Call.options: (interleaved, axes of cos, whether a gradient of the angles is wanted).
"""

import paddle
from paddle import Tensor

from kernels import build, reference
from kernels.choose import Call, Kernel, choose, device_of, dtype_of, needs_grad, no, table
from kernels.native import COVERS, GPU_COVERS, gpu_refusal, plain, refusal

_native = refusal("norm")  # lives in csrc/cpu/row_norm.cc


def _refuse(call: Call) -> str | None:
    return no((any(call.options[2:]), "no gradient of the angles")) or _native(call)


def _refuse_paddle(call: Call) -> str | None:
    return gpu_refusal(call) or no(
        (call.options[1] != 2, "one table of angles for the whole batch only"),
        (any(call.options[2:]), "no gradient of the angles"),
    )


def _rope_native(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    return build.run("mix_rope", x, cos, sin, interleaved)


def _rope_paddle(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    from paddle.incubate.nn.functional import fused_rotary_position_embedding as fused

    def widened(t: Tensor) -> Tensor:  # (L, D/2) -> (1, L, 1, D), each angle where its two numbers are
        both = paddle.stack([t, t], axis=-1).flatten(-2) if interleaved else paddle.concat([t, t], axis=-1)
        return both.astype(x.dtype).unsqueeze(0).unsqueeze(2)

    # Paddle calls adjacent pairs "neox style", the opposite of what everybody else means by it.
    return fused(x, sin=widened(sin), cos=widened(cos), use_neox_rotary_style=interleaved)[0]


table(
    "rope",
    Kernel("native", _rope_native, _refuse, COVERS),
    Kernel("paddle_gpu", _rope_paddle, _refuse_paddle, GPU_COVERS),
    plain(reference.rope),
)


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotate pairs of x (B, L, H, D) by angles whose cosines and sines are (L, D/2) or (B, L, D/2).

    Pairs are (i, i + D/2), as in GPT-NeoX and Hugging Face checkpoints; interleaved means adjacent pairs (GPT-J, GLM).
    """
    batch, length, _, width = x.shape
    fits = [[length, width // 2], [1, length, width // 2], [batch, length, width // 2]]
    if width % 2 or cos.shape != sin.shape or list(cos.shape) not in fits:
        raise ValueError(
            f"rope: x {tuple(x.shape)} needs cos and sin of shape {tuple(fits[0])} or {tuple(fits[2])}, "
            f"got {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    options = (interleaved, cos.ndim, needs_grad(cos, sin))
    call = Call("rope", device_of(x), dtype_of(x), needs_grad(x, cos, sin), tuple(x.shape), options)
    return choose(call).run(x, cos, sin, interleaved)
