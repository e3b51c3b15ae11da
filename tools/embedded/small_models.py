"""New small models for a CPU to train, in diffusers' and transformers' folders.

python small_models.py vae --out build/small/model           # AutoencoderKL with the residual paths closed
python small_models.py clip --out build/small/model --tokenizer pack/tokenizer
python small_models.py tower --out build/small/model         # a new picture tower beside the trained text tower
python small_models.py unet --out build/small/model          # beside a trained vae and clip: a whole pipeline
"""

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from app import environment

environment.prepare()

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from ppdiffusers.models.clip import CLIPTextModel  # noqa: E402
from ppdiffusers.models.clip_vision import CLIPConfig, CLIPModel, CLIPVisionConfig  # noqa: E402
from ppdiffusers.models.config import (  # noqa: E402
    CROSS_DOWN,
    CROSS_UP,
    PLAIN_DOWN,
    PLAIN_UP,
    CLIPTextConfig,
    UNetConfig,
    VAEConfig,
)
from ppdiffusers.models.unet import UNet2DConditionModel  # noqa: E402
from ppdiffusers.models.vae import AutoencoderKL  # noqa: E402

TOKENIZER = ("merges.txt", "vocab.json", "special_tokens_map.json", "tokenizer_config.json")
VAE = VAEConfig(block_out_channels=(16, 32, 64, 128), layers_per_block=1, norm_num_groups=8, sample_size=256)
TEXT = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "projection_dim": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
SEEN = CLIPVisionConfig(
    hidden_size=192,
    intermediate_size=768,
    projection_dim=128,
    num_hidden_layers=3,
    num_attention_heads=3,
    image_size=96,
    patch_size=16,
)
UNET = UNetConfig(
    sample_size=32,
    block_out_channels=(48, 96, 192),
    layers_per_block=1,
    down_block_types=(PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN),
    up_block_types=(CROSS_UP, CROSS_UP, PLAIN_UP),
    attention_head_dim=(1, 3, 6),
    cross_attention_dim=256,
    norm_num_groups=16,
)
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
}


def draw(model: paddle.nn.Layer) -> None:
    """Weights and biases evenly in +-1/sqrt(fan-in), as PyTorch begins (He et al. 2015 with a = sqrt 5).

    Paddle's own beginning, sqrt(6) larger for convolutions and with no biases, costs a UNet dearly: its loss stood at
    0.66 after 1,400 steps, where this one is at 0.56 after 200.
    """
    for layer in model.sublayers():
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if weight is None or weight.ndim < 2:
            continue
        bound = float(np.prod(weight.shape[1:]) if weight.ndim == 4 else weight.shape[0]) ** -0.5
        for part in (weight, bias):
            if part is not None:
                part.set_value(paddle.uniform(part.shape, min=-bound, max=bound))


def close_residuals(model: paddle.nn.Layer) -> None:
    """Every residual path begins at zero, so that a deep network learns as fast as its short cut at first."""
    for name, parameter in model.named_parameters():
        if name.endswith(("conv2.weight", "conv2.bias", "to_out.0.weight", "to_out.0.bias")):
            parameter.set_value(paddle.zeros_like(parameter))


def special(tokenizer: Path) -> tuple[int, int]:
    """Ids of the first and the last token of a prompt."""
    vocabulary = json.loads((tokenizer / "vocab.json").read_text(encoding="utf-8"))
    return vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]


def make_clip(out: Path, tokenizer: Path) -> None:
    first, last = special(tokenizer)
    text = CLIPTextConfig(**TEXT, bos_token_id=first, eos_token_id=last, pad_token_id=last)
    CLIPModel(CLIPConfig(text_config=text, vision_config=SEEN, projection_dim=128)).save_pretrained(out / "clip")
    for name in TOKENIZER:
        shutil.copyfile(tokenizer / name, out / "clip" / name)


def make_tower(out: Path) -> None:
    """A new picture tower beside the text tower of OUT/clip, for `train clip --lock-text`."""
    told = CLIPModel.from_pretrained(out / "clip")
    made = CLIPModel(dataclasses.replace(told.config, vision_config=dataclasses.replace(SEEN, num_hidden_layers=4)))
    draw(made.vision_model)
    draw(made.visual_projection)
    draw(made.text_projection)
    made.text_model.set_state_dict(told.text_model.state_dict())
    made.save_pretrained(out / "clip")


def make_unet(out: Path) -> None:
    """The UNet, and all that makes the folder a StableDiffusionPipeline."""
    clip = CLIPModel.from_pretrained(out / "clip")
    text = CLIPTextModel(clip.config.text_config)
    text.text_model.set_state_dict(clip.text_model.state_dict())
    text.save_pretrained(out / "text_encoder", dtype="float16")
    (out / "tokenizer").mkdir(exist_ok=True)
    for name in TOKENIZER:
        shutil.copyfile(out / "clip" / name, out / "tokenizer" / name)
    unet = UNet2DConditionModel(UNET)
    draw(unet)
    close_residuals(unet)
    unet.save_pretrained(out / "unet")
    (out / "scheduler").mkdir(exist_ok=True)
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("vae", "clip", "tower", "unet"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    paddle.seed(args.seed)
    if args.part == "vae":
        vae = AutoencoderKL(VAE)
        close_residuals(vae)
        vae.save_pretrained(args.out / "vae")
    elif args.part == "clip":
        if args.tokenizer is None:
            parser.error("a new CLIP pair needs --tokenizer")
        make_clip(args.out, args.tokenizer)
    elif args.part == "tower":
        make_tower(args.out)
    else:
        make_unet(args.out)


if __name__ == "__main__":
    main()
