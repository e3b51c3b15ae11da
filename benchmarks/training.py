"""Seconds a training step takes on this machine, for the embedded model's shapes and for SD 1.5.

    python benchmarks/training.py [--sd15] [--steps 5]

Random weights and random latents: what is measured is forward, backward and the optimiser, as `training.loop` does
them.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from app import environment

environment.prepare()

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from paddle import Tensor  # noqa: E402

from ppdiffusers.models.config import CROSS_DOWN, CROSS_UP, SD15, UNetConfig, VAEConfig  # noqa: E402
from ppdiffusers.models.controlnet import ControlNetModel  # noqa: E402
from ppdiffusers.models.outputs import DiagonalGaussian  # noqa: E402
from ppdiffusers.models.unet import UNet2DConditionModel  # noqa: E402
from ppdiffusers.models.vae import AutoencoderKL  # noqa: E402
from ppdiffusers.sampling import ModelSchedule  # noqa: E402
from ppdiffusers.training.draws import Draws  # noqa: E402
from ppdiffusers.training.lowrank import LoraConfig, LowRank, frozen  # noqa: E402
from ppdiffusers.training.objective import Objective, weighted_error  # noqa: E402
from ppdiffusers.training.optimiser import AdamW, AdamWConfig  # noqa: E402
from ppdiffusers.training.vae import parts_of  # noqa: E402

EMBEDDED = UNetConfig(
    sample_size=32,
    block_out_channels=(128, 224, 320),
    layers_per_block=1,
    down_block_types=(CROSS_DOWN,) * 3,
    up_block_types=(CROSS_UP,) * 3,
    attention_head_dim=(4, 7, 10),
    cross_attention_dim=320,
)
EMBEDDED_VAE = VAEConfig(block_out_channels=(32, 64, 128, 192), layers_per_block=1, norm_num_groups=16, sample_size=256)


def median(step: Callable[[int], Tensor], parameters: dict[str, Tensor], steps: int) -> float:
    """Median seconds of a whole step, the first one left out."""
    optimiser, times = AdamW(parameters, AdamWConfig()), []
    for number in range(1, steps + 2):
        began = time.perf_counter()
        step(number).backward()
        optimiser.gather(1.0)
        optimiser.step(number, 1e-5)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def unet_step(config: UNetConfig, kind: str, dtype: str, batch: int, steps: int) -> float:
    """One step of a LoRA (rank 16), of the whole UNet, or of a ControlNet."""
    unet = UNet2DConditionModel(config)
    unet.to(dtype=dtype)
    side, width = config.sample_size or 64, config.cross_attention_dim
    list(frozen({"unet": unet}))
    net = None
    if kind == "lora":
        parameters = LowRank({"unet": unet}, LoraConfig(rank=16), Draws(0)).parameters()
    else:
        net = ControlNetModel.from_unet(unet) if kind == "controlnet" else None
        parameters = dict((net or unet).named_parameters())
        for parameter in parameters.values():
            parameter.stop_gradient = False
    draws, objective = Draws(0), Objective(ModelSchedule.make())
    x0, text = draws.normal((batch, 4, side, side), "x"), draws.normal((batch, 77, width), "text")
    picture = paddle.to_tensor(np.random.default_rng(0).random((batch, 3, 8 * side, 8 * side), np.float32))

    def step(number: int) -> Tensor:
        mixed = objective.mix(x0, draws, number)
        down = mid = None
        if net is not None:
            out = net(mixed.noisy, mixed.times, text, picture)
            down, mid = list(out.down_block_res_samples), out.mid_block_res_sample
        answer = unet(
            mixed.noisy,
            mixed.times,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        )
        return weighted_error(answer.sample, mixed)

    return median(step, parameters, steps)


def vae_step(crop: int, batch: int, steps: int) -> float:
    """One step of the whole embedded autoencoder in float32."""
    vae, draws = AutoencoderKL(EMBEDDED_VAE), Draws(0)
    x = draws.normal((batch, 3, crop, crop), "x").clip(-1, 1)

    def step(number: int) -> Tensor:
        found = DiagonalGaussian(vae._moments(x))
        y = vae._picture(found.sample(draws.normal(found.mean.shape, "noise", number)))
        parts = parts_of(x, y, found)
        return parts["l1"] + parts["edges"] * 0.35 + parts["areas"] * 0.5 + parts["structure"] * 0.15

    return median(step, dict(vae.named_parameters()), steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sd15", action="store_true", help="SD 1.5 at 512 too: needs about 10 GB")
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    for kind in ("lora", "diffusion", "controlnet"):
        for dtype in ("float32", "bfloat16"):
            for batch in (1, 4):
                seconds = unet_step(EMBEDDED, kind, dtype, batch, args.steps)
                print(f"embedded 256 px  {kind:<11} {dtype:<9} batch {batch}  {seconds:7.2f} s a step", flush=True)
    print(f"embedded vae, crops of 128 px, float32, batch 4  {vae_step(128, 4, args.steps):7.2f} s a step", flush=True)
    if args.sd15:
        for dtype in ("bfloat16", "float32"):
            seconds = unet_step(SD15.unet, "lora", dtype, 1, min(args.steps, 2))
            print(f"SD 1.5 512 px    lora        {dtype:<9} batch 1  {seconds:7.2f} s a step", flush=True)


if __name__ == "__main__":
    main()
