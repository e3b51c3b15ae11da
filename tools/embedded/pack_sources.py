"""One generator a package: (source, kind, place, about) for every picture with a name."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pack_lists import AUTHORS, DROP_SUB, FX_ALIAS, NATIONAL_FLAGS, OC_BAD, OC_DROP, SOURCES, STOP_GROUPS
from word_lists import words


def h01(*parts: Any) -> float:
    return int(hashlib.sha256("|".join(parts).encode()).hexdigest()[:12], 16) / 16**12


def norm_hex(h: str) -> str:
    return "-".join(p for p in h.upper().replace("_", "-").split("-") if p not in ("FE0F", "FE0E"))


def emoji_table(src: Path) -> dict[str, dict[str, Any]]:
    """hexcode -> dict(name, keywords, group, sub) without near-duplicates."""
    out = {}
    for e in json.loads(Path(src / "emojibase-data/en/data.json").read_text(encoding="utf-8")):
        g, sub = e.get("group"), e.get("subgroup")
        hx, label = norm_hex(e["hexcode"]), e["label"].lower().replace("\u2019", "'")
        if g is None or g in STOP_GROUPS or sub in DROP_SUB:
            continue
        if g == 9:
            if sub == 98:
                cc = "".join(chr(int(p, 16) - 0x1F1E6 + 65) for p in hx.split("-") if p.startswith("1F1"))
                if cc not in NATIONAL_FLAGS:
                    continue
                label = "flag of " + label.split(": ")[-1]
        elif ":" in label:
            label = (
                label.replace("person: ", "person with ")
                .replace("man: ", "man with ")
                .replace("woman: ", "woman with ")
            )
            if ":" in label:
                continue
        if sub == 58:  # clock faces: four are enough
            if "thirty" in label:
                continue
            if "o'clock" in label:
                if not re.match(r"(three|six|nine|twelve) ", label):
                    continue
                label = "clock showing " + label
        if g == 1:  # people: keep the neutral form and a few others
            if "-200D-2640" in hx or "-200D-2642" in hx:
                continue
            if "200D" in hx and re.match(r"(man|woman) ", label) and h01(hx) > 0.3:
                continue
            if sub == 30 and h01(hx) > 0.3:  # families
                continue
        if sub == 85 and not re.match(r"(up|down|left|right|right arrow curving.*|.*arrows.*) arrow$", label):
            continue
        if sub == 96 and re.search(r"(small|medium)", label):
            continue
        if re.search(
            r"button|keycap|squared|input|\bdash\b|loop|\bsos\b|\bzzz\b|hundred|middle finger|no one under", label
        ):
            continue
        if sub == 97 and label not in ("pirate flag", "rainbow flag", "chequered flag", "white flag", "black flag"):
            continue
        name = label
        name = re.sub(r"^(large|medium|small) (red|orange|yellow|green|blue|purple|brown|black|white)", r"\2", name)
        fix = {
            "blossom": "blossom flower",
            "boar": "wild boar",
            "o": "circle",
            "crossed-out eyes": "face with crossed-out eyes",
        }
        name = fix.get(name, name)
        out[hx] = dict(
            name=name,
            keywords=[t for t in e.get("tags", []) if re.fullmatch(r"[a-z][a-z \-']{1,24}", t)][:10],
            group=g,
            sub=sub,
        )
    return out


def slug(s: str) -> str:
    return re.sub(r"[^a-z0-9]", "", s.lower())


def gather_emoji(src: Path, table: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    """(source, kind, payload, hexcode) tasks of every emoji vendor."""
    tasks = []
    names = {}
    for s in ("noto", "twemoji", "fluent-emoji-flat"):
        for hx, nm in json.loads(Path(src / f"iconify-json-{s}/chars.json").read_text(encoding="utf-8")).items():
            names.setdefault(nm, norm_hex(hx))
    bysquash = {}
    for nm, hx in names.items():
        bysquash.setdefault(slug(nm), hx)
    for hx, e in table.items():
        bysquash[slug(e["name"])] = hx
    for sname, (pkg, _, _) in SOURCES.items():
        d = src / pkg
        if pkg.startswith("iconify-json"):
            js = json.loads(Path(d / "icons.json").read_text(encoding="utf-8"))
            chars = d / "chars.json"
            local = (
                {nm: norm_hex(hx) for hx, nm in json.loads(Path(chars).read_text(encoding="utf-8")).items()}
                if chars.exists()
                else {}
            )
            seen = set()
            for nm, ic in js["icons"].items():
                if sname == "fxemoji" and nm in FX_ALIAS:
                    hx = bysquash.get(slug(FX_ALIAS[nm]))
                else:
                    hx = local.get(nm) or names.get(nm) or bysquash.get(slug(nm))
                if hx not in table or hx in seen:
                    continue
                seen.add(hx)
                w, h = ic.get("width", js.get("width", 16)), ic.get("height", js.get("height", 16))
                svg = (
                    f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                    f'viewBox="{ic.get("left", 0)} {ic.get("top", 0)} {w} {h}" width="{w}" height="{h}">'
                    f"{ic['body']}</svg>"
                )
                tasks.append((sname, "svg", svg, hx))
        elif pkg == "openmoji":
            sub = "black" if sname.endswith("black") else "color"
            for f in sorted((d / sub / "svg").glob("*.svg")):
                hx = norm_hex(f.stem)
                if hx in table:
                    tasks.append((sname, "svgfile", str(f), hx))
        elif sname == "fluent-3d":
            for f in sorted((d / "assets").glob("*.webp")):
                hx = norm_hex(f.stem)
                if hx in table:
                    tasks.append((sname, "file", str(f), hx))
    return tasks


def openmoji_extras(src: Path) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    """Named OpenMoji pictures outside Unicode (objects, nature, people)."""
    keep = re.compile(
        r"animals|nature|food|objects|travel|technology|climate|healthcare|gardening|smileys|people|activities", re.I
    )
    for e in json.loads(Path(src / "openmoji/data/openmoji.json").read_text(encoding="utf-8")):
        if e["group"] != "extras-openmoji" or not keep.search(e["subgroups"]):
            continue
        nm = e["annotation"].lower()
        if not re.fullmatch(r"[a-z][a-z \-']{2,32}", nm) or e.get("skintone") not in ("", None):
            continue
        if re.search(r"brand|logo|flag|button|symbol|interaction|ui|emergency|language", e["subgroups"] + " " + nm):
            continue
        kw = [t.strip().lower() for t in (e["tags"] + "," + e["openmoji_tags"]).split(",")]
        kw = [t for t in kw if re.fullmatch(r"[a-z][a-z \-']{1,24}", t)][:8]
        for s, sub in (("openmoji", "color"), ("openmoji-black", "black")):
            f = src / f"openmoji/{sub}/svg/{e['hexcode']}.svg"
            if f.exists():
                yield s, "svgfile", str(f), dict(name=nm, keywords=kw, group="extra", style=None)


def gather_openclipart(src: Path) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    words = set()
    for row in (
        Path(src / "wamerican-small/usr/share/dict/american-english-small", errors="ignore")
        .read_text(encoding="utf-8", errors="ignore")
        .splitlines()
    ):
        w = row.strip()
        if w.islower() and w.isalpha():
            words.add(w)
    words |= set(words("colour grey orca hippo rhino t-rex"))
    root = src / "openclipart-png/usr/share/openclipart/png"
    for f in sorted(root.rglob("*.png")):
        rel = str(f.relative_to(root))
        if OC_DROP.search(rel):
            continue
        stem = f.stem.lower().replace("-", "_")
        stem = re.sub(r"__+", "_", stem).strip("_")
        stem = AUTHORS.sub("", stem)
        toks = [re.sub(r"[^a-z]", "", re.sub(r"\d+[a-z]?$", "", t)) for t in stem.split("_")]
        name = []
        for t in toks:
            if not t:
                continue
            if t not in words or (len(t) == 1 and t != "a"):
                break
            name.append(t)
        while name and name[0] in (
            "a",
            "an",
            "the",
            "another",
            "simple",
            "cartoon",
            "funny",
            "my",
            "cute",
            "single",
            "one",
        ):
            name.pop(0)
        while name and name[-1] in (
            "a",
            "an",
            "the",
            "with",
            "of",
            "and",
            "on",
            "in",
            "w",
            "for",
            "colour",
            "color",
            "coloured",
            "by",
            "to",
            "at",
            "simple",
            "or",
            "from",
            "is",
            "drawn",
        ):
            name.pop()
        if not name or len(name) > 4:
            continue
        nm = " ".join(name)
        if OC_BAD.search(nm) or len(nm) < 3:
            continue
        toks = nm.split()
        colour_words = words("red orange yellow green blue purple pink brown black white grey gray")
        if toks[-1] in colour_words and nm not in ("orange",):  # "balloon green"
            toks = [toks[-1], *toks[:-1]]
        if all(t in colour_words for t in toks) and nm != "orange":
            continue
        nm = {
            "cone": "ice cream cone",
            "cone soft": "soft ice cream cone",
            "cone soft chocolate": "chocolate ice cream cone",
            "pie apple": "apple pie",
            "pie cherry": "cherry pie",
            "pie pumpkin": "pumpkin pie",
            "cassette video": "video cassette",
            "school country": "country school",
            "moon crescent": "crescent moon",
            "moon half": "half moon",
            "ball": "billiard ball" if "game" in rel or "sport" in rel else "ball",
        }.get(nm, " ".join(toks))
        cat = rel.split("/")[:-1]
        kw = [c.replace("_", " ") for c in cat if c not in ("unsorted",)]
        yield "openclipart", "oc", str(f), dict(name=nm, keywords=kw, group=cat[0], style=None)


def gather_tuxpaint(src: Path) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    root = src / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    for f in sorted(list(root.rglob("*.png")) + list(root.rglob("*.svg"))):
        rel = str(f.relative_to(root))
        if re.search(r"symbols/|roadsigns|flags|military|money|body_parts", rel):
            continue
        t = f.with_suffix(".txt")
        if not t.exists() or re.search(r"_(mirror|flip)", f.stem):
            continue
        nm = (t.read_text(errors="ignore").splitlines() or [""])[0].strip().lower()
        nm = re.split(r"[.!(,]", nm)[0].strip()
        nm = re.sub(
            r"^(an?|the|some|this is an?|this is the|our|it's an?|it is an?|a little|pair of|a pair of|big|happy) ",
            "",
            nm,
        )
        nm = re.sub(r"^(pair of|little) ", "", nm)
        if re.search(r"\b(are|is|for|you|i|my|in ruins|at the|tombstone|cemetery|skeleton)\b", nm):
            continue
        if not re.fullmatch(r"[a-z][a-z0-9 \-']{1,40}", nm) or len(nm.split()) > 5:
            continue
        style = "clip art" if (f.suffix == ".svg" or "cartoon" in rel) else "photo"
        yield (
            "tuxpaint",
            ("svgfile" if f.suffix == ".svg" else "file"),
            str(f),
            dict(
                name=nm,
                keywords=[p.replace("_", " ") for p in rel.split("/")[:-1] if p != "cartoon"],
                group=rel.split("/")[0],
                style=style,
            ),
        )


def gather_oxygen(src: Path) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    alias = {
        "audio-headset": "headset",
        "audio-input-microphone": "microphone",
        "camera-photo": "camera",
        "camera-web": "webcam",
        "computer-laptop": "laptop",
        "drive-harddisk": "hard disk",
        "drive-optical": "optical drive",
        "input-gaming": "game controller",
        "input-keyboard": "keyboard",
        "input-mouse": "computer mouse",
        "input-tablet": "graphics tablet",
        "multimedia-player": "music player",
        "phone": "mobile phone",
        "video-television": "television",
        "video-display": "monitor",
        "computer": "computer",
        "battery": "battery",
        "printer": "printer",
        "scanner": "scanner",
        "accessories-calculator": "calculator",
        "accessories-dictionary": "dictionary",
        "help-browser": "lifebuoy",
        "internet-mail": "envelope",
        "user-trash": "trash can",
        "user-trash-full": "full trash can",
        "folder": "folder",
        "user-home": "house",
        "weather-clear": "sun",
        "weather-clear-night": "moon",
        "weather-showers": "rain cloud",
        "weather-snow": "snow cloud",
        "weather-storm": "thunderstorm cloud",
        "weather-clouds": "sun behind clouds",
        "weather-many-clouds": "clouds",
        "mail-unread": "envelope",
        "security-high": "green shield",
        "security-low": "red shield",
        "security-medium": "yellow shield",
        "face-smile": "smiling face",
        "face-sad": "sad face",
        "face-laugh": "laughing face",
        "face-angry": "angry face",
        "face-cool": "face with sunglasses",
        "face-kiss": "kissing face",
        "face-surprise": "surprised face",
        "face-wink": "winking face",
        "face-crying": "crying face",
        "face-angel": "angel face",
        "face-devilish": "devil face",
        "face-glasses": "face with glasses",
        "face-monkey": "monkey face",
        "face-plain": "neutral face",
        "face-embarrassed": "embarrassed face",
        "kate": "pencil",
        "clock": "clock",
        "preferences-desktop-wallpaper": "picture",
        "application-certificate": "certificate",
        "audio-headphones": "headphones",
        "dialog-warning": "warning sign",
        "dialog-password": "key",
        "office-chart-pie": "pie chart",
        "view-calendar": "calendar",
        "bookmarks": "star",
        "rating": "star",
        "trophy-gold": "gold trophy",
        "games-difficult": "trophy",
    }
    root = src / "oxygen-icon-theme/usr/share/icons/oxygen/base"
    seen = set()
    for size in ("256x256", "128x128"):
        for f in sorted((root / size).rglob("*.png")):
            if f.stem in alias and f.stem not in seen and not f.is_symlink():
                seen.add(f.stem)
                yield "oxygen", "file", str(f), dict(name=alias[f.stem], keywords=["icon"], group="oxygen", style=None)


def gather_art4apps(src: Path) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    verbs = set(
        words(
            """
ride hop throw run jog win spread step roast play push pull lift stretch swing sit stand walk hit bounce catch
kick dive skip wrestle sprinkle handlebar sock bacon coast meat jewel skirt sugar pyjamas bank compete
exercise train lose team race game score
"""
        )
    )
    root = src / "pysiogame/usr/share/games/pysiogame/res/images/art4apps"
    for f in sorted(root.rglob("*.jpg")):
        cat = f.parent.name
        if cat in ("actions", "people", "body", "time", "family", "jobs"):
            continue
        nm = re.sub(r"\d+$", "", f.stem.lower().replace("_", " ").replace("-", " ")).strip()
        if re.fullmatch(r"[a-z][a-z ']{2,30}", nm) and nm not in verbs:
            yield (
                "art4apps",
                "jpg",
                str(f),
                dict(name=nm, keywords=[cat.replace("_n_", " and ").replace("_", " ")], group=cat, style=None),
            )
