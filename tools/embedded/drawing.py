"""Plans turned into pictures on the training device, and sheets of them to look at."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from compose import Library
from PIL import Image
from scenes import SLOTS


def rotate_hue(rgb: np.ndarray, deg: torch.Tensor) -> torch.Tensor:
    """Hue rotation in HSV, keeping saturation and value; rgb in [0,1], deg (B,)."""
    mx, _ = rgb.max(1, keepdim=True)
    mn, _ = rgb.min(1, keepdim=True)
    d = mx - mn
    dd = d.clamp_min(1e-6)
    r, g, b = rgb[:, 0:1], rgb[:, 1:2], rgb[:, 2:3]
    h = torch.where(mx == r, ((g - b) / dd) % 6, torch.where(mx == g, (b - r) / dd + 2, (r - g) / dd + 4))
    h = (h + deg.view(-1, 1, 1, 1) / 60) % 6
    k = torch.cat([(5 + h) % 6, (3 + h) % 6, (1 + h) % 6], 1)
    return mx - d * torch.minimum(torch.minimum(k, 4 - k), torch.ones_like(k)).clamp_min(0)


def affine(
    img: torch.Tensor,
    cx: torch.Tensor,
    cy: torch.Tensor,
    s: torch.Tensor,
    flip: torch.Tensor,
    rot: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """Places img so that it fills the square of half-width s around (cx, cy)."""
    c, n = torch.cos(rot), torch.sin(rot)
    f = 1 - 2 * flip
    # out -> in:  R^-1 (out - c) / s, then mirrored
    th = torch.stack(
        [
            torch.stack([f * c / s, f * n / s, f * (-(c * cx + n * cy)) / s], 1),
            torch.stack([-n / s, c / s, (n * cx - c * cy) / s], 1),
        ],
        1,
    )
    grid = F.affine_grid(th, (img.shape[0], img.shape[1], size, size), align_corners=False)
    return F.grid_sample(img, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@torch.no_grad()
def render(lib: Library, plan: dict[str, Any], size: int = 256, generator: Any = None) -> torch.Tensor:
    """(B, 3, size, size) in [0, 1]."""
    dev = lib.device
    idx, geo, hue, bg = (
        plan[k].to(dev, non_blocking=True) if torch.is_tensor(plan[k]) else torch.from_numpy(plan[k]).to(dev)
        for k in ("idx", "geo", "hue", "bg")
    )
    B = idx.shape[0]
    y = (torch.arange(size, device=dev, dtype=torch.float32) + 0.5) / size
    y = y.view(1, 1, size, 1)
    c = (bg[:, 1:13] / 255).view(B, 4, 3, 1, 1)
    hz = bg[:, 13].view(B, 1, 1, 1)
    t1 = (y / hz).clamp(0, 1)
    t2 = ((y - hz) / (1 - hz).clamp_min(1e-3)).clamp(0, 1)
    out = (
        torch.where(y < hz, c[:, 0] * (1 - t1) + c[:, 1] * t1, c[:, 2] * (1 - t2) + c[:, 3] * t2)
        .expand(B, 3, size, size)
        .clone()
    )
    st = (bg[:, 14] > 0).nonzero().flatten()
    if len(st):
        noise = torch.rand(len(st), 1, size // 2, size // 2, device=dev)
        stars = F.interpolate((noise > 0.997).float(), size=size, mode="bilinear", align_corners=False)
        stars = stars * (torch.ones(1, 1, size, 1, device=dev) * (y < hz[st] * 1.05))
        out[st] = (out[st] + stars * 0.9).clamp(0, 1)
    ph = (bg[:, 0] > 0).nonzero().flatten()
    if len(ph):
        p = lib.photos[bg[ph, 15].long()].float() / 255
        z, ox, oy = bg[ph, 16], bg[ph, 17], bg[ph, 18]
        th = torch.zeros(len(ph), 2, 3, device=dev)
        th[:, 0, 0], th[:, 1, 1], th[:, 0, 2], th[:, 1, 2] = z, z, ox, oy
        p = F.grid_sample(
            p,
            F.affine_grid(th, (len(ph), 3, size, size), align_corners=False),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        bl = F.avg_pool2d(
            F.interpolate(F.avg_pool2d(p, 8), size=size, mode="bilinear", align_corners=False),
            9,
            1,
            4,
            count_include_pad=False,
        )
        out[ph] = torch.where(bg[ph, 19].view(-1, 1, 1, 1) > 0, bl, p)
    for k in range(SLOTS):
        m = (idx[:, k] >= 0).nonzero().flatten()
        if not len(m):
            continue
        im = lib.pictures[idx[m, k]].float() / 255
        hk = hue[m, k]
        if bool((hk != 0).any()):
            h = (hk != 0).nonzero().flatten()
            im[h, :3] = rotate_hue(im[h, :3], hk[h])
        im = torch.cat([im[:, :3] * im[:, 3:], im[:, 3:]], 1)
        s = geo[m, k, 2]
        small = (s < 0.62).view(-1, 1, 1, 1)
        im = torch.where(
            small, F.interpolate(F.avg_pool2d(im, 2), size=im.shape[-1], mode="bilinear", align_corners=False), im
        )
        g = geo[m, k]
        im = affine(im, g[:, 0], g[:, 1], s, g[:, 3], g[:, 4], size)
        out[m] = im[:, :3] + out[m] * (1 - im[:, 3:])
    return out.clamp(0, 1)


def sheet(
    images: torch.Tensor, texts: list[str], path: str | Path, cols: int = 8, cell: int = 256, line: int = 44
) -> None:
    """Contact sheet with captions below the pictures."""
    from PIL import ImageDraw

    rows = (len(images) + cols - 1) // cols
    sh = Image.new("RGB", (cols * cell, rows * (cell + line)), (255, 255, 255))
    dr = ImageDraw.Draw(sh)
    for i, (im, t) in enumerate(zip(images, texts, strict=False)):
        a = (im.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        x, y = (i % cols) * cell, (i // cols) * (cell + line)
        sh.paste(Image.fromarray(a).resize((cell - 4, cell - 4)), (x + 2, y + 2))
        w = max(8, cell // 6)
        words, lines_, cur = t.split(), [], ""
        for q in words:
            if len(cur) + len(q) + 1 > w:
                lines_.append(cur)
                cur = q
            else:
                cur = (cur + " " + q).strip()
        lines_.append(cur)
        for n, said in enumerate(lines_[: max(1, line // 11)]):
            dr.text((x + 3, y + cell + n * 11 - 1), said, fill=(0, 0, 0))
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    sh.save(path)
