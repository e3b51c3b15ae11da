"""Builds the captioned picture pack for the embedded models.

    bash fetch.sh build                # packages -> build/src/<name>/
    pip install pillow numpy resvg-py
    python build_pack.py --root build --out . --jobs 2

Reads the unpacked packages under ROOT/src and writes to OUT:

    pack_000.tar, pack_001.tar ...  img/<id>.webp; a random share of everything
                                    in each, every archive <= --archive-mb
    captions.jsonl                  one record per captioned picture
    photos.jsonl                    one record per photo crop
    LICENSES.md                     name, version, licence and count per source

Captioned pictures are RGBA (lossy WebP with alpha, 256 px, trimmed and centred
with a 6 px margin; random margins, backgrounds and positions are made at
training time).  Records:

    id, file, source, style, name, plural, keywords, colour, flip, opaque,
    group, licence, split

split is "train", "heldout_name" (this object's name occurs in no training
record of any source) or "heldout_combo" (the name is trained on, but this
source's drawing of it is not).  colour is the dominant colour word or "".
flip tells whether mirroring keeps the caption true.
"""

import argparse
import hashlib
import io
import json
import os
import random
import re
import tarfile
import time
from collections import Counter, defaultdict
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from pack_lists import DROP_NAMES, NEVER_HELD_OUT, PHOTO_CAPTIONS, PHOTOS, SOURCES
from pack_pictures import make_sheets, photo_work, work
from pack_sources import (
    emoji_table,
    gather_art4apps,
    gather_emoji,
    gather_openclipart,
    gather_oxygen,
    gather_tuxpaint,
    h01,
    openmoji_extras,
)


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--root", default="build")
    ap.add_argument("--out", default=".")
    ap.add_argument("--jobs", type=int, default=2)
    ap.add_argument("--archive-mb", type=float, default=48)
    ap.add_argument("--photo-crops", type=int, default=2600)
    ap.add_argument("--limit", type=int, default=0, help="at most this many pictures per source (for a quick look)")
    ap.add_argument("--sheets", default="", help="folder for contact sheets, one per source")
    args = ap.parse_args()
    src, outd = Path(args.root) / "src", Path(args.out)
    outd.mkdir(parents=True, exist_ok=True)
    t0 = time.time()
    table = emoji_table(src)
    tasks = []
    for s, k, p, hx in gather_emoji(src, table):
        tasks.append((s, k, p, dict(table[hx], hexcode=hx, style=None)))
    for gen in (openmoji_extras, gather_openclipart, gather_tuxpaint, gather_oxygen, gather_art4apps):
        tasks += list(gen(src))
    if args.limit:
        by = defaultdict(list)
        for t in tasks:
            by[t[0]].append(t)
        tasks = [t for v in by.values() for t in random.Random(1).sample(v, min(len(v), args.limit))]
    print(f"{len(table)} emoji names, {len(tasks)} candidate pictures", flush=True)
    tasks = [t for t in tasks if t[3]["name"] not in DROP_NAMES.get(t[0], ())]
    random.Random(0).shuffle(tasks)
    tasks.sort(key=lambda t: t[0])
    drops, recs = Counter(), []
    with Pool(args.jobs) as pool:
        seen = defaultdict(list)
        for i, (r, why, s) in enumerate(pool.imap(work, tasks, chunksize=16)):
            if r is None:
                drops[(s, why)] += 1
                continue
            prev = seen[s]
            if prev:
                H = np.stack([p[0] for p in prev])
                d = np.unpackbits(H ^ r["h"], axis=1).sum(1)
                C = np.abs(np.stack([p[1] for p in prev]) - r["sig"]).mean(1)
                lim = 6 if s != "openclipart" else 12
                if ((d <= lim) & (C < 7)).any():
                    drops[(s, "duplicate")] += 1
                    continue
            prev.append((r["h"], r["sig"]))
            recs.append(r)
            if i % 2000 == 0:
                print(f"  {i}/{len(tasks)} {time.time() - t0:.0f}s", flush=True)
    # ---- splits
    emoji_names = sorted(
        {r["meta"]["name"] for r in recs if "hexcode" in r["meta"] and r["meta"]["group"] in (0, 3, 4, 5, 6, 7)}
    )

    def base(n: str) -> str:
        return re.sub(r" (face|plant|flower)$", "", n)

    held = {n for n in emoji_names if h01("name", base(n)) < 0.065 and not (set(base(n).split()) & NEVER_HELD_OUT)}
    held_base = {base(n) for n in held}
    vendors = [s for s, (p, _, _) in SOURCES.items() if "emoji" in p or "noto" in p]
    counters = Counter(r["meta"]["name"] for r in recs)
    lines, blobs = [], []
    for r in recs:
        m, s = r["meta"], r["source"]
        nm = m["name"]
        split = "train"
        if (
            nm in held
            or base(nm) in held_base
            or any(re.search(rf"\b{re.escape(h)}s?\b", nm) for h in held_base if len(h) > 3)
        ):
            split = "heldout_name"
        elif (
            s in vendors
            and counters[nm] >= 5
            and h01("combo", nm) < 0.10
            and vendors[int(h01("vendor", nm) * len(vendors))] == s
        ):
            split = "heldout_combo"
        noflip = bool(
            re.search(
                r"\b(left|right|clock|flag|arrow|letter|text|sign|book|newspaper|calendar|keyboard|calculator|map|globe|trademark|"
                r"memo|abc|scroll|o'clock|typewriter|guitar|playing|currency|banknote|dollar|euro|pound|yen|receipt|chart)\b",
                nm,
            )
        ) or m["group"] in (8, 9)
        ident = f"{s}-{hashlib.sha1((nm + str(len(blobs))).encode()).hexdigest()[:10]}"
        lines.append(
            dict(
                id=ident,
                file=f"img/{ident}.webp",
                source=s,
                style=m.get("style") or SOURCES[s][2],
                name=nm,
                plural=bool(
                    re.search(r"[^s']s$", nm)
                    and not re.search(
                        r"(glass|bus|cactus|octopus|hippopotamus|walrus|compass|dress|cross|lotus|"
                        r"iris|abacus|chess|tennis|virus|platypus|brontosaurus|moss|canvas|bass|gas|lens|mess|class|"
                        r"stegosaurus|rhinoceros|hibiscus|bonus|crocus|cosmos|process|express|princess|santa claus|"
                        r"claus|swiss|kiss|asparagus|sauropod|citrus|chaos)$",
                        nm,
                    )
                ),
                keywords=m.get("keywords", []),
                colour=r["colour"],
                flip=not noflip,
                opaque=r["opaque"],
                group=str(m["group"]),
                licence=SOURCES[s][1],
                split=split,
            )
        )
        blobs.append((f"img/{ident}.webp", r["data"]))
    # ---- photos
    jobs, files = [], []
    for pkg, (lic, pats) in PHOTOS.items():
        d = src / pkg
        for f in sorted(d.rglob("*")):
            if f.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp") or f.is_symlink() or not f.is_file():
                continue
            for pat, cap in pats:
                if re.search(pat, str(f)):
                    for k, v in PHOTO_CAPTIONS.items():
                        if k in str(f):
                            cap = v
                    files.append((str(f), lic, pkg, cap))
                    break
    per = max(4, args.photo_crops // max(1, len(files)))
    for f, lic, pkg, cap in files:
        jobs.append(
            (
                f,
                lic,
                pkg,
                cap,
                f"{pkg}/{os.path.basename(f)}",
                per * (2 if pkg.startswith(("lomiri", "scikit")) or "nature" in f else 1),
            )
        )
    photos = []
    with Pool(args.jobs) as pool:
        for job, res in zip(jobs, pool.imap(photo_work, jobs), strict=False):
            for n, r in enumerate(res):
                ident = "photo-" + hashlib.sha1(f"{job[4]}{n}".encode()).hexdigest()[:10]
                held_p = h01("photo", job[4]) < 0.10
                photos.append(
                    dict(
                        id=ident,
                        file=f"img/{ident}.webp",
                        source=r["source"],
                        origin=r["origin"],
                        caption=r["caption"],
                        licence=r["licence"],
                        split="heldout" if held_p else "train",
                    )
                )
                blobs.append((f"img/{ident}.webp", r["data"]))
    # ---- archives: the same random mixture in each
    order = list(range(len(blobs)))
    random.Random(7).shuffle(order)
    total = sum(len(b) + 1024 for _, b in blobs)
    n_arch = max(1, int(np.ceil(total / (args.archive_mb * 1e6))))
    for old in outd.glob("pack_*.tar"):
        old.unlink()
    where = {}
    for k in range(n_arch):
        with tarfile.open(outd / f"pack_{k:03d}.tar", "w", format=tarfile.USTAR_FORMAT) as tf:
            for i in sorted(order[k::n_arch]):
                nm, data = blobs[i]
                ti = tarfile.TarInfo(nm)
                ti.size = len(data)
                tf.addfile(ti, io.BytesIO(data))
                where[nm] = f"pack_{k:03d}.tar"
    with open(outd / "captions.jsonl", "w") as fh:
        for row in lines:
            row["archive"] = where[row["file"]]
            fh.write(json.dumps(row, ensure_ascii=True) + "\n")
    with open(outd / "photos.jsonl", "w") as fh:
        for row in photos:
            row["archive"] = where[row["file"]]
            fh.write(json.dumps(row, ensure_ascii=True) + "\n")
    # ---- licences
    cnt, pc = Counter(row["source"] for row in lines), Counter(p["source"] for p in photos)

    def version(pkg: str) -> str:
        f = src / pkg / ".ok"
        return f.read_text().strip().split("@")[-1] if f.exists() else "?"

    md = [
        "# Sources and licences of the picture pack",
        "",
        "Every picture was scaled to 256 px, trimmed and recompressed; photographs were cut into crops. The `licence`",
        "field of each record in captions.jsonl / photos.jsonl repeats the licence, so a subset can be chosen.",
        "",
        "## Captioned pictures",
        "",
        "| source | package | version | licence | style | pictures |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    credit = {
        "openmoji": "OpenMoji, the open-source emoji and icon project",
        "openmoji-black": "OpenMoji, the open-source emoji and icon project",
        "fluent-3d": "Microsoft Fluent Emoji",
        "fluent": "Microsoft Fluent Emoji",
        "fluent-flat": "Microsoft Fluent Emoji",
        "noto": "Google Noto Emoji",
        "noto-v1": "Google Noto Emoji",
        "twemoji": "Twemoji, Twitter and contributors",
        "emojione": "EmojiOne 2 (Ranks.com)",
        "emojione-v1": "EmojiOne 1 (Ranks.com)",
        "fxemoji": "Mozilla FxEmojis",
        "openclipart": "Open Clip Art Library contributors",
        "tuxpaint": "Tux Paint stamp contributors",
        "oxygen": "Oxygen icon theme team",
        "art4apps": "Art4Apps, Smart4Kids",
    }
    for s, (pkg, lic, st) in SOURCES.items():
        name = re.sub(
            r"^(lobehub|iconify-json)-",
            lambda m: {"lobehub": "@lobehub/", "iconify-json": "@iconify-json/"}[m.group(1)],
            pkg,
        )
        st = " / ".join(k for k, _ in Counter(row["style"] for row in lines if row["source"] == s).most_common()) or st
        md.append(f"| {s} ({credit[s]}) | {name} | {version(pkg)} | {lic} | {st} | {cnt[s]} |")
    md += [
        "",
        "Names and keywords: emojibase-data " + version("emojibase-data") + " (MIT, after Unicode CLDR).",
        "",
        "## Photographs and pictures without captions",
        "",
        "| package | version | licence | crops |",
        "| --- | --- | --- | --- |",
    ]
    for pkg, (lic, _) in PHOTOS.items():
        md.append(f"| {pkg} | {version(pkg)} | {lic} | {pc[pkg]} |")
    (outd / "LICENSES.md").write_text("\n".join(md) + "\n")
    print("pictures", len(lines), dict(cnt))
    print(
        "splits",
        Counter(row["split"] for row in lines),
        "held-out names",
        len({row["name"] for row in lines if row["split"] == "heldout_name"}),
    )
    print("photos", len(photos), dict(pc), Counter(p["split"] for p in photos), "files", len(files))
    print("dropped", dict(drops))
    print("colour words", Counter(row["colour"] for row in lines))
    for f in sorted(outd.glob("pack_*.tar")):
        print(f.name, round(f.stat().st_size / 1e6, 1), "MB")
    if args.sheets:
        make_sheets(args.sheets, lines, photos, dict(blobs))
    print(f"done in {time.time() - t0:.0f}s")


if __name__ == "__main__":
    main()
