"""Trains the embedded models: VAE, CLIP pair, UNet, ControlNet.

    python train_gpu.py --data . --out out                                   # everything, 23 minutes on one large GPU
    python train_gpu.py --data . --out out --stages unet --minutes unet=18
    python train_gpu.py --data . --out /tmp/smoke --smoke                    # every stage, tiny, on a CPU
    python train_gpu.py --estimate                                           # FLOPs and expected steps

Each stage runs for its number of minutes (learning rate and phases follow the
clock), writes its part of the diffusers folder OUT/model and its row in
OUT/metrics.json, and keeps OUT/state/<stage>.pt for --resume.  Sheets go to
OUT/sheets.  Components already in OUT/model are the starting point of their
stage (so a stage can be continued elsewhere from the exported fp16 files).
"""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from twin_clip import stage_clip
from twin_context import MINUTES, ORDER, Context
from twin_controlnet import stage_controlnet
from twin_fields import qr_field
from twin_models import build_clip, build_unet, build_vae, configs
from twin_unet import stage_unet
from twin_vae import stage_vae

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

sys.path.insert(0, str(Path(__file__).resolve().parent))

warnings.filterwarnings("ignore")


def check(ctx: Context) -> None:
    """Loads the result in diffusers and makes one picture with each pipeline."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
    from transformers import CLIPModel, CLIPTokenizer

    dt = torch.float32
    pipe = StableDiffusionPipeline.from_pretrained(ctx.model, torch_dtype=dt).to(ctx.dev)
    pipe.set_progress_bar_config(disable=True)
    steps = 3 if ctx.a.smoke else 25
    im = pipe(
        "a 3d render of a red apple",
        num_inference_steps=steps,
        guidance_scale=5.0,
        height=256,
        width=256,
        generator=torch.Generator("cpu").manual_seed(0),
    ).images[0]
    im.save(ctx.out / "sheets/check_pipeline.png")
    ctx.log(f"StableDiffusionPipeline made a picture of {im.size}")
    if ctx.have("controlnet"):
        net = ControlNetModel.from_pretrained(ctx.model / "controlnet", torch_dtype=dt)
        p2 = StableDiffusionControlNetPipeline(**{**pipe.components, "controlnet": net.to(ctx.dev)})
        p2.set_progress_bar_config(disable=True)
        q = qr_field(1, 256, ctx.dev).expand(-1, 3, -1, -1)
        im = p2("a cat", image=q, num_inference_steps=steps, guidance_scale=5.0, height=256, width=256).images[0]
        im.save(ctx.out / "sheets/check_controlnet.png")
        ctx.log(f"StableDiffusionControlNetPipeline made a picture of {im.size}")
    if ctx.have("clip"):
        c = CLIPModel.from_pretrained(ctx.model / "clip", torch_dtype=dt)
        t = CLIPTokenizer.from_pretrained(ctx.model / "clip")
        ids = t(["a cat"], padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
        a_, b_ = c.text_model(input_ids=ids).last_hidden_state, pipe.text_encoder.cpu()(ids)[0]
        ctx.log(f"text tower and text encoder agree: {bool(torch.allclose(a_, b_, atol=1e-3))}")
    total = sum(f.stat().st_size for f in ctx.model.rglob("*") if f.is_file())
    ctx.log(f"model folder {total / 1e6:.1f} MB")


def estimate(a: argparse.Namespace) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    vc, cc, uc = configs(False, a)

    def fl(f: Callable[[], Any]) -> float:
        with FlopCounterMode(display=False) as c, torch.no_grad():
            f()
        return c.get_total_flops() / 1e9

    vae, clip, unet = build_vae(vc).eval(), build_clip(cc, 8192).eval(), build_unet(uc, cc["width"]).eval()
    from diffusers import ControlNetModel

    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64, 128))
    x = torch.zeros(1, 3, 256, 256)
    enc, dec = fl(lambda: vae.encode(x)), fl(lambda: vae.decode(torch.zeros(1, 4, 32, 32)))
    vt, tt = (
        fl(lambda: clip.vision_model(pixel_values=torch.zeros(1, 3, 128, 128))),
        fl(lambda: clip.text_model(input_ids=torch.ones(1, 77, dtype=torch.long))),
    )
    un = fl(lambda: unet(torch.zeros(1, 4, 32, 32), torch.tensor([5]), torch.zeros(1, 77, cc["width"])))
    cn = fl(
        lambda: net(
            torch.zeros(1, 4, 32, 32),
            torch.tensor([5]),
            torch.zeros(1, 77, cc["width"]),
            controlnet_cond=x,
            return_dict=False,
        )
    )

    def M(m: Any) -> float:
        return sum(p.numel() for p in m.parameters()) / 1e6

    print(f"parameters: vae {M(vae):.1f}M, clip {M(clip):.1f}M, unet {M(unet):.1f}M, controlnet {M(net):.1f}M")
    print(
        f"forward GFLOP at 256 px: vae encode {enc:.1f}, decode {dec:.1f}; clip image {vt:.2f}, "
        f"text {tt:.2f}; unet {un:.1f}; controlnet {cn:.1f}"
    )
    rows = [
        ("vae", 3 * (enc + dec) * (a.vae_crop / 256) ** 2, a.vae_batch or 96, 120e12 * 0.35),
        ("clip", 3 * (vt + tt * 48 / 77), a.clip_batch or 1024, 120e12 * 0.6),
        ("unet", 3 * un + tt + a.refresh * enc, a.unet_batch or 256, 120e12 * 0.7),
        ("controlnet", 3 * cn + 2.2 * un + tt + enc / 3, a.ctrl_batch or 128, 120e12 * 0.6),
    ]
    print(
        f"{'stage':11s} {'GFLOP/sample':>12s} {'batch':>6s} {'min':>5s} {'steps@120T':>10s} "
        f"{'steps, careful':>14s} {'samples, careful':>16s}"
    )
    for n, g, b, eff in rows:
        s = MINUTES[n] * 60 - 40  # compile and start
        print(
            f"{n:11s} {g:12.1f} {b:6d} {MINUTES[n]:5.1f} {s * 120e12 / (g * 1e9 * b):10.0f} "
            f"{s * eff / (g * 1e9 * b):14.0f} {s * eff / (g * 1e9):16.0f}"
        )


def main() -> Any:
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--data", default=str(Path(__file__).resolve().parent))
    ap.add_argument("--out", default="out")
    ap.add_argument("--stages", default=",".join(ORDER))
    ap.add_argument("--minutes", default="", help="for example vae=6,clip=3,unet=11,controlnet=3")
    ap.add_argument("--max-steps", type=int, default=0, help="end a stage after this many steps")
    ap.add_argument("--device", default="")
    ap.add_argument(
        "--workers",
        type=int,
        default=-1,
        help="processes that plan compositions; by default 12, or two less than the cores",
    )
    ap.add_argument("--limit", type=int, default=0, help="use this many pictures only")
    ap.add_argument("--exclude-licence", default="GPL", help="regular expression over the licence field")
    ap.add_argument("--smoke", action="store_true")
    ap.add_argument("--estimate", action="store_true")
    ap.add_argument("--check", action="store_true", help="only load OUT/model in diffusers and make pictures")
    ap.add_argument("--no-resume", dest="resume", action="store_false")
    ap.add_argument("--no-state", action="store_true", help="write no OUT/state")
    ap.add_argument("--compile", dest="compile", action="store_true", default=None)
    ap.add_argument("--no-compile", dest="compile", action="store_false")
    ap.add_argument(
        "--compile-stages", default="vae,unet", help="compiling takes a minute or more: it pays in the longer stages"
    )
    ap.add_argument("--until", type=float, default=0, help="end the stage at this second of Unix time")
    ap.add_argument("--wait", type=float, default=0, help="seconds to wait for parts that other processes are training")
    ap.add_argument("--no-zero-snr", dest="zero_snr", action="store_false")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--vae-channels", default="32,64,128,192")
    ap.add_argument("--vae-batch", type=int, default=0)
    ap.add_argument("--vae-crop", type=int, default=128)
    ap.add_argument("--vae-lr", type=float, default=6e-4)
    ap.add_argument("--kl", type=float, default=1e-4)
    ap.add_argument("--halves", type=float, default=0.25, help="share of batches that show whole pictures at half size")
    ap.add_argument("--gan-from", type=float, default=0.66)
    ap.add_argument(
        "--gan-share",
        type=float,
        default=0.3,
        help="size of the adversarial gradient against that of the reconstruction",
    )
    ap.add_argument("--clip-batch", type=int, default=0)
    ap.add_argument("--clip-text", default="320x6", help="width and layers")
    ap.add_argument("--clip-image", default="320x8", help="width and layers")
    ap.add_argument("--clip-lr", type=float, default=1e-3)
    ap.add_argument("--unet-channels", default="128,224,320")
    ap.add_argument("--alone", type=float, default=0.7, help="share of one large drawing in one place, for the UNet")
    ap.add_argument("--unet-layers", type=int, default=1)
    ap.add_argument("--unet-plain", type=int, default=0, help="so many of the largest sizes have no attention")
    ap.add_argument("--noise-bias", type=float, default=1.5, help="noisy steps are drawn as the density t^(bias - 1)")
    ap.add_argument("--unet-batch", type=int, default=0)
    ap.add_argument("--unet-lr", type=float, default=5e-4)
    ap.add_argument("--refresh", type=float, default=0.25, help="new compositions per step, as a share of the batch")
    ap.add_argument("--sheet-minutes", type=float, default=3.5)
    ap.add_argument("--control", choices=("qr", "canny"), default="qr", help="what the ControlNet follows")
    ap.add_argument("--ctrl-batch", type=int, default=0)
    ap.add_argument("--ctrl-lr", type=float, default=3e-4)
    a = ap.parse_args()
    if a.estimate:
        return estimate(a)
    t0 = time.time()
    ctx = Context(a)
    if not a.check:
        for s in ORDER:
            if s in a.stages.split(","):
                t, ctx.stage = time.time(), s
                {"vae": stage_vae, "clip": stage_clip, "unet": stage_unet, "controlnet": stage_controlnet}[s](ctx)
                ctx.log(f"== {s} took {(time.time() - t) / 60:.2f} min")
                if ctx.cuda:
                    torch._dynamo.reset()
                    torch.cuda.empty_cache()
    if all(ctx.have(n) for n in ("vae", "text_encoder", "unet")) and (
        a.check or a.smoke or "unet" in a.stages or "controlnet" in a.stages
    ):
        check(ctx)
    ctx.log(f"all done in {(time.time() - t0) / 60:.2f} min")


if __name__ == "__main__":
    main()
