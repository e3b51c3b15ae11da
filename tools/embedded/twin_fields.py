"""Control pictures: fields that look like QR codes, pictures with one worked in, and edges."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F


def qr_field(B: int, size: int, dev: torch.device, quiet: bool = True) -> torch.Tensor:
    """Grids of random modules with finder patterns, 1 = light; (B, 1, size, size)."""
    out = torch.ones(B, 1, size, size, device=dev)
    for n in (21, 25, 29, 33, 37):
        m = torch.randint(0, 5, (B,), device=dev) == (n - 21) // 4
        k = int(m.sum())
        if not k:
            continue
        q = (torch.rand(k, 1, n, n, device=dev) > 0.5).float()
        f = torch.zeros(8, 8, device=dev)
        f[:7, :7] = 1
        f[1:6, 1:6] = 0
        f[2:5, 2:5] = 1
        f = 1 - f
        q[:, :, :8, :8] = f
        q[:, :, :8, -8:] = f.flip(1)
        q[:, :, -8:, :8] = f.flip(0)
        if quiet:
            q = F.pad(q, (2, 2, 2, 2), value=1.0)
        out[m] = F.interpolate(q, size=(size, size), mode="nearest")
    return out


@torch.no_grad()
def make_condition(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(picture, condition) pairs: the picture's own brightness as a module grid
    (grey, two-level or blurred; sometimes only a part), or a synthetic QR field
    that is worked into the picture."""
    B, dev = len(x), x.device
    lum = (x * torch.tensor([0.299, 0.587, 0.114], device=dev).view(1, 3, 1, 1)).sum(1, keepdim=True)
    kind = torch.rand(B, device=dev)
    cond = torch.empty_like(lum)
    sizes = torch.tensor([4, 8, 16], device=dev)[torch.randint(0, 3, (B,), device=dev)]
    for m in (4, 8, 16):
        k = sizes == m
        if k.any():
            cond[k] = F.interpolate(F.avg_pool2d(lum[k], m), size=256, mode="nearest")
    two = kind < 0.25  # two-level at the picture's middle brightness
    med = cond.flatten(1).mean(1).view(B, 1, 1, 1)
    cond = torch.where(two.view(B, 1, 1, 1), (cond > med).float(), cond)
    bl = F.avg_pool2d(lum, 17, 1, 8, count_include_pad=False)
    cond = torch.where(((kind >= 0.25) & (kind < 0.4)).view(B, 1, 1, 1), bl, cond)
    qr = (kind >= 0.55).view(B, 1, 1, 1)  # worked-in QR field
    q = qr_field(B, 256, dev)
    qs = torch.where(
        (torch.rand(B, device=dev) < 0.5).view(B, 1, 1, 1), q, F.avg_pool2d(q, 5, 1, 2, count_include_pad=False)
    )
    s = 0.25 + 0.45 * torch.rand(B, 1, 1, 1, device=dev)
    y = torch.where(qs > 0.5, x + (1 - x) * s * (qs - 0.5) * 2, x * (1 - s * (0.5 - qs) * 2))
    x = torch.where(qr, y, x)
    cond = torch.where(qr, q, cond)
    # part of the condition unknown (mid grey)
    part = torch.rand(B, device=dev) < 0.15
    yy = torch.rand(B, 4, device=dev)
    gy = torch.arange(256, device=dev).view(1, 1, 256, 1) / 256
    gx = gy.transpose(2, 3)
    lo, hi = yy[:, :2].min(1).values.view(B, 1, 1, 1), yy[:, :2].max(1).values.view(B, 1, 1, 1)
    inside = torch.where((yy[:, 2] > 0.5).view(B, 1, 1, 1), (gy > lo) & (gy < hi), (gx > lo) & (gx < hi))
    cond = torch.where(part.view(B, 1, 1, 1) & inside, torch.full_like(cond, 0.5), cond)
    return x, cond.clamp(0, 1)


@torch.no_grad()
def make_edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(picture, Canny edges): thresholds are drawn, as users turn them; (B, 1, size, size), 1 on edges."""
    low = np.random.default_rng(int(torch.randint(2**31, ()))).uniform(50, 150, len(x))
    pictures = (x.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy()
    edges = [cv2.Canny(p, a, 2 * a) for p, a in zip(pictures, low, strict=True)]
    return x, torch.from_numpy(np.stack(edges)).to(x.device).float().unsqueeze(1) / 255
