"""Text to image from end to end beside PyTorch diffusers: seconds a picture, in one run on the same weights.

    python benchmarks/text_to_image.py [--steps 5] [--size 512] [--only ours-bf16,torch-fp32]

Stable Diffusion 1.5 at full size with random weights (a picture of noise, but the same work): encode the prompt, CFG
denoising, decode. Peers need an interpreter with torch, diffusers and transformers: name it in
MIXSTUDIO_REFERENCE_PYTHON. Results go to benchmarks/data/text_to_image.csv.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from engines import HERE, environment, keep, run

ENGINES = ("torch-fp32", "torch-bf16", "ours-fp32", "ours-bf16")
COLUMNS = ("date", "size", "steps", "threads", "engine", "seconds", "unet_seconds_a_step", "decode_seconds", "peak_mb")


def main() -> None:
    """Make the weights, run the engines, print and keep a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default=",".join(ENGINES))
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make = [os.environ["MIXSTUDIO_REFERENCE_PYTHON"], str(HERE / "peers" / "make_pipeline.py"), str(folder)]
        subprocess.run(make, check=True, env=environment(args.threads), cwd=folder, capture_output=True)
        for engine in args.only.split(","):
            told = run(engine, "pipeline", folder, (args.steps, args.size, args.threads), args.threads)
            figures = [f"{told[k]:.2f}" for k in ("seconds", "step", "decode")] + [f"{told['peak_mb']:.0f}"]
            rows.append((datetime.date.today().isoformat(), args.size, args.steps, args.threads, engine, *figures))
            words = "{:7.2f} s a picture   {:6.2f} s a step   {:6.2f} s decoding   peak {:6.0f} MB"
            sys.stdout.write(
                f"{engine:<12} {words.format(*(told[k] for k in ('seconds', 'step', 'decode', 'peak_mb')))}\n"
            )
            sys.stdout.flush()
    keep("text_to_image", COLUMNS, rows)


if __name__ == "__main__":
    main()
