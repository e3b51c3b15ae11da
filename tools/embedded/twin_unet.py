"""The UNet's stage."""

import json
import time

import torch
import torch.nn as nn
from drawing import sheet
from twin_clip import clip_embed
from twin_context import EMA, Context, Maybe, adamw, lr_at
from twin_models import build_scheduler, build_unet
from twin_pool import Pool, diffusion_target, load_frozen, prompts, sample


def stage_unet(ctx: Context) -> None:
    a = ctx.a
    width = ctx.ccfg["width"]
    unet = build_unet(ctx.ucfg, width)
    if ctx.have("unet"):
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_pretrained(ctx.model / "unet", torch_dtype=torch.float32)
        ctx.log("unet: continuing from the exported weights")
    warm_start = ctx.have("unet")
    unet = unet.to(ctx.dev, memory_format=torch.channels_last).train()
    ema = EMA(unet, 0.999 if not a.smoke else 0.9)
    opt = adamw(ctx, unet.parameters(), a.unet_lr)
    step0, spent = ctx.load_state("unet", ema, [opt], [unet])
    fwd = Maybe(unet, ctx.compile)
    B = a.unet_batch or (4 if a.smoke else 256)
    warm(ctx, fwd, B, width)
    ctx.wait("vae", "text_encoder")
    clock = ctx.clock("unet", spent)
    vae, te = load_frozen(ctx)
    part = max(2, int(B * a.refresh))
    pool = Pool(ctx, vae, 64 if a.smoke else 32768, part, seed=31 + step0)
    for _ in range(2 if a.smoke else 8192 // part):
        pool.add()
    ac = build_scheduler(a.zero_snr).alphas_cumprod.to(ctx.dev)
    null = ctx.tokens([""]).to(ctx.dev).long()
    pr = prompts(ctx, 4 if a.smoke else 64)
    ctx.log(
        f"unet: {sum(p.numel() for p in unet.parameters()) / 1e6:.2f}M parameters, batch {B}, "
        f"pool filled with {pool.made} in {time.time() - clock.t0:.0f}s"
    )
    t_log, t_save, next_sheet, loss_avg, seen = time.time(), time.time(), a.sheet_minutes * 60, None, 0
    peak = a.unet_lr * (0.6 if warm_start and not step0 else 1.0)

    def show(tag: str) -> torch.Tensor:
        ema.swap()
        unet.eval()
        im = sample(ctx, unet, te, vae, [t for t, _ in pr], steps=3 if a.smoke else 25)
        sheet(
            im,
            [f"{k}: {t}" for t, k in pr],
            ctx.out / f"sheets/unet_{tag}.png",
            cell=256 if tag == "final" else 128,
            line=34,
        )
        unet.train()
        ema.swap()
        return im

    while not clock.done():
        p = clock.progress()
        pool.add()
        lat, ids = pool.draw(B)
        drop = torch.rand(B, device=ctx.dev) < 0.10
        ids = torch.where(drop[:, None], null, ids)
        for g in opt.param_groups:
            g["lr"] = lr_at(p, peak, warm=0.02)
        x, t, v, w = diffusion_target(ac, lat, a.noise_bias)
        try:
            with ctx.cast():
                with torch.no_grad():
                    c = te(ids)[0]
                pred = fwd(x.contiguous(memory_format=torch.channels_last), t, c, return_dict=False)[0]
            loss = (((pred.float() - v) ** 2).mean((1, 2, 3)) * w).mean()
            opt.zero_grad(set_to_none=True)
            loss.backward()
        except Exception as e:
            if fwd.c is None or clock.step > 3:
                raise
            ctx.log(f"unet: compiled step failed ({type(e).__name__}: {str(e)[:200]}); running without")
            fwd.drop()
            continue
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        opt.step()
        ema.update()
        clock.step += 1
        seen += B
        if clock.step % 10 == 0 or a.smoke:
            now = float(loss)
            loss_avg = now if loss_avg is None else 0.95 * loss_avg + 0.05 * now
        if time.time() - t_log > 20 or a.smoke:
            ctx.log(
                f"unet step {clock.step} p {p:.2f} loss {loss_avg or 0:.4f} made {pool.made} "
                f"{seen / (time.time() - clock.t0):.0f} img/s"
            )
            t_log = time.time()
        if time.time() - clock.t0 > next_sheet and not a.smoke:
            show(f"{step0 + clock.step:06d}")
            next_sheet += a.sheet_minutes * 60
        if time.time() - t_save > 240:
            ctx.save_state("unet", clock, ema, [opt], [unet])
            t_save = time.time()
    ema.swap()
    unet.eval()
    export_index(ctx)
    ctx.export(unet, "unet")
    ema.swap()
    ctx.save_state("unet", clock, ema, [opt], [unet])
    im = show("final")
    res = {}
    if ctx.have("clip"):
        from transformers import CLIPModel

        clip = CLIPModel.from_pretrained(ctx.model / "clip", torch_dtype=torch.float32).to(ctx.dev).eval()
        s = clip_embed(ctx, clip, images=im) @ clip_embed(ctx, clip, texts=[t for t, _ in pr]).t()
        for kind in ("train", "combo", "name"):
            ii = [i for i, (_, k) in enumerate(pr) if k == kind]
            if ii:
                res[f"prompt_top1_{kind}"] = round(float((s.argmax(1).cpu()[ii] == torch.tensor(ii)).float().mean()), 3)
                res[f"similarity_{kind}"] = round(float(s.diag().cpu()[ii].mean()), 4)
    ctx.note(
        "unet",
        steps=step0 + clock.step,
        images=seen,
        composed=pool.made,
        loss=round(loss_avg or 0, 4),
        parameters=sum(p.numel() for p in unet.parameters()),
        **res,
    )


def warm(ctx: Context, fwd: Maybe, batch: int, width: int, control: bool = False) -> None:
    """Compile before the data is there: one step on noise, whose gradients are dropped."""
    if not ctx.compile:
        return
    began = time.time()
    x = torch.randn(batch, 4, 32, 32, device=ctx.dev).contiguous(memory_format=torch.channels_last)
    t = torch.zeros(batch, dtype=torch.long, device=ctx.dev)
    text = torch.randn(batch, 77, width, device=ctx.dev)
    more = [torch.zeros(batch, 3, 256, 256, device=ctx.dev).contiguous(memory_format=torch.channels_last)]
    try:
        with ctx.cast():
            got = fwd(x, t, text, *more) if control else fwd(x, t, text, return_dict=False)[0]
        got.float().square().mean().backward()
    except Exception as e:
        ctx.log(f"compiling failed ({type(e).__name__}: {str(e)[:200]}); running without")
        fwd.drop()
    for p in fwd.fn.parameters():
        p.grad = None
    if ctx.cuda:
        torch.cuda.empty_cache()
    ctx.log(f"compiled in {time.time() - began:.0f} s")


def export_index(ctx: Context) -> None:
    """scheduler_config.json and model_index.json of a StableDiffusionPipeline."""
    import diffusers

    build_scheduler(ctx.a.zero_snr).save_pretrained(ctx.model / "scheduler")
    (ctx.model / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "StableDiffusionPipeline",
                "_diffusers_version": diffusers.__version__,
                "feature_extractor": [None, None],
                "image_encoder": [None, None],
                "requires_safety_checker": False,
                "safety_checker": [None, None],
                "scheduler": ["diffusers", "DDIMScheduler"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
            },
            indent=2,
        )
        + "\n"
    )
