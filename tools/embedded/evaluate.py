"""How good the small models are, on drawings and photographs that nothing was trained on.

    python evaluate.py --data pack --model build/model --clip build/model/clip [--count 200]

PSNR of the autoencoder at 256 px, the mean over pictures, for held-out drawings on white and held-out photo crops; how
often the CLIP pair ranks the name of a drawing by a vendor it never saw first, or among five, of 109 names.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from app import environment

environment.prepare()

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from PIL import Image  # noqa: E402
from scenes import with_article  # noqa: E402
from small_set import NAMES, SAY, Pack, alone  # noqa: E402
from subset_pack import KEPT_BACK  # noqa: E402

from ppdiffusers.models.clip_vision import CLIPModel, normalised, unit  # noqa: E402
from ppdiffusers.models.vae import AutoencoderKL  # noqa: E402
from ppdiffusers.prompt.tokenizer import CLIPTokenizer  # noqa: E402
from ppdiffusers.training.vae import psnr  # noqa: E402
from ppdiffusers.weights.load import load_part  # noqa: E402


def chosen(records: list[dict], count: int) -> list[dict]:
    """A fixed random choice."""
    order = np.random.default_rng(1).permutation(len(records))[:count]
    return [records[i] for i in order]


@paddle.no_grad()
def reconstruction(vae: AutoencoderKL, pictures: list[Image.Image]) -> float:
    """Mean PSNR in dB of pictures that were encoded and decoded, without noise."""
    found = []
    for picture in pictures:
        x = paddle.to_tensor(np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
        found.append(psnr(x, vae(x).sample))
    return float(np.mean(found))


@paddle.no_grad()
def retrieval(folder: Path, pictures: list[Image.Image], names: list[str]) -> dict[str, float]:
    """Shares of pictures whose name is the first, or among the first five, of all NAMES."""
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    length = model.config.text_config.max_position_embeddings
    said = [with_article(SAY.get(n, n), {"name": SAY.get(n, n), "plural": False}) for n in NAMES]
    texts = unit(model.get_text_features(paddle.to_tensor(tokenizer.rows(said, length), dtype="int64")))
    size = model.config.vision_config.image_size
    seen = np.stack([normalised(picture, size) for picture in pictures])
    order = (unit(model.get_image_features(paddle.to_tensor(seen))) @ texts.T).argsort(axis=1, descending=True).numpy()
    right = np.array([list(NAMES).index(name) for name in names])[:, None]
    return {f"top{k}": float((order[:, :k] == right).any(axis=1).mean()) for k in (1, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a folder with vae/")
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    pack, rng = Pack(args.data), np.random.default_rng(0)
    held = [r for r in pack.drawings if r["split"] != "train"]
    told: dict[str, object] = {}
    if args.clip is not None:
        known = chosen([r for r in pack.drawings if r["source"] in KEPT_BACK and r["name"] in NAMES], 512)
        pictures = [alone(pack, r, "white", rng) for r in known]
        told |= {"retrieval": retrieval(args.clip, pictures, [r["name"] for r in known])}
        told |= {"retrieval_pictures": len(known), "retrieval_names": len(NAMES)}
        print(json.dumps(told), flush=True)
    vae = load_part(args.model, "vae")
    drawings = [alone(pack, r, "white", rng) for r in chosen(held, args.count)]
    photos = [pack.open(r, "RGB") for r in chosen([r for r in pack.photos if r["split"] != "train"], args.count)]
    told |= {"psnr_drawings": reconstruction(vae, drawings), "psnr_photographs": reconstruction(vae, photos)}
    print(json.dumps(told | {"count": [len(drawings), len(photos)]}))


if __name__ == "__main__":
    main()
