"""The CLIP pair's stage, and retrieval on held-out drawings."""

import time
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from drawing import render
from twin_context import EMA, Context, Maybe, adamw, lr_at
from twin_models import CLIPStep, build_clip

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip_norm(x: torch.Tensor) -> torch.Tensor:
    m = torch.tensor(CLIP_MEAN, device=x.device).view(1, 3, 1, 1)
    s = torch.tensor(CLIP_STD, device=x.device).view(1, 3, 1, 1)
    return (x - m) / s


def stage_clip(ctx: Context) -> None:
    a = ctx.a
    clip = build_clip(ctx.ccfg, ctx.vocab)
    if ctx.have("clip"):
        from transformers import CLIPModel

        clip = CLIPModel.from_pretrained(ctx.model / "clip", torch_dtype=torch.float32)
    clip = clip.to(ctx.dev).train()
    ema = EMA(clip, 0.995)
    decay = [p for n, p in clip.named_parameters() if p.ndim > 1]
    nodecay = [p for n, p in clip.named_parameters() if p.ndim <= 1]
    opt = adamw(
        ctx,
        [dict(params=decay, weight_decay=0.1), dict(params=nodecay, weight_decay=0.0)],
        a.clip_lr,
        betas=(0.9, 0.98),
    )
    step0, spent = ctx.load_state("clip", ema, [opt], [clip])
    clock = ctx.clock("clip", spent)
    fwd = Maybe(CLIPStep(clip), ctx.compile)
    B, size, ntok = a.clip_batch or (8 if a.smoke else 1024), ctx.ccfg["image"], 48
    part = min(B, 128)  # plans come in parts, so that workers share a batch
    plans = ctx.plans(part, seed=23, n=ntok)
    ctx.log(f"clip: {sum(p.numel() for p in clip.parameters()) / 1e6:.2f}M parameters, batch {B}")
    t_save = t_log = time.time()
    while not clock.done():
        p = clock.progress()
        with torch.no_grad():
            got = [next(plans) for _ in range(B // part)]
            px = torch.cat([F.avg_pool2d(render(ctx.lib, g), 256 // size) for g in got])
            ids = torch.cat([g["ids"] for g in got]).to(ctx.dev).long()
            px = (
                px * (1 + 0.1 * torch.randn(B, 1, 1, 1, device=ctx.dev))
                + 0.04 * torch.randn(B, 1, 1, 1, device=ctx.dev)
            ).clamp(0, 1)
            px = clip_norm(px)
            same = (ids.unsqueeze(0) == ids.unsqueeze(1)).all(-1).float() if B <= 256 else None
            if same is None:  # hash of the token row: equal captions are all positives
                w = torch.randint(1, 2**40, (ids.shape[1],), device=ctx.dev)
                h = (ids * w).sum(1)
                same = (h.unsqueeze(0) == h.unsqueeze(1)).float()
            target = same / same.sum(1, keepdim=True)
        for g in opt.param_groups:
            g["lr"] = lr_at(p, a.clip_lr, warm=0.06)
        try:
            with ctx.cast():
                im, tx = fwd(px, ids)
                logits = clip.logit_scale.float().exp().clamp(max=100) * im @ tx.t()
                loss = -0.5 * (
                    (target * F.log_softmax(logits, 1)).sum(1).mean()
                    + (target * F.log_softmax(logits.t(), 1)).sum(1).mean()
                )
            opt.zero_grad(set_to_none=True)
            loss.backward()
        except Exception as e:
            if fwd.c is None or clock.step > 3:
                raise
            ctx.log(f"clip: compiled step failed ({type(e).__name__}: {str(e)[:200]}); running without")
            fwd.drop()
            continue
        nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        opt.step()
        ema.update()
        clock.step += 1
        if time.time() - t_log > 15 or a.smoke:
            acc = float((logits.argmax(1) == torch.arange(B, device=ctx.dev)).float().mean())
            ctx.log(
                f"clip step {clock.step} p {p:.2f} loss {float(loss):.3f} acc {acc:.3f} "
                f"{clock.step * B / (time.time() - clock.t0):.0f} pairs/s"
            )
            t_log = time.time()
        if time.time() - t_save > 150:
            ctx.save_state("clip", clock, ema, [opt], [clip])
            t_save = time.time()
    ctx.save_state("clip", clock, ema, [opt], [clip])
    ema.swap()
    clip.eval()
    export_clip(ctx, clip)
    ctx.note(
        "clip",
        steps=step0 + clock.step,
        pairs=clock.step * B,
        parameters=sum(p.numel() for p in clip.parameters()),
        **clip_eval(ctx, clip),
    )


@torch.no_grad()
def clip_embed(
    ctx: Context, clip: Any, images: torch.Tensor | None = None, texts: list[str] | None = None
) -> torch.Tensor:
    CLIPStep(clip)
    out = []
    n = len(images) if images is not None else len(texts)
    for i in range(0, n, 64):
        with ctx.cast():
            if images is not None:
                out.append(
                    F.normalize(
                        clip.visual_projection(
                            clip.vision_model(
                                pixel_values=clip_norm(
                                    F.interpolate(images[i : i + 64].to(ctx.dev), size=ctx.ccfg["image"], mode="area")
                                )
                            ).pooler_output
                        ).float(),
                        dim=-1,
                    )
                )
            else:
                out.append(
                    F.normalize(
                        clip.text_projection(
                            clip.text_model(input_ids=ctx.tokens(texts[i : i + 64]).to(ctx.dev).long()).pooler_output
                        ).float(),
                        dim=-1,
                    )
                )
    return torch.cat(out)


@torch.no_grad()
def clip_eval(ctx: Context, clip: Any) -> dict[str, Any]:
    """Retrieval on drawings that were never trained on (a source's drawing held out; a name held out)."""
    from compose import STYLE, with_article

    res, recs = {}, ctx.lib.recs
    names = sorted({r["name"] for r in recs if r["split"] != "heldout_name"})
    tn = clip_embed(ctx, clip, texts=[with_article(n, {"name": n}) for n in names])
    for split in ("heldout_combo", "heldout_name"):
        idx = [i for i, r in enumerate(recs) if r["split"] == split][:512]
        if len(idx) < 2:
            continue
        pl = ctx.planner(split=(split,), seed=5, plain=True)
        b = pl.batch(len(idx), indices=idx, style_p=0.0)
        im = clip_embed(
            ctx,
            clip,
            images=torch.cat(
                [
                    render(ctx.lib, {k: (v[j : j + 64] if k != "text" else v) for k, v in b.items()}).cpu()
                    for j in range(0, len(idx), 64)
                ]
            ),
        )
        tx = clip_embed(
            ctx, clip, texts=[STYLE[recs[i]["style"]][0].format(with_article(recs[i]["name"], recs[i])) for i in idx]
        )
        sim = im @ tx.t()
        for k in (1, 5):
            top = sim.topk(min(k, len(idx)), 1).indices
            res[f"{split}_image_to_text_top{k}"] = round(
                float(
                    np.mean(
                        [
                            any(recs[idx[j]]["name"] == recs[i]["name"] for j in t.tolist())
                            for i, t in zip(idx, top, strict=False)
                        ]
                    )
                ),
                4,
            )
            top = sim.t().topk(min(k, len(idx)), 1).indices
            res[f"{split}_text_to_image_top{k}"] = round(
                float(
                    np.mean(
                        [
                            any(recs[idx[j]]["name"] == recs[i]["name"] for j in t.tolist())
                            for i, t in zip(idx, top, strict=False)
                        ]
                    )
                ),
                4,
            )
        res[f"{split}_n"] = len(idx)
        if split == "heldout_combo":
            top = (im @ tn.t()).topk(min(5, len(names)), 1).indices
            for k in (1, 5):
                res[f"zero_shot_{len(names)}_names_top{k}"] = round(
                    float(
                        np.mean(
                            [
                                recs[i]["name"] in [names[j] for j in t[:k].tolist()]
                                for i, t in zip(idx, top, strict=False)
                            ]
                        )
                    ),
                    4,
                )
    return res


def export_clip(ctx: Context, clip: Any) -> None:
    from transformers import CLIPImageProcessor, CLIPTextModel

    ctx.export(clip, "clip")
    ctx.tok.save_pretrained(ctx.model / "clip")
    for f in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (ctx.model / "clip" / f).write_text((ctx.model / "tokenizer" / f).read_text())
    s = ctx.ccfg["image"]
    CLIPImageProcessor(
        size={"shortest_edge": s}, crop_size={"height": s, "width": s}, image_mean=CLIP_MEAN, image_std=CLIP_STD
    ).save_pretrained(ctx.model / "clip")
    te = CLIPTextModel(clip.config.text_config)
    want = te.state_dict()
    src = {k: v for k, v in clip.text_model.state_dict().items()}
    pre = "text_model." if any(k.startswith("text_model.") for k in want) else ""
    te.load_state_dict(
        {pre + k: v.cpu() for k, v in src.items()},
        strict=len([k for k in want if "position_ids" not in k]) == len([k for k in src if "position_ids" not in k]),
    )
    ctx.export(te, "text_encoder", prefix="text_model.")
