"""Write assets/tokenizers/clip/merges.txt from the copy of CLIP's vocabulary in the package open_clip_torch (MIT).

    pip download open_clip_torch --no-deps -d /tmp/wheel
    python tools/clip_vocabulary.py /tmp/wheel/open_clip_torch-*.whl

Only the first 48,894 merges are CLIP's; the file in the package has more lines, which no model uses. The vocabulary is
not stored: it follows from the merges (see `ppdiffusers.prompt.tokenizer.vocabulary`).
"""

import argparse
import gzip
import zipfile
from pathlib import Path

MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
TOKENS = 49408
MERGES = TOKENS - 2 * 256 - 2  # beside them: each byte, each byte at the end of a word, two specials
OUT = Path(__file__).parents[1] / "assets" / "tokenizers" / "clip" / "merges.txt"


def merges(wheel: Path) -> list[str]:
    """The merges, most frequent first, each as "left right"."""
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read(MEMBER)).decode("utf-8").split("\n")
    return lines[1 : 1 + MERGES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="open_clip_torch-*.whl")
    found = merges(parser.parse_args().wheel)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("\n".join(["#version: 0.2", *found, ""]), encoding="utf-8", newline="\n")
    print(f"{OUT}: {len(found):,} merges")


if __name__ == "__main__":
    main()
