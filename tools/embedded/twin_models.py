"""The embedded models as diffusers and transformers build them, and their steps."""

import argparse
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F


def configs(smoke: bool, a: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    if smoke:
        vae = dict(ch=(16, 16, 32, 32), groups=8, layers=1)
        clip = dict(width=64, layers=2, heads=2, vwidth=64, vlayers=2, vheads=2, image=128, patch=16, proj=64)
        unet = dict(ch=(32, 64, 64), layers=1, groups=16, head=16, plain=a.unet_plain)
    else:
        vae = dict(ch=tuple(int(x) for x in a.vae_channels.split(",")), groups=16, layers=1)
        text, seen = ([int(x) for x in size.split("x")] for size in (a.clip_text, a.clip_image))
        clip = dict(
            **dict(width=text[0], layers=text[1], heads=text[0] // 64, proj=256),
            **dict(vwidth=seen[0], vlayers=seen[1], vheads=seen[0] // 64, image=128, patch=16),
        )
        channels = tuple(int(x) for x in a.unet_channels.split(","))
        unet = dict(ch=channels, layers=a.unet_layers, groups=16, head=32, plain=a.unet_plain)
    return vae, clip, unet


def build_vae(c: dict[str, Any]) -> nn.Module:
    from diffusers import AutoencoderKL

    n = len(c["ch"])
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=256,
        block_out_channels=c["ch"],
        layers_per_block=c["layers"],
        norm_num_groups=c["groups"],
        down_block_types=["DownEncoderBlock2D"] * n,
        up_block_types=["UpDecoderBlock2D"] * n,
        scaling_factor=1.0,
    )


def build_clip(c: dict[str, Any], vocab: int) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    text = dict(
        vocab_size=vocab,
        hidden_size=c["width"],
        intermediate_size=4 * c["width"],
        num_hidden_layers=c["layers"],
        num_attention_heads=c["heads"],
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=vocab - 2,
        eos_token_id=vocab - 1,
        pad_token_id=vocab - 1,
        projection_dim=c["proj"],
    )
    vis = dict(
        hidden_size=c["vwidth"],
        intermediate_size=4 * c["vwidth"],
        num_hidden_layers=c["vlayers"],
        num_attention_heads=c["vheads"],
        image_size=c["image"],
        patch_size=c["patch"],
        hidden_act="quick_gelu",
        projection_dim=c["proj"],
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vis, projection_dim=c["proj"]))


def build_unet(c: dict[str, Any], width: int) -> nn.Module:
    from diffusers import UNet2DConditionModel

    plain, n = c["plain"], len(c["ch"]) - c["plain"]  # the largest sizes without attention
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        layers_per_block=c["layers"],
        block_out_channels=c["ch"],
        down_block_types=["DownBlock2D"] * plain + ["CrossAttnDownBlock2D"] * n,
        up_block_types=["CrossAttnUpBlock2D"] * n + ["UpBlock2D"] * plain,
        cross_attention_dim=width,
        attention_head_dim=[x // c["head"] for x in c["ch"]],
        norm_num_groups=c["groups"],
    )


def build_scheduler(zero_snr: bool) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=zero_snr,
    )


class Patch(nn.Module):
    def __init__(self, ch: int = 64) -> None:
        super().__init__()
        L, c = [nn.Conv2d(3, ch, 4, 2, 1), nn.LeakyReLU(0.2)], ch
        for _ in range(2):
            L += [nn.Conv2d(c, 2 * c, 4, 2, 1), nn.GroupNorm(8, 2 * c), nn.LeakyReLU(0.2)]
            c *= 2
        self.net = nn.Sequential(*L, nn.Conv2d(c, 1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)


class VAEStep(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: torch.Tensor, eps: torch.Tensor) -> Any:
        h = self.vae.quant_conv(self.vae.encoder(x))
        mean, logvar = h.float().chunk(2, 1)
        logvar = logvar.clamp(-30, 20)
        z = mean + torch.exp(0.5 * logvar) * eps
        return self.vae.decoder(self.vae.post_quant_conv(z)), mean, logvar


class CLIPStep(nn.Module):
    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.c = clip

    def forward(self, px: torch.Tensor, ids: torch.Tensor) -> Any:
        c = self.c
        im = c.visual_projection(c.vision_model(pixel_values=px).pooler_output)
        tx = c.text_projection(c.text_model(input_ids=ids).pooler_output)
        return F.normalize(im.float(), dim=-1), F.normalize(tx.float(), dim=-1)


@torch.no_grad()
def whiten(vae: Any, latents: torch.Tensor) -> None:
    """Make the channels of latents (N, C, h, w) uncorrelated, of mean 0 and deviation 1; the pictures stay the same.

    The affine map (ZCA, Bell and Sejnowski 1997) goes into the 1x1 convolutions around the latents.
    """
    rows = latents.double().cpu().transpose(0, 1).flatten(1)
    channels, mean = len(rows), rows.mean(1)
    spread, axes = torch.linalg.eigh(torch.cov(rows))
    there, back = (axes * spread**-0.5) @ axes.T, (axes * spread**0.5) @ axes.T
    before, after = vae.quant_conv, vae.post_quant_conv
    weight, bias = before.weight.double().cpu(), before.bias.double().cpu()
    weight[:channels] = torch.einsum("cd,dijk->cijk", there, weight[:channels])
    bias[:channels] = there @ (bias[:channels] - mean)
    bias[channels:] += 2 * there.diag().log()  # the deviations shrink as the means do
    flat = after.weight.double().cpu().reshape(channels, channels)
    shift = after.bias.double().cpu() + flat @ mean
    before.weight.copy_(weight), before.bias.copy_(bias)
    after.weight.copy_((flat @ back).reshape(after.weight.shape)), after.bias.copy_(shift)


class Encoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: torch.Tensor) -> Any:
        return self.vae.quant_conv(self.vae.encoder(x)).chunk(2, 1)[0]
