"""Which packages the pictures come from, their licences, and which pictures are left out and why."""

import re

from word_lists import words

SIZE, MARGIN = 256, 6

SOURCES = {  # source -> (package, licence, style)
    "openmoji": ("openmoji", "CC-BY-SA-4.0", "cartoon"),
    "openmoji-black": ("openmoji", "CC-BY-SA-4.0", "outline"),
    "fluent-3d": ("lobehub-fluent-emoji-3d", "MIT", "3d"),
    "fluent": ("iconify-json-fluent-emoji", "MIT", "glossy"),
    "fluent-flat": ("iconify-json-fluent-emoji-flat", "MIT", "flat"),
    "noto": ("iconify-json-noto", "Apache-2.0", "emoji"),
    "noto-v1": ("iconify-json-noto-v1", "Apache-2.0", "emoji"),
    "twemoji": ("iconify-json-twemoji", "CC-BY-4.0", "flat"),
    "emojione": ("iconify-json-emojione", "CC-BY-4.0", "emoji"),
    "emojione-v1": ("iconify-json-emojione-v1", "CC-BY-SA-4.0", "emoji"),
    "fxemoji": ("iconify-json-fxemoji", "Apache-2.0", "flat"),
    "openclipart": ("openclipart-png", "public domain", "clip art"),
    "tuxpaint": ("tuxpaint-stamps-default", "GPL-2", "photo"),
    "oxygen": ("oxygen-icon-theme", "LGPL-3+", "icon"),
    "art4apps": ("pysiogame", "CC-BY-SA (Art4Apps, per the package's CREDITS)", "drawing"),
}

# photographs and pictures for the autoencoder and for backgrounds:
# package -> (licence, [(path regex, caption or "")])
PHOTOS = {
    "lomiri-wallpapers-16.04": (
        "CC-BY-4.0 / CC-BY-SA-4.0 / CC0-1.0 (per file in the package)",
        [
            (r"picosdeeuropa", "mountains"),
            (r"life_by", ""),
            (r"Dragonfly", "a dragonfly"),
            (r"seeding", "a plant"),
            (r"Picture_", ""),
            (r"sunset", "a sunset"),
            (r"aitzgorri", "mountains"),
            (r"Bridge", "a bridge"),
            (r"analog", ""),
            (r"umang", ""),
            (r"greentock", ""),
            (r"free_by", ""),
            (r"friends", ""),
            (r"Wine", ""),
        ],
    ),
    "lomiri-wallpapers-20.04": (
        "CC-BY-SA-3.0",
        [(r"Infinite-Sea", "the sea"), (r"Kleiber", "a bird"), (r"Painting", "colourful paint"), (r"Fossa", "")],
    ),
    "plasma-workspace-wallpapers": (
        "GPL-2+ (package), LGPL-3 / CC-BY-SA upstream",
        [
            (
                r"/(Patak|Canopee|Kay|Volna|Altai|Kokkini|SafeLanding|Cluster|Flow|Opal|IceCold|Cascade|"
                r"MilkyWay|Shell|Honeywave|Elarun|Path|OneStandsOut|Autumn|ColorfulCups|EveningGlow|FallenLeaf|"
                r"ColdRipple|BytheWater|Kite|summer_1am|DarkestHour|PastelHills|Grey)/contents/images/\d{4}x1[46]00|"
                r"/(Patak|Canopee|Kay|Volna|Altai|Kokkini|SafeLanding|Cluster|Flow|Opal|IceCold|Cascade|MilkyWay|"
                r"Shell|Honeywave|PastelHills)/contents/images/(5120x2880|3840x2160|3200x2000)",
                "",
            )
        ],
    ),
    "gnome-backgrounds": ("CC-BY-SA-3.0 / GPL-2+ (package)", [(r"wood|adwaita|pixels|licorice|grid", "")]),
    "mate-backgrounds": (
        "GPL-2+ / CC-BY-SA (package)",
        [
            (r"nature/RainDrops", "rain drops"),
            (r"nature/Blinds", ""),
            (r"nature/Dune", "sand dunes"),
            (r"nature/TwoWings", ""),
            (r"nature/Storm", "a stormy sky"),
            (r"nature/Wood", "wood"),
            (r"nature/LadyBird", "a ladybird"),
            (r"nature/YellowFlower", "a yellow flower"),
            (r"nature/Garden", "a garden"),
            (r"nature/Aqua", "water"),
            (r"nature/GreenMeadow", "a green meadow"),
            (r"nature/FreshFlower", "a flower"),
            (r"abstract/Elephants.jpg", ""),
            (r"abstract/(Gulp|Waves|Silk|Spring)", ""),
        ],
    ),
    "ukui-wallpapers": (
        "CC-BY-SA-3.0",
        [
            (
                r"(rhythm|string|goldfish|2004default|firstgeneration|the-mouse|calla|"
                r"fluent-color|desert|city)\.",
                "",
            )
        ],
    ),
    "stellarium-data": (
        "GPL-2+ (package)",
        [
            (r"landscapes/(garching|geneva|guereins|grossmugl|trees|hurricane|moon|mars|ocean)/[^/]*\.(png|jpg)$", ""),
            (r"textures/(moon_4k)\.", "the moon"),
        ],
    ),
    "scikit-image": (
        "BSD-3-Clause (package); pictures CC0 / public domain / no known restrictions",
        [(r"data/(astronaut|coffee|chelsea|rocket|hubble_deep_field|grass|gravel|brick|coins|camera)\.", "")],
    ),
    "scikit-learn": ("BSD-3-Clause; pictures CC-BY-2.0", [(r"china", "a temple"), (r"flower", "a flower")]),
}

PHOTO_CAPTIONS = {
    "astronaut": "an astronaut",
    "coffee": "a cup of coffee",
    "chelsea": "a cat",
    "rocket": "a rocket",
    "grass": "grass",
    "gravel": "gravel",
    "brick": "a brick wall",
    "coins": "coins",
    "hubble_deep_field": "galaxies",
    "moon": "the moon",
    "Autumn": "autumn leaves",
    "FallenLeaf": "a fallen leaf",
    "ColorfulCups": "colourful cups",
    "EveningGlow": "the evening sky",
    "goldfish": "a goldfish",
    "calla": "a calla flower",
}

NATIONAL_FLAGS = {
    "FR",
    "DE",
    "IT",
    "ES",
    "GB",
    "US",
    "CA",
    "JP",
    "CN",
    "IN",
    "BR",
    "KR",
    "SE",
    "CH",
    "GR",
    "TR",
    "MX",
    "AU",
    "ZA",
    "AR",
}

NEVER_HELD_OUT = set(
    words("""cat dog car house tree flower sun heart apple star fish bird horse rabbit bear tiger lion fox
panda mouse cow pig frog monkey elephant penguin butterfly rose sunflower tulip mountain moon cloud rainbow fire
snowflake banana strawberry cake pizza bread egg coffee airplane rocket bicycle bus train ship castle bridge clock
guitar piano book ball crown hat shirt dress shoe key lamp robot ghost dragon unicorn city bed chair camera
computer phone umbrella boat truck""")
)

DROP_NAMES = {  # seen on the contact sheets: pointer arrows, road signs, pictures that do not show their name
    "art4apps": set(
        words(
            "chimney,cliff,dune,flour,heel,helmet,hill,ice,kernel,kimono,lake,lava,mast,milk,peak,pedal,robe,"
            "roof,rope,sail,sash,shoelace,sleeve,smock,smoke,steeple,slice,squat,jump,skate,patch,yoghurt,"
            "mashed potatoes,swimming suit",
            ",",
        )
    ),
    "openclipart": set(
        words(
            "pace,base,end,roundabout,tunnel,router,storage,racked,don,enthusiast,fall,fifties,incredible,"
            "large,liberty,manager,mascot,memory,pavement,patchwork,wooden,video,reed,scale,scotch,sub,zigzag,"
            "blots,connector,plush,buddy,human,stamp,thongs,roman,drop,capacitors,resistors,airplane,"
            "pass either,turn ahead,evolution steps,right bottom corner,left bottom corner,"
            "left top corner tribal,right top corner tribal,target with arrow virgin,thin client,self portrait,"
            "rich young man counting,rich young man going,reminder hand,sailboat illustration labels,"
            "unit blocks lion,woman eye,woman eyes,road runner,bad guy,cross hand,heart tiles,"
            "heart left highlight,lorry length,man crystal,mouse scroll,paperback book black gal,"
            "shamrock for march,slate apple,dancer sketch,help books,busy mom with child,boy plays soccer,"
            "blue eye",
            ",",
        )
    ),
}

STOP_GROUPS = {2}  # components

DROP_SUB = {16 + 999, 84 + 999, 88, 89, 90, 91, 92, 94, 95, 83, 87, 99, 93}

AUTHORS = re.compile(
    r"_(benji_?p?|architetto?|archite|archi|arch|ganson|ganso|nicu_?b?|nicu|jarno|gerald|geral|gera|jon_p|jon|linda_k|jean|"
    r"matthew|matthe|matt|dan_g|juliane|yves|rollandin|mauro|anthony|patricia|fudriot|bw_jean|stefan|frouke|"
    r"leif|jonathan|peterm|enrique|costea|michael|mike|mo|mo1|mo2|lumen|philippe|tom|ben|aj|a\.j|joel|alejandro|"
    r"martin|mateya|mimooh|krug|francesco|francesc|frances|franc|fran|luiz|victor|shandy|kevin|jeff|"
    r"mitchell|andrea|andy|johnny|john|davide|dave|aladin|greg|kathleen|nathan|frederic|guillaume|marcelo|"
    r"utrescu|orlando|todd|k_yager|eris|romus|jurgen|hann|mariusz|gino|olivier|jim|steve|ted|bruce|jaim|bob|"
    r"raphael|tino|molumen|valessiobrito|ivan|kev|jakub|kuba|dirk|astrid|geraint|terry|dennis|fearzip|"
    r"nurbl|momolumen|zeimusu|lars|jose|pablo|carlos|sergio|juan|maria|david|rob|paul|peter|mark|chris)(_.*)?$"
)

COLOURS = [
    ("red", 345, 14),
    ("orange", 14, 42),
    ("yellow", 42, 66),
    ("green", 66, 165),
    ("cyan", 165, 192),
    ("blue", 192, 255),
    ("purple", 255, 290),
    ("pink", 290, 345),
]

FX_ALIAS = {
    "catside": "cat",
    "cat": "cat face",
    "dogside": "dog",
    "dog": "dog face",
    "cow": "cow",
    "cowface": "cow face",
    "bunny": "rabbit face",
    "bunnyside": "rabbit",
    "dragonside": "dragon",
    "dragonhead": "dragon face",
    "redcar": "automobile",
    "cellphone": "mobile phone",
    "bug": "bug",
    "cloud": "cloud",
}

OC_DROP = re.compile(
    r"computer/icons|computer/buttons|computer/network|shapes/|signs_and_symbols/(?!weather)|"
    r"signs_and_symbols/[^/]*$|transportation/(aiga|roadsigns)|special/|"
    r"geography(?!/astronomy)|games/cards|logos|duplicates|callouts|flowchart|jigsaw|stickmen|religion|weapons|office/telephone"
)

OC_BAD = re.compile(
    r"\b(map|logo|icon|bw|banner|border|text|symbol|sign|pack|button|contour|outline|silhouette|pattern|page|card|label|"
    r"letter|word|number|poster|screenshot|template|vs|theme|set|various|collection|cursor|diagram|schema|chart|elder|"
    r"team|project|www|org|com|net|pantyhose|nude|naked|gallows|gun|pistol|rifle|cannabis|swastika|nazi|hitler|kkk|"
    r"sexy|bikini|lingerie|breast|penis|guillotine|hanged|hanging|cigarette|joint|marijuana|issue|untitled|new|image|clip|art|etiquette|martin|munch|route|motorway|hide|girl|sport|general|student|plain|air|keep|copyright|clown|trip|ride|front|back|direction|head|face|body|person|people|one|two|three|four|five|six|part|view|style|type|example|test|square|no|not|as|happy|birthday|merry|christian|jewish|elf|bullet|hole|blood|dead|skull|bomb|grenade|tank|kevin|jazz|gateway|tack|sailing|grounded|crossroads|curve|reunion|what|have|icons|gnome|gnu|switch|reload|sole|mix|theory|ours|future|internet|boating|trekking|knot|roller|water|double|core|workstation|server|hub|port|close|under|pregnancy|protected|form|rpm|heel|electronic|network|rules|rpm|fashion|police|tote|hide|external|protection|danger|penny|coin)\b"
)

OX_NAMES = {  # named objects only
    "devices/": r"(audio-headset|audio-input-microphone|battery|camera-photo|camera-web|computer|computer-laptop|"
    r"drive-harddisk|drive-optical|"
    r"input-gaming|input-keyboard|input-mouse|input-tablet|multimedia-player|phone|printer|scanner|video-television|video-display)$",
}
