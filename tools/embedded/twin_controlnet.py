"""The ControlNet's stage."""

import functools
import operator
import time
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from drawing import sheet
from twin_context import EMA, Context, Maybe, adamw, lr_at
from twin_fields import qr_field
from twin_models import build_scheduler, build_unet
from twin_pool import Pool, diffusion_target, load_frozen, prompts, sample
from twin_unet import warm


class Both(nn.Module):
    """The ControlNet and the frozen UNet as one function, so that they are compiled together."""

    def __init__(self, net: nn.Module, unet: nn.Module) -> None:
        super().__init__()
        self.net, self.unet = net, unet

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor, cond: torch.Tensor) -> Any:
        d, m = self.net(x, t, c, controlnet_cond=cond, return_dict=False)
        return self.unet(
            x, t, c, down_block_additional_residuals=d, mid_block_additional_residual=m, return_dict=False
        )[0]


def stage_controlnet(ctx: Context) -> None:
    from diffusers import ControlNetModel, UNet2DConditionModel

    a = ctx.a
    name = "controlnet" if a.control == "qr" else f"controlnet-{a.control}"
    width, B = ctx.ccfg["width"], a.ctrl_batch or (2 if a.smoke else 128)
    unet = build_unet(ctx.ucfg, width).to(ctx.dev, memory_format=torch.channels_last).eval().requires_grad_(False)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64, 128))
    net = net.to(ctx.dev, torch.float32, memory_format=torch.channels_last).train().requires_grad_(True)
    fwd = Maybe(Both(net, unet), ctx.compile)
    warm(ctx, fwd, B, width, control=True)
    ctx.wait("vae", "text_encoder", "unet")
    vae, te = load_frozen(ctx)
    trained = UNet2DConditionModel.from_pretrained(ctx.model / "unet", torch_dtype=torch.float32).state_dict()
    unet.load_state_dict(trained)
    if ctx.have(name):
        begun = ControlNetModel.from_pretrained(ctx.model / name, torch_dtype=torch.float32).state_dict()
    else:
        fresh = net.state_dict()  # the convolutions at zero and the condition's way in
        begun = {k: trained[k] if k in trained and not k.startswith("controlnet_") else v for k, v in fresh.items()}
    net.load_state_dict(begun)
    ema = EMA(net, 0.998)
    opt = adamw(ctx, net.parameters(), a.ctrl_lr)
    step0, spent = ctx.load_state(name, ema, [opt], [net])
    clock = ctx.clock("controlnet", spent)
    part = max(2, B // 4)
    pool = Pool(ctx, vae, 32 if a.smoke else 8192, part, seed=57, control=a.control)
    for _ in range(2 if a.smoke else 4096 // part):
        pool.add()
    ac = build_scheduler(a.zero_snr).alphas_cumprod.to(ctx.dev)
    null = ctx.tokens([""]).to(ctx.dev).long()
    ctx.log(f"controlnet: {sum(p.numel() for p in net.parameters()) / 1e6:.2f}M parameters, batch {B}")
    t_log, seen = time.time(), 0
    while not clock.done():
        p = clock.progress()
        pool.add()
        lat, ids, cond = pool.draw(B)
        ids = torch.where((torch.rand(B, device=ctx.dev) < 0.3)[:, None], null, ids)
        for g in opt.param_groups:
            g["lr"] = lr_at(p, a.ctrl_lr, warm=0.05)
        x, t, v, w = diffusion_target(ac, lat, a.noise_bias)
        try:
            with ctx.cast():
                with torch.no_grad():
                    c = te(ids)[0]
                pred = fwd(
                    x.contiguous(memory_format=torch.channels_last),
                    t,
                    c,
                    cond.contiguous(memory_format=torch.channels_last),
                )
            loss = (((pred.float() - v) ** 2).mean((1, 2, 3)) * w).mean()
            opt.zero_grad(set_to_none=True)
            loss.backward()
        except Exception as e:
            if fwd.c is None or clock.step > 3:
                raise
            ctx.log(f"controlnet: compiled step failed ({type(e).__name__}: {str(e)[:200]}); running without")
            fwd.drop()
            continue
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        ema.update()
        clock.step += 1
        seen += B
        if time.time() - t_log > 20 or a.smoke:
            ctx.log(
                f"controlnet step {clock.step} p {p:.2f} loss {float(loss):.4f} "
                f"{seen / (time.time() - clock.t0):.0f} img/s"
            )
            t_log = time.time()
    ema.swap()
    net.eval()
    ctx.export(net, name)
    # ---- how well the brightness of the result follows a QR field
    pr = [t for t, k in prompts(ctx, 64)][: 2 if a.smoke else 16]
    torch.manual_seed(3)
    q = qr_field(len(pr), 256, ctx.dev) if a.control == "qr" else pool.draw(len(pr))[2][:, :1]
    im = sample(ctx, unet, te, vae, pr, steps=2 if a.smoke else 25, control=net, cond=q.expand(-1, 3, -1, -1))
    lum = (im * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    blur = F.avg_pool2d(lum, 65, 1, 32, count_include_pad=False)
    agree = float(((lum > blur).float() == q.cpu()).float().mean())
    sheet(
        torch.cat([torch.cat([q[i : i + 8].expand(-1, 3, -1, -1).cpu(), im[i : i + 8]]) for i in range(0, len(pr), 8)]),
        functools.reduce(operator.iadd, [[""] * len(pr[i : i + 8]) + pr[i : i + 8] for i in range(0, len(pr), 8)], []),
        ctx.out / f"sheets/{name}.png",
        line=24,
    )
    ctx.note(
        name,
        steps=step0 + clock.step,
        images=seen,
        parameters=sum(p.numel() for p in net.parameters()),
        pixel_agreement=round(agree, 4),
    )
