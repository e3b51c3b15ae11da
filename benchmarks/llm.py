"""A language model beside transformers and llama.cpp: tokens a second one after the other, and of a prompt; memory.

    python benchmarks/llm.py SmolLM2-135M-Instruct.Q4_1.gguf [--only ours-stored,torch-bf16] [--runs 5]

Every engine runs in a process of its own on the same token ids. Peers need an interpreter with torch, transformers and
gguf, for llama.cpp also llama_cpp (PyPI: llama-cpp-python): name it in MIXSTUDIO_REFERENCE_PYTHON. Where it has no
llama_cpp that engine is left out. Results go to benchmarks/data/llm.csv.

Decoding: 128 tokens, greedy, after a prompt of 32. Prompt: 512 tokens, scores of the last one. Medians of the runs;
`best` is the fastest one. GB/s is the bytes of all weights that a token reads, times tokens a second; beside it what
plain reading from memory reaches in the same process.
"""

import argparse
import datetime
import os
import subprocess
import sys
from pathlib import Path

from engines import environment, keep, run

ENGINES = (
    "torch-fp32",
    "torch-bf16",
    "llamacpp-stored",
    "ours-fp32",
    "ours-bf16",
    "ours-stored",
    "ours-int8",
    "ours-int4",
)
MEASURED = (
    "decode",
    "decode_best",
    "prefill",
    "prefill_best",
    "load_seconds",
    "load_mb",
    "peak_mb",
    "gb_s",
    "memory_gb_s",
)
COLUMNS = ("date", "file", "threads", "engine", *MEASURED)
HEAD = ("engine", "decode tok/s", "best", "prefill tok/s", "best", "load s", "loaded MB", "peak MB", "GB/s", "of")


def has_llama() -> bool:
    """Whether the peers' interpreter has llama.cpp."""
    python = os.environ.get("MIXSTUDIO_REFERENCE_PYTHON", "")
    asked = [python, "-c", "import llama_cpp"]
    return bool(python) and subprocess.run(asked, capture_output=True, env=environment(1), cwd="/").returncode == 0


def main() -> None:
    """Run the engines, print and keep a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path(os.environ.get("MIXSTUDIO_SMOLLM2", "")))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default=",".join(ENGINES))
    args = parser.parse_args()
    if not args.file.is_file():
        parser.error("name a GGUF file, or set MIXSTUDIO_SMOLLM2")
    rows = []
    sys.stdout.write(" | ".join(HEAD) + "\n")
    for engine in args.only.split(","):
        if engine.startswith("llamacpp") and not has_llama():
            sys.stdout.write(f"{engine} | left out: MIXSTUDIO_REFERENCE_PYTHON has no llama_cpp\n")
            continue
        told = run(engine, "llm", args.file.resolve().parent, (args.file.name, args.runs, args.threads), args.threads)
        figures = [f"{told[k]:.1f}" for k in MEASURED]
        rows.append((datetime.date.today().isoformat(), args.file.name, args.threads, engine, *figures))
        sys.stdout.write(" | ".join((engine, *figures)) + "\n")
        sys.stdout.flush()
    keep("llm", COLUMNS, rows)


if __name__ == "__main__":
    main()
