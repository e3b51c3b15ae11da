"""The part of a pack that the generator learns from, small enough for one transfer, and the names it is judged by.

    python subset_pack.py --data pack --out build/learn           # build/learn/{pack_000.tar, captions.jsonl, ...}

Vendors of `KEPT_BACK` are left out: the judge learns from them, so it knows no drawing that the generator saw. GPL and
LGPL pictures are left out too. Common objects weigh more than faces, gestures, flags and signs (`weight` in each
record, which `compose.Planner` multiplies its own with).
"""

import argparse
import io
import json
import re
import shutil
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

KEPT_BACK = ("twemoji", "noto-v1", "emojione-v1", "fxemoji")  # 3,321 drawings
OBJECTS = ("3", "4", "5", "6", "7")  # Unicode's groups of nature, food, travel, activities and objects
PEOPLE = re.compile(
    r"(alien|ghost|skull|robot|clown face|pile of poo|(red|blue|green|yellow|purple|orange|pink|broken|black) heart|"
    r"smiling face|grinning face|baby|boy|girl|man|woman|princess|santa claus|ninja|snowboarder|eye|ear|foot|bone|"
    r"brain|tooth|detective|guard|police officer|thumbs up|waving hand)$"
)
RARE = re.compile(r"flag of|o'clock|wheelchair|pushing hand|head shaking|face with open eyes|\bno \w+|banknote|mahjong")
COMMON, PLAIN, SELDOM = 4.0, 1.0, 0.3
JUDGED = 200


def groups(records: list[dict[str, Any]]) -> dict[str, str]:
    """The Unicode group of every name that has one."""
    return {r["name"]: r["group"] for r in records if r["group"].isdigit()}


def weight(record: dict[str, Any], group: dict[str, str]) -> float:
    """How often a drawing is shown."""
    name = record["name"]
    if RARE.search(name) or group.get(name) in ("8", "9"):
        return SELDOM
    if (group.get(name) in OBJECTS and len(name.split()) <= 3) or PEOPLE.fullmatch(name):
        return COMMON
    return PLAIN


def judged(records: list[dict[str, Any]]) -> list[str]:
    """200 names of things that at least five shown vendors and three kept back drew, one or two words each."""
    group, shown, kept = groups(records), defaultdict(set), defaultdict(set)
    for r in records:
        if not re.search("GPL", r["licence"]):
            (kept if r["source"] in KEPT_BACK else shown)[r["name"]].add(r["source"])
    hidden = {r["name"] for r in records if r["split"] == "heldout_name"}
    names = [
        name
        for name in sorted(shown)
        if len(shown[name]) >= 5
        and len(kept[name]) >= 3
        and name not in hidden
        and (group.get(name) in OBJECTS or PEOPLE.fullmatch(name))
        and len(name.split()) <= 2
        and not RARE.search(name)
        and not re.search(r"face$|mouse$|moon$|^map|^oncoming|books?$|folder|mailbox|tray|clef|note", name)
    ]
    return names[:: max(1, len(names) // JUDGED)][:JUDGED] if len(names) > JUDGED else names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {
        part: [json.loads(line) for line in (args.data / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]
        for part in ("captions", "photos")
    }
    names, group = judged(rows["captions"]), groups(rows["captions"])
    kept = {part: [r for r in found if not re.search("GPL", r["licence"])] for part, found in rows.items()}
    kept["captions"] = [{**r, "weight": weight(r, group)} for r in kept["captions"] if r["source"] not in KEPT_BACK]
    wanted = {r["file"] for found in kept.values() for r in found}
    with tarfile.open(args.out / "pack_000.tar", "w") as out:
        for archive in sorted(args.data.glob("pack_*.tar")):
            with tarfile.open(archive) as pack:
                for member in pack:
                    if member.name in wanted:
                        blob = pack.extractfile(member).read()
                        info = tarfile.TarInfo(member.name)
                        info.size = len(blob)
                        out.addfile(info, io.BytesIO(blob))
    for part, found in kept.items():
        lines = [json.dumps({**r, "archive": "pack_000.tar"}, ensure_ascii=False) for r in found]
        (args.out / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copytree(args.data / "tokenizer", args.out / "tokenizer", dirs_exist_ok=True)
    (args.out / "judged.json").write_text(json.dumps(names, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(kept['captions'])} drawings, {len(kept['photos'])} photo crops, {len(names)} names to judge by")


if __name__ == "__main__":
    main()
