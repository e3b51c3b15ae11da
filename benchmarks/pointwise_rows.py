"""Rows of kernel_ops.py for what is bound by memory: norms, activations, losses, the optimiser; both sides of each."""

from collections.abc import Callable
from typing import Any

Make = Callable[..., Callable[[], Any]]


def _row(op: str, what: str, *shapes: list[int], **more: Any) -> dict[str, Any]:
    return {"op": op, "what": what, "arguments": {"shapes": list(shapes), **more}}


ROWS = [
    _row("group_norm", "SD 1.5 2x64x64x320", [2, 64, 64, 320], [320], [320]),
    _row("group_norm_silu", "SD 1.5 2x64x64x320", [2, 64, 64, 320], [320], [320]),
    _row("group_norm_silu", "SD 1.5 2x8x8x1280", [2, 8, 8, 1280], [1280], [1280]),
    _row("group_norm_silu", "VAE 1x512x512x128", [1, 512, 512, 128], [128], [128]),
    _row("group_norm_silu", "2x64x64x320, training", [2, 64, 64, 320], [320], [320], grad=True),
    _row("layer_norm", "8192x320", [8192, 320], [320], [320]),
    _row("layer_norm", "8192x320, training", [8192, 320], [320], [320], grad=True),
    _row("rms_norm", "1024x576", [1024, 576], [576]),
    _row("rope", "1024 tokens, 9 heads of 64", [1, 1024, 9, 64], [1024, 32], [1024, 32]),
    _row("silu", "2x64x64x320", [2, 64, 64, 320]),
    _row("gelu", "8192x1280", [8192, 1280]),
    _row("geglu", "8192x2560", [8192, 2560]),
    _row("geglu", "8192x2560, training", [8192, 2560], grad=True),
    _row("swiglu", "1024x1536", [1024, 1536], [1024, 1536]),
    _row("concat_channels", "2x64x64x(320 + 640)", [2, 64, 64, 320], [2, 64, 64, 640]),
    _row("upsample_nearest2x", "2x32x32x640", [2, 32, 32, 640]),
    _row("cross_entropy", "512x49152", [512, 49152]),
    _row("cross_entropy", "512x49152, training", [512, 49152], grad=True),
    _row("adamw_step", "135 M parameters in 272 tensors", [270, 768, 640], [2, 1024, 576]),
]
LABELLED = ("cross_entropy",)


def ours(op: str) -> Make:
    """MixStudio's side of `op`."""

    def make(dtype: str, shapes: list[list[int]], grad: bool = False) -> Callable[[], Any]:
        import paddle

        import kernels

        paddle.seed(0)
        if op == "adamw_step":
            lists = [[paddle.zeros(s[1:]) for s in shapes for _ in range(s[0])] for _ in range(4)]
            lists[:2] = [[t.astype(dtype) for t in tensors] for tensors in lists[:2]]
            return lambda: kernels.adamw_step(*lists, step=3, lr=1e-3, weight_decay=0.1)
        tensors = [paddle.randn(shape).astype(dtype) for shape in shapes]
        rest = [paddle.randint(0, shapes[0][1], [shapes[0][0]])] if op in LABELLED else []
        run = getattr(kernels, op)
        if not grad:
            return lambda: run(*tensors, *rest)
        for t in tensors:
            t.stop_gradient = False
        cotangent = paddle.ones_like(run(*tensors, *rest))
        return lambda: paddle.grad(run(*tensors, *rest), tensors, cotangent)

    return make


def _torch_ops() -> dict[str, Callable[..., Any]]:
    import torch
    from torch.nn import functional as f

    def geglu(x: Any) -> Any:
        value, gate = x.chunk(2, dim=-1)
        return value * f.gelu(gate)

    def rope(x: Any, cos: Any, sin: Any) -> Any:
        cos, sin = (torch.cat([t, t], -1).unsqueeze(1) for t in (cos, sin))
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], -1) * sin

    return {
        "group_norm": lambda x, w, b: f.group_norm(x, 32, w, b),
        "group_norm_silu": lambda x, w, b: f.silu(f.group_norm(x, 32, w, b)),
        "layer_norm": lambda x, w, b: f.layer_norm(x, x.shape[-1:], w, b),
        "rms_norm": lambda x, w: f.rms_norm(x, x.shape[-1:], w, 1e-6),
        "rope": rope,
        "silu": f.silu,
        "gelu": f.gelu,
        "geglu": geglu,
        "swiglu": lambda gate, up: f.silu(gate) * up,
        "concat_channels": lambda a, b: torch.cat([a, b], 1),
        "upsample_nearest2x": lambda x: f.interpolate(x, scale_factor=2, mode="nearest"),
        "cross_entropy": f.cross_entropy,
    }


def theirs(op: str) -> Make:
    """torch's side of `op`; maps of pictures are channels-last there, too."""

    def make(dtype: str, shapes: list[list[int]], grad: bool = False) -> Callable[[], Any]:
        import torch

        torch.manual_seed(0)
        kind = getattr(torch, dtype)
        if op == "adamw_step":
            params = [torch.zeros(s[1:], dtype=kind) for s in shapes for _ in range(s[0])]
            for p in params:
                p.grad = torch.zeros_like(p)
            return torch.optim.AdamW(params, lr=1e-3, weight_decay=0.1, fused=True).step
        tensors = [torch.randn(shape, dtype=kind) for shape in shapes]
        if op in ("group_norm", "group_norm_silu", "concat_channels", "upsample_nearest2x"):
            tensors = [t.permute(0, 3, 1, 2) if t.ndim == 4 else t for t in tensors]
        rest = [torch.randint(0, shapes[0][1], [shapes[0][0]])] if op in LABELLED else []
        run = _torch_ops()[op]
        if not grad:
            return torch.no_grad()(lambda: run(*tensors, *rest))
        for t in tensors:
            t.requires_grad_()
        cotangent = torch.ones_like(run(*tensors, *rest))
        return lambda: torch.autograd.grad(run(*tensors, *rest), tensors, cotangent)

    return make


OPS = tuple(dict.fromkeys(row["op"] for row in ROWS))
