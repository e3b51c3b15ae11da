"""What compositions can say: colours, scenes, styles, plurals and articles."""

import re
from typing import Any

from word_lists import words

SLOTS = 3

PALETTE = {  # colour words that may describe a background or an object
    "white": (255, 255, 255),
    "black": (16, 16, 18),
    "grey": (140, 142, 146),
    "light grey": (212, 214, 218),
    "red": (216, 40, 44),
    "orange": (244, 142, 40),
    "yellow": (250, 214, 60),
    "green": (58, 164, 76),
    "light green": (176, 226, 160),
    "dark green": (24, 84, 50),
    "blue": (46, 104, 214),
    "light blue": (164, 208, 244),
    "dark blue": (22, 40, 104),
    "cyan": (60, 204, 220),
    "purple": (130, 66, 186),
    "pink": (246, 152, 190),
    "brown": (126, 80, 48),
    "beige": (236, 220, 190),
    "teal": (30, 134, 134),
    "lavender": (206, 190, 240),
}

DARK = {"black", "dark green", "dark blue", "purple", "brown", "red", "blue", "teal"}

HUES = {"red": 0, "orange": 28, "yellow": 50, "green": 125, "cyan": 185, "blue": 220, "purple": 275, "pink": 328}

SCENES = {  # phrase list -> (sky top, sky bottom, ground top, ground bottom, stars)
    "meadow": (
        ["in a meadow", "on green grass under a blue sky", "on the grass"],
        (96, 168, 240),
        (196, 226, 250),
        (112, 184, 80),
        (60, 132, 50),
        0,
    ),
    "sea": (
        ["by the sea", "in front of the sea", "at sea"],
        (150, 206, 246),
        (224, 240, 250),
        (40, 120, 190),
        (16, 70, 140),
        0,
    ),
    "desert": (
        ["in the desert", "on sand under a blue sky"],
        (110, 178, 240),
        (236, 222, 190),
        (232, 198, 130),
        (200, 156, 90),
        0,
    ),
    "snow": (
        ["in the snow", "on snow under a grey sky"],
        (176, 194, 212),
        (220, 228, 236),
        (246, 250, 254),
        (214, 226, 240),
        0,
    ),
    "night": (
        ["at night", "under a night sky with stars", "under the stars"],
        (10, 14, 44),
        (40, 46, 100),
        (24, 40, 34),
        (12, 22, 20),
        1,
    ),
    "space": (["in space", "in outer space with stars"], (8, 8, 20), (24, 14, 44), (24, 14, 44), (8, 8, 20), 1),
    "sunset": (["at sunset", "in front of a sunset sky"], (70, 60, 130), (252, 150, 84), (90, 60, 70), (40, 30, 44), 0),
}

STYLE = {
    "flat": ["a flat icon of {}", "flat design of {}", "{}, flat style", "a flat illustration of {}"],
    "3d": ["a 3d render of {}", "3d icon of {}", "{}, 3d style", "a shiny 3d {bare}"],
    "glossy": ["a glossy icon of {}", "{}, glossy style", "a smooth gradient illustration of {}"],
    "cartoon": ["a cartoon of {}", "{}, cartoon style", "a cartoon drawing of {} with black outlines"],
    "outline": ["a line drawing of {}", "an outline of {}", "{}, black line art", "a black outline icon of {}"],
    "emoji": ["an emoji of {}", "{} emoji", "{}, emoji style"],
    "clip art": ["clip art of {}", "{}, clip art", "a clip art picture of {}"],
    "photo": ["a photo of {}", "a photograph of {}", "{}, photo"],
    "icon": ["an icon of {}", "a desktop icon of {}"],
    "drawing": ["a coloured drawing of {}", "a hand drawn {bare}", "{}, hand drawn", "a children's book drawing of {}"],
    "silhouette": ["a silhouette of {}", "a black silhouette of {}"],
}

UNCOUNT = set(
    words(
        """
bread rice water fire salt butter cheese grass hair money milk bacon ice honey sushi curry spaghetti coffee
tea wine sake thread yarn popcorn bamboo ginger garlic broccoli corn lettuce celery asparagus wood lightning
fog rain snow soap toast oden dango pasta soup stew sauce chocolate jam jelly gum sugar pepper clothing
jewellery knitting fishing golf tennis judo boxing bowling luggage spinach parsley
"""
    )
)

IRREG = {
    "mouse": "mice",
    "fish": "fish",
    "sheep": "sheep",
    "deer": "deer",
    "leaf": "leaves",
    "knife": "knives",
    "man": "men",
    "woman": "women",
    "person": "people",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "child": "children",
    "wolf": "wolves",
    "ox": "oxen",
    "scarf": "scarves",
    "squid": "squid",
    "bison": "bison",
    "loaf": "loaves",
    "calf": "calves",
    "elf": "elves",
}


def plural(n: str) -> str:
    head, _, last = n.rpartition(" ")
    if last in IRREG:
        p = IRREG[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        p = last + "es"
    elif re.search(r"[^aeiou]y$", last):
        p = last[:-1] + "ies"
    elif last in ("tomato", "potato", "mango", "volcano"):
        p = last + "es"
    else:
        p = last + "s"
    return (head + " " + p).strip()


def with_article(phrase: str, rec: dict[str, Any]) -> str:
    n = rec["name"]
    if n.startswith("flag of"):
        return "the " + phrase
    if (
        rec.get("plural")
        or n.split()[-1] in UNCOUNT
        or re.match(
            r"(no|thumbs|see-no|hear-no|speak-no|up|down|crossed|"
            r"clinking|folded|raising|clapping|open hands|see |hear |mrs|mr|mx|santa)\b",
            n,
        )
        or re.match(r"mount ", n)
    ):
        return phrase
    if re.match(r"(uni|use|euro|one|ukul|uten|u-|ufo)", phrase):
        return "a " + phrase
    return ("an " if re.match(r"([aeiou]|hour|x-ray)", phrase) else "a ") + phrase
