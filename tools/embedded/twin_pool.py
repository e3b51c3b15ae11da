"""A pool of encoded compositions, fixed prompts, and sampling."""

from typing import Any

import numpy as np
import torch
from drawing import render
from twin_context import Context
from twin_fields import make_condition, make_edges
from twin_models import Encoder, build_scheduler


def load_frozen(ctx: Context) -> tuple[Any, Any]:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    vae = (
        AutoencoderKL.from_pretrained(ctx.model / "vae", torch_dtype=torch.float32)
        .to(ctx.dev, memory_format=torch.channels_last)
        .eval()
        .requires_grad_(False)
    )
    te = (
        CLIPTextModel.from_pretrained(ctx.model / "text_encoder", torch_dtype=torch.float32)
        .to(ctx.dev)
        .eval()
        .requires_grad_(False)
    )
    return vae, te


class Pool:
    """Ring of encoded compositions on the device; a part of it is renewed each step."""

    def __init__(self, ctx: Context, vae: Any, size: int, part: int, seed: int, control: str = "") -> None:
        self.ctx, self.size, self.part, self.control = ctx, size, part, control
        self.enc = Encoder(vae)
        self.scale = vae.config.scaling_factor
        self.lat = torch.zeros(size, 4, 32, 32, device=ctx.dev, dtype=torch.float16)
        self.ids = torch.zeros(size, 77, device=ctx.dev, dtype=torch.int16)
        self.cond = torch.zeros(size, 1, 256, 256, device=ctx.dev, dtype=torch.uint8) if control else None
        self.plans = ctx.plans(part, seed=seed)
        self.pos = self.filled = self.made = 0

    @torch.no_grad()
    def add(self) -> None:
        g = next(self.plans)
        x = render(self.ctx.lib, g)
        if self.control:
            x, c = make_edges(x) if self.control == "canny" else make_condition(x)
        x = (x * 2 - 1).contiguous(memory_format=torch.channels_last)
        with self.ctx.cast():
            z = self.enc(x)
        n = len(z)
        i = (torch.arange(n, device=z.device) + self.pos) % self.size
        self.lat[i] = (z.float() * self.scale).half()
        self.ids[i] = g["ids"].to(z.device)
        if self.control:
            self.cond[i] = (c * 255).round().byte()
        self.pos, self.filled, self.made = (self.pos + n) % self.size, min(self.size, self.filled + n), self.made + n

    def draw(self, n: int) -> tuple[torch.Tensor, ...]:
        i = torch.randint(0, self.filled, (n,), device=self.lat.device)
        out = (self.lat[i].float(), self.ids[i].long())
        return (*out, (self.cond[i].float() / 255).expand(-1, 3, -1, -1)) if self.control else out


def prompts(ctx: Context, n: int = 64) -> list[tuple[str, str]]:
    """Fixed prompts: (text, kind); half of them are combinations or names never trained on."""
    from compose import STYLE, with_article

    rng = np.random.RandomState(42)
    by = {
        s: [r for r in ctx.lib.recs if r["split"] == s and not r["opaque"]]
        for s in ("train", "heldout_combo", "heldout_name")
    }
    basic = [
        ("a photo of a horse", "train"),
        ("a 3d render of a red apple", "train"),
        ("a flat icon of a cat", "train"),
        ("a cartoon of a dog on a blue background", "train"),
        ("an emoji of a house in a meadow", "train"),
        ("a 3d render of a rocket in space", "train"),
        ("a line drawing of a butterfly", "train"),
        ("clip art of a flower", "train"),
        ("a coloured drawing of a lion", "train"),
        ("a flat icon of a sailboat by the sea", "train"),
        ("a smiling face emoji", "train"),
        ("a glossy icon of a heart", "train"),
        ("two apples", "train"),
        ("a cat and a dog", "train"),
        ("a small tree in the snow", "train"),
        ("a yellow star at night", "train"),
    ]
    comp = [
        ("a blue car on a yellow background", "combo"),
        ("a green heart and a red star", "combo"),
        ("a purple elephant in the desert", "combo"),
        ("a 3d render of three strawberries", "combo"),
        ("a flat icon of a penguin in space", "combo"),
        ("a pink house in the snow", "combo"),
        ("a cartoon of a fish at sunset", "combo"),
        ("a guitar on the left and a drum on the right", "combo"),
    ]

    def take(rows: Any, k: int, kind: str) -> list[tuple[str, str]]:
        return [
            (STYLE[r["style"]][0].format(with_article(r["name"], r)), kind)
            for r in (rows[i] for i in rng.permutation(len(rows))[:k])
        ]

    out = (
        basic
        + take(by["train"], 16, "train")
        + comp
        + take(by["heldout_combo"] or by["train"], 16, "combo")
        + take(by["heldout_name"] or by["train"], 8, "name")
    )
    return out[:n]


@torch.no_grad()
def sample(
    ctx: Context,
    unet: Any,
    te: Any,
    vae: Any,
    texts: list[str],
    steps: int = 25,
    cfg: float = 5.0,
    seed: int = 0,
    control: Any = None,
    cond: torch.Tensor | None = None,
    ctrl_scale: float = 1.0,
) -> torch.Tensor:
    """DDIM with classifier-free guidance; (N, 3, 256, 256) in [0, 1]."""
    ac = build_scheduler(ctx.a.zero_snr).alphas_cumprod.to(ctx.dev)
    ts = (np.round(np.arange(1000, 0, -1000 / steps)) - 1).astype(int).tolist()
    outs = []
    for i in range(0, len(texts), 64):
        tx = texts[i : i + 64]
        n = len(tx)
        g = torch.Generator("cpu").manual_seed(seed + i)
        x = torch.randn(n, 4, 32, 32, generator=g).to(ctx.dev)
        c = te(ctx.tokens([""] * n + tx).to(ctx.dev).long())[0]
        cc = torch.cat([cond[i : i + 64]] * 2).to(ctx.dev) if cond is not None else None
        for k, t in enumerate(ts):
            xin = torch.cat([x, x]).contiguous(memory_format=torch.channels_last)
            tt = torch.full((2 * n,), t, device=ctx.dev, dtype=torch.long)
            kw = {}
            with ctx.cast():
                if control is not None:
                    d, m = control(xin, tt, c, controlnet_cond=cc, conditioning_scale=ctrl_scale, return_dict=False)
                    kw = dict(down_block_additional_residuals=d, mid_block_additional_residual=m)
                v = unet(xin, tt, c, return_dict=False, **kw)[0].float()
            vu, vc = v.chunk(2)
            v = vu + cfg * (vc - vu)
            at = ac[t].float()
            ap = ac[ts[k + 1]].float() if k + 1 < len(ts) else torch.tensor(1.0, device=ctx.dev)
            x0 = at.sqrt() * x - (1 - at).sqrt() * v
            e = at.sqrt() * v + (1 - at).sqrt() * x
            x = ap.sqrt() * x0 + (1 - ap).sqrt() * e
        for j in range(0, n, 16):
            with ctx.cast():
                y = vae.decode(
                    (x[j : j + 16] / vae.config.scaling_factor).contiguous(memory_format=torch.channels_last)
                ).sample.float()
            outs.append((y * 0.5 + 0.5).clamp(0, 1).cpu())
    return torch.cat(outs)


def diffusion_target(
    ac: torch.Tensor, lat: torch.Tensor, noise_bias: float = 1.0, min_snr: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    B = len(lat)
    t = (torch.rand(B, device=lat.device) ** (1 / noise_bias) * 1000).long().clamp(max=999)
    noise = torch.randn_like(lat)
    at = ac[t].view(B, 1, 1, 1).float()
    x = at.sqrt() * lat + (1 - at).sqrt() * noise
    v = at.sqrt() * noise - (1 - at).sqrt() * lat
    snr = (at / (1 - at).clamp_min(1e-8)).view(B)
    if not min_snr:
        return x, t, v, torch.ones_like(snr)
    w = (snr.clamp(max=min_snr) / (snr + 1)).clamp_min(0.25)  # the floor keeps the noisiest steps trained
    return x, t, v, w
