"""The autoencoder's stage."""

import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from drawing import render, sheet
from twin_context import EMA, Context, Maybe, adamw, lr_at, psnr
from twin_fields import qr_field
from twin_models import Patch, VAEStep, build_vae, whiten


def photo_batch(ctx: Context, n: int, size: int = 256, split: str = "train") -> torch.Tensor:
    lib = ctx.lib
    idx = torch.tensor([i for i, r in enumerate(lib.photo_recs) if r["split"] == split], device=ctx.dev)
    p = lib.photos[idx[torch.randint(0, len(idx), (n,), device=ctx.dev)]].float() / 255
    z = torch.rand(n, device=ctx.dev) * 0.45 + 0.55
    f = (torch.rand(n, device=ctx.dev) > 0.5).float() * 2 - 1
    th = torch.zeros(n, 2, 3, device=ctx.dev)
    th[:, 0, 0], th[:, 1, 1] = z * f, z
    th[:, 0, 2], th[:, 1, 2] = (
        (torch.rand(n, device=ctx.dev) * 2 - 1) * (1 - z),
        (torch.rand(n, device=ctx.dev) * 2 - 1) * (1 - z),
    )
    p = F.grid_sample(
        p,
        F.affine_grid(th, (n, 3, size, size), align_corners=False),
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    gain = 1 + 0.25 * torch.randn(n, 3, 1, 1, device=ctx.dev) * torch.tensor([0.5], device=ctx.dev)
    return (p * gain + 0.06 * torch.randn(n, 1, 1, 1, device=ctx.dev)).clamp(0, 1)


def synthetic_batch(ctx: Context, n: int, size: int = 256) -> torch.Tensor:
    """Module grids, coloured blocks and smooth noise: edges and textures for the autoencoder."""
    dev = ctx.dev
    a, b = torch.rand(n, 3, 1, 1, device=dev), torch.rand(n, 3, 1, 1, device=dev)
    q = qr_field(n, size, dev)
    x = a * q + b * (1 - q)
    k = torch.randint(0, 3, (n,), device=dev).view(n, 1, 1, 1)
    blocks = F.interpolate(torch.rand(n, 3, 12, 12, device=dev), size=size, mode="nearest")
    smooth = sum(
        F.interpolate(torch.rand(n, 3, s, s, device=dev), size=size, mode="bicubic", align_corners=False) * w
        for s, w in ((4, 0.5), (16, 0.3), (64, 0.2))
    )
    return torch.where(k == 0, x, torch.where(k == 1, blocks, smooth)).clamp(0, 1)


def recon_loss(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """L1, squares, gradients at three scales, and structural similarity; all in float32."""
    x, y = x.float(), y.float()
    l1 = (x - y).abs().mean()
    g, u, v = 0.0, x, y
    for _ in range(3):
        g = (
            g
            + ((u[..., 1:] - u[..., :-1]) - (v[..., 1:] - v[..., :-1])).abs().mean()
            + ((u[..., 1:, :] - u[..., :-1, :]) - (v[..., 1:, :] - v[..., :-1, :])).abs().mean()
        )
        u, v = F.avg_pool2d(u, 2), F.avg_pool2d(v, 2)

    def p(t: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(t, 7, 2)

    mx, my = p(x), p(y)
    sx, sy, sxy = p(x * x) - mx * mx, p(y * y) - my * my, p(x * y) - mx * my
    c1, c2 = 0.02**2, 0.06**2
    ssim = ((2 * mx * my + c1) * (2 * sxy + c2) / ((mx * mx + my * my + c1) * (sx + sy + c2))).mean()
    low = (F.avg_pool2d(x, 8) - F.avg_pool2d(y, 8)).abs().mean()  # colours of areas settle early with this
    return l1 + 4 * ((x - y) ** 2).mean() + 0.35 * g + 0.5 * low + 0.15 * (1 - ssim), l1, ssim


def stage_vae(ctx: Context) -> None:
    a = ctx.a
    vae = build_vae(ctx.vcfg)
    if ctx.have("vae"):
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(ctx.model / "vae", torch_dtype=torch.float32)
    vae = vae.to(ctx.dev, memory_format=torch.channels_last).train()
    disc = Patch(64 if not a.smoke else 16).to(ctx.dev, memory_format=torch.channels_last)
    ema = EMA(vae, 0.998)
    lr = a.vae_lr
    opt, dopt = adamw(ctx, vae.parameters(), lr, wd=0.0), adamw(ctx, disc.parameters(), 2e-4, betas=(0.5, 0.9), wd=0.0)
    step0, spent = ctx.load_state("vae", ema, [opt, dopt], [vae, disc])
    clock = ctx.clock("vae", spent)
    fwd, dfwd = Maybe(VAEStep(vae), ctx.compile), Maybe(disc, ctx.compile)
    B = a.vae_batch or (4 if a.smoke else 96)
    crop = a.vae_crop
    nc, npz = int(B * 0.5), int(B * 0.38)
    plans = ctx.plans(nc, seed=11)
    ctx.log(f"vae: {sum(p.numel() for p in vae.parameters()) / 1e6:.2f}M parameters, batch {B} crops of {crop}")
    t_save = t_log = time.time()
    seen, gan_on = 0, False
    while not clock.done():
        p = clock.progress()
        with torch.no_grad():
            x = torch.cat([render(ctx.lib, next(plans)), photo_batch(ctx, npz), synthetic_batch(ctx, B - nc - npz)])
            size = crop
            if crop == 128 and float(torch.rand(())) < a.halves:  # whole pictures at half their size
                x = F.avg_pool2d(x, 2)
            elif crop < 256:
                oy, ox = torch.randint(0, 257 - crop, (2,)).tolist()
                x = x[..., oy : oy + crop, ox : ox + crop]
            x = (x * 2 - 1).to(memory_format=torch.channels_last)
            eps = torch.randn(B, 4, size // 8, size // 8, device=ctx.dev)
        for g in opt.param_groups:
            g["lr"] = lr_at(p, lr)
        use_gan = p > a.gan_from
        try:
            with ctx.cast():
                y, mean, logvar = fwd(x, eps)
                kl = (0.5 * (mean**2 + logvar.exp() - 1 - logvar)).mean()
                if use_gan:  # both gradients at the picture; the adversarial one is scaled to a share of the other
                    yd = y.detach().float().requires_grad_()
                    rec, l1, ssim = recon_loss(x, yd)
                    g_rec = torch.autograd.grad(rec, yd)[0]
                    g_gan = torch.autograd.grad(-dfwd(yd).float().mean(), yd)[0].float()
                    share = a.gan_share * min(1.0, max(0.0, (p - a.gan_from) / 0.08 - 0.3))
                    loss = (
                        y.float() * (g_rec + share * g_rec.norm() / g_gan.norm().clamp_min(1e-12) * g_gan)
                    ).sum() + a.kl * kl
                else:
                    rec, l1, ssim = recon_loss(x, y)
                    loss = rec + a.kl * kl
            opt.zero_grad(set_to_none=True)
            loss.backward()
        except Exception as e:
            if fwd.c is None or (clock.step > 3 and gan_on):
                raise
            ctx.log(f"vae: compiled step failed ({type(e).__name__}: {str(e)[:200]}); running without")
            fwd.drop(), dfwd.drop()
            continue
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        opt.step()
        ema.update()
        if use_gan:
            gan_on = True
            with ctx.cast():
                dr, df = dfwd(x.detach()), dfwd(y.detach().float())
                dl = F.relu(1 - dr.float()).mean() + F.relu(1 + df.float()).mean()
            dopt.zero_grad(set_to_none=True)
            dl.backward()
            dopt.step()
        clock.step += 1
        seen += B
        if time.time() - t_log > 15 or a.smoke:
            ctx.log(
                f"vae step {clock.step} p {p:.2f} l1 {float(l1):.4f} ssim {float(ssim):.3f} kl {float(kl):.2f}"
                + (f" d {float(dl):.2f}" if use_gan else "")
                + f" {seen / (time.time() - clock.t0):.0f} img/s"
            )
            t_log = time.time()
        if time.time() - t_save > 150:
            ctx.save_state("vae", clock, ema, [opt, dopt], [vae, disc])
            t_save = time.time()
    ctx.save_state("vae", clock, ema, [opt, dopt], [vae, disc])
    ema.swap()
    vae.eval()
    # ---- latent statistics and held-out quality
    n_eval = 16 if a.smoke else 512
    pl = ctx.planner(seed=77)
    with torch.no_grad(), ctx.cast():
        lat = torch.cat(
            [
                vae.encode(
                    render(ctx.lib, pl.batch(16)).mul(2).sub(1).contiguous(memory_format=torch.channels_last)
                ).latent_dist.mean.float()
                for _ in range(n_eval // 16)
            ]
        )
    std, correlation = float(lat.std()), torch.corrcoef(lat.transpose(0, 1).flatten(1))
    neighbours = float(torch.corrcoef(torch.stack([lat[..., 1:].flatten(), lat[..., :-1].flatten()]))[0, 1])
    whiten(vae, lat)
    vae.register_to_config(scaling_factor=1.0)
    res = {}
    hp = ctx.planner(split=("heldout_name", "heldout_combo"), seed=78)
    if not hp.pool:
        hp = pl
    for name, fn in (
        ("clipart", lambda n: render(ctx.lib, hp.batch(n))),
        (
            "photos",
            lambda n: (
                ctx.lib.photos[
                    torch.tensor([i for i, r in enumerate(ctx.lib.photo_recs) if r["split"] == "heldout"] or [0])[:256][
                        torch.randperm(len([1 for r in ctx.lib.photo_recs if r["split"] == "heldout"][:256]) or 1)[:n]
                    ]
                ].float()
                / 255
            ),
        ),
    ):
        tot, last = [], None
        for _ in range(1 if a.smoke else 8):
            x = fn(16).to(ctx.dev)
            with torch.no_grad(), ctx.cast():
                y = vae.decode(
                    vae.encode((x * 2 - 1).contiguous(memory_format=torch.channels_last)).latent_dist.mean
                ).sample.float()
            y = (y * 0.5 + 0.5).clamp(0, 1)
            tot.append(psnr(x, y))
            last = (x, y)
        res[name] = sum(tot) / len(tot)
        sheet(
            torch.cat([torch.cat([last[0][i : i + 8], last[1][i : i + 8]]) for i in range(0, len(last[0]), 8)]),
            [""] * 2 * len(last[0]),
            ctx.out / f"sheets/vae_{name}.png",
            line=0,
        )
    ctx.export(vae, "vae")
    ctx.note(
        "vae",
        steps=step0 + clock.step,
        images=seen,
        psnr_heldout_clipart=round(res["clipart"], 2),
        psnr_heldout_photos=round(res["photos"], 2),
        latent_std=round(std, 4),
        scaling_factor=vae.config.scaling_factor,
        latent_channel_std=[round(float(v), 3) for v in lat.std((0, 2, 3))],
        latent_correlation=round(float((correlation - torch.eye(4, device=ctx.dev)).abs().max()), 3),
        latent_neighbours=round(neighbours, 3),
        parameters=sum(p.numel() for p in vae.parameters()),
    )
