"""`<lora:name:0.8>` and its kin, styles and comments: what is taken out of a prompt before it is read as words.

Every prompt of a batch is taken by itself, so each picture has its own networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

KINDS = ("lora", "lyco", "hypernet")

_TAG = re.compile(r"<(" + "|".join(KINDS) + r"):([^<>\n]+)>", re.IGNORECASE)
_ANY_TAG = re.compile(r"<\w+:[^<>\n]+>")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
_COMMENT = re.compile(r"(?:^|\s)#.*$", re.MULTILINE)

ARGUMENTS = ("te", "unet", "dyn")  # in the order in which they are given without a name


@dataclass(frozen=True)
class When:
    """A weight that holds from some step on, as it was written: `0.8@0.5` or `0.8@10`."""

    weight: float
    at: float = 0.0
    fraction: bool = False  # `at` counts in passes (0.5), not in steps (10)


@dataclass(frozen=True)
class Network:
    """One tag of a prompt; `te` and `unet` are weights for text encoders and UNet, usually one entry each.

    `blocks` are weights for the UNet's blocks as the LoRA Block Weight extension has them (`lbw=1,0,0.5,...`),
    `ignored` named arguments without a meaning here, for a notice; `args` all arguments as written, without the name.
    """

    kind: str
    name: str
    te: tuple[When, ...] = (When(1.0),)
    unet: tuple[When, ...] = (When(1.0),)
    dyn: int | None = None
    blocks: tuple[float, ...] | None = None
    ignored: tuple[str, ...] = ()
    args: tuple[str, ...] = field(default=(), compare=False)

    @property
    def te_weight(self) -> float:
        """The text encoders' weight; they run once, so a schedule counts with its largest entry."""
        return max((when.weight for when in self.te), key=abs)

    def unet_weight(self, step: int, steps: int) -> float:
        """The UNet's weight at a step, counted from 0, of `steps`; 0 before the first entry holds."""
        past = [when.weight for when in self.unet if step >= (when.at * steps if when.fraction else when.at)]
        return past[-1] if past else 0.0

    @property
    def changes(self) -> bool:
        """Whether the UNet's weight depends on the step."""
        return len(self.unet) > 1 or any(when.at > 0 for when in self.unet)


def extract_networks(text: str) -> tuple[str, list[Network]]:
    """The text without its tags, and the networks they name, in order.

    Forms: `<lora:name>`, `<lora:name:both>`, `<lora:name:te:unet:dyn>`, `<lora:name:te=0.5:unet=0.8>`, where `unet` is
    `te` unless given and a weight may be a schedule, `0@0,1@10` in steps or `0.2@0,1@0.5` in parts of the pass;
    `lbw=1,0,...` weighs blocks; `lyco` and `hypernet` likewise. A tag that means none of these stays in the text, where
    `leftover_tags` finds it for a notice.
    """
    networks: list[Network] = []

    def take(match: re.Match[str]) -> str:
        network = _network(match[1].lower(), match[2])
        if network is None:
            return match[0]
        networks.append(network)
        return ""

    return _TAG.sub(take, text), networks


def leftover_tags(text: str) -> list[str]:
    """Tags such as `<lora:x:heavy>` or `<style:x>` that `extract_networks` left in the text: they are read as words."""
    return _ANY_TAG.findall(text)


def _network(kind: str, body: str) -> Network | None:
    """A tag's meaning, None if it has none."""
    name, *args = (part.strip() for part in body.split(":"))
    plain = [arg for arg in args if "=" not in arg]
    named = {key.strip(): value.strip() for key, _, value in (arg.partition("=") for arg in args if "=" in arg)}
    words = dict(zip(ARGUMENTS, plain, strict=False)) | named
    te = _weight(words.get("te", "1"))
    unet = _weight(words["unet"]) if "unet" in words else te
    dyn = words.get("dyn", "0")
    sound = len(plain) <= len(ARGUMENTS) and re.fullmatch("[0-9]{1,6}", dyn)
    if not name or te is None or unet is None or not sound:
        return None
    blocks = _blocks(words.pop("lbw", ""))
    known = {*ARGUMENTS, *(["lbw"] if blocks else [])}
    ignored = tuple(f"{key}={value}" for key, value in named.items() if key not in known)
    return Network(kind, name, te, unet, int(dyn) or None, blocks, ignored, tuple(args))


def _blocks(text: str) -> tuple[float, ...] | None:
    """Weights of blocks; None for the extension's names of presets, which live in a file of the user's."""
    numbers = [number.strip() for number in text.split(",")]
    return tuple(float(number) for number in numbers) if all(map(_NUMBER.fullmatch, numbers)) else None


def _weight(text: str) -> tuple[When, ...] | None:
    """A number or a schedule "weight@at,...", in order of time; None if it is neither."""
    whens: list[When] = []
    for entry in text.split(","):
        weight, given, at = (part.strip() for part in entry.partition("@"))
        at = at if given else "0"
        if not (_NUMBER.fullmatch(weight) and _NUMBER.fullmatch(at)):
            return None
        whens.append(When(float(weight), float(at), "." in at))
    alike = len(whens) == 1 or ("@" in text and len({when.fraction for when in whens if when.at}) <= 1)
    return tuple(sorted(whens, key=lambda when: when.at)) if alike else None


def strip_comments(text: str) -> str:
    """Without what follows a `#` at the start of a line or a word; lines that were only a comment vanish.

    `C#` and `#` inside a word stay. The WebUI has comments since 1.8.
    """
    lines = ((line, _COMMENT.sub("", line)) for line in text.split("\n"))
    return "\n".join(kept for line, kept in lines if kept.strip() or not line.strip())


def apply_styles(prompt: str, styles: Iterable[str]) -> str:
    """The prompt inside each style in turn: at `{prompt}` where the style has it, before ", style" where it has not."""
    for style in (style.strip() for style in styles):
        if "{prompt}" in style:
            prompt = style.replace("{prompt}", prompt)
        elif style:
            prompt = ", ".join(part for part in (prompt.strip(), style) if part)
    return prompt


def pick_styles(names: Sequence[str], styles: Mapping[str, str]) -> list[str]:
    """The texts of the styles named; a name nobody knows is an error that lists the known ones."""
    unknown = [name for name in names if name not in styles]
    if unknown:
        raise ValueError(f"there is no style {unknown[0]!r}; known are {', '.join(sorted(styles)) or 'none'}")
    return [styles[name] for name in names]
