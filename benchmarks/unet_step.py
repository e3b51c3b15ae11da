"""One UNet step of Stable Diffusion 1.5 beside PyTorch and OpenVINO: seconds, peak memory, error to float32, in one
run.

    python benchmarks/unet_step.py [--family sd15|sdxl] [--size 64] [--batch 2] [--runs 3] [--only ours-bf16,torch-fp32]

Every engine runs the same random weights and inputs in a process of its own, one after the other. Peers need an
interpreter with torch, diffusers and openvino: name it in MIXSTUDIO_REFERENCE_PYTHON. Results are appended to
benchmarks/data/unet_step.csv.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from engines import HERE, environment, keep, run

ENGINES = ("torch-fp32", "torch-bf16", "openvino-f32", "openvino-bf16", "ours-fp32", "ours-bf16")
COLUMNS = ("date", "family", "latent", "batch", "threads", "engine", "seconds", "peak_mb", "relative_error")


def main() -> None:
    """Make the weights, run the engines, print and keep a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="sd15", choices=("sd15", "sdxl"))
    parser.add_argument("--size", type=int, default=64, help="latent side")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default=",".join(ENGINES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make = [
            os.environ["MIXSTUDIO_REFERENCE_PYTHON"],
            str(HERE / "peers" / "make_unet.py"),
            str(folder),
            args.family,
            str(args.size),
            str(args.batch),
        ]
        subprocess.run(make, check=True, env=environment(args.threads), cwd=folder)
        rows, truth = [], None
        for engine in args.only.split(","):
            result = run(engine, "unet", folder, (args.runs, args.threads), args.threads)
            output = np.load(folder / "output.npy")
            truth = output if truth is None else truth
            error = float(np.linalg.norm(output - truth) / np.linalg.norm(truth))
            seconds = float(np.median(result["seconds"]))
            rows.append(
                (
                    datetime.date.today().isoformat(),
                    args.family,
                    args.size,
                    args.batch,
                    args.threads,
                    engine,
                    f"{seconds:.3f}",
                    f"{result['peak_mb']:.0f}",
                    f"{error:.2e}",
                )
            )
            figures = f"{seconds:7.2f} s   peak {result['peak_mb']:7.0f} MB   error to the first {error:.1e}"
            sys.stdout.write(f"{engine:<14} {figures}\n")
            sys.stdout.flush()
    keep("unet_step", COLUMNS, rows)


if __name__ == "__main__":
    main()
