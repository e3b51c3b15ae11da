"""Names users know -> a sampler with its schedule: the WebUI's samplers and schedule types, and diffusers' scheduler
configs.

WebUI names follow k-diffusion: noise levels between training steps are allowed and the network is told a fractional
step (Denoiser.quantize None). Configs follow diffusers, which rounds where its scheduler does (see menu_diffusers.py).
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ppdiffusers.sampling import samplers, samplers_dpm, samplers_multistep
from ppdiffusers.sampling.choice import Choice, Named
from ppdiffusers.sampling.menu_diffusers import from_config
from ppdiffusers.sampling.samplers import Sampler
from ppdiffusers.sampling.schedules import SCHEDULES, Range

AUTOMATIC = "Automatic"


@dataclass(frozen=True)
class Entry:
    """A sampler of the menu, the schedule "Automatic" stands for, and what differs from the function's defaults."""

    run: Sampler
    schedule: str
    aliases: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 1
    start: str = "sigma"
    discard: bool = False  # take one step more and leave out the last level above 0


MULTI, SDE = samplers_multistep.dpmpp_multistep, {"eta": 1.0}
SAMPLERS: dict[str, Entry] = {
    "DPM++ 2M": Entry(MULTI, "Karras", ("dpmpp_2m",)),
    "DPM++ SDE": Entry(samplers_dpm.dpmpp_sde, "Karras", ("dpmpp_sde",), calls=2),
    "DPM++ 2M SDE": Entry(MULTI, "Exponential", ("dpmpp_2m_sde",), SDE),
    "DPM++ 2M SDE Heun": Entry(MULTI, "Exponential", ("dpmpp_2m_sde_heun",), {**SDE, "solver": "heun"}),
    "DPM++ 2S a": Entry(samplers_dpm.dpmpp_2s_ancestral, "Karras", ("dpmpp_2s_a", "dpmpp_2s_ancestral"), calls=2),
    "DPM++ 3M SDE": Entry(MULTI, "Exponential", ("dpmpp_3m_sde",), {**SDE, "order": 3, "solver": "heun"}, discard=True),
    "Euler a": Entry(samplers.euler_ancestral, "Uniform", ("euler_a", "euler_ancestral")),
    "Euler": Entry(samplers.euler, "Uniform", ("euler",)),
    "LMS": Entry(samplers_multistep.lms, "Uniform", ("lms",)),
    "Heun": Entry(samplers.heun, "Uniform", ("heun",), calls=2),
    "DPM2": Entry(samplers.dpm2, "Karras", ("dpm_2",), calls=2, discard=True),
    "DPM2 a": Entry(samplers.dpm2_ancestral, "Karras", ("dpm_2_a", "dpm_2_ancestral"), calls=2, discard=True),
    "DPM fast": Entry(samplers_dpm.dpm_fast, "Uniform", ("dpm_fast",)),
    "DPM adaptive": Entry(samplers_dpm.dpm_adaptive, "Uniform", ("dpm_ad", "dpm_adaptive"), calls=3),
    "Restart": Entry(samplers.restart, "Karras", ("restart",), calls=2),
    "DDIM": Entry(samplers.euler_ancestral, "DDIM", ("ddim",), {"eta": 0.0}, start="vp"),
    "PLMS": Entry(samplers_multistep.plms, "DDIM", ("plms", "pndm"), start="vp"),
    "UniPC": Entry(samplers_multistep.unipc, "SGM Uniform", ("unipc", "uni_pc"), start="vp"),
    "LCM": Entry(samplers.lcm, "SGM Uniform", ("lcm",)),
    "DEIS": Entry(samplers_multistep.deis, "Uniform", ("deis",)),
    "DDPM": Entry(samplers.euler_ancestral, "DDIM", ("ddpm",), start="vp"),
}

SCHEDULE_ALIASES = {"ka": "Karras", "exp": "Exponential", "ddim_uniform": "DDIM", "ays": "Align Your Steps"}


def plain(name: str) -> str:
    """A name without what people write differently: case, spaces, underscores, hyphens, k-diffusion's k_."""
    return name.lower().removeprefix("k_").translate({ord(c): None for c in " _-"})


SAMPLER_NAMES = {plain(alias): name for name, entry in SAMPLERS.items() for alias in (name, *entry.aliases)}
SCHEDULE_NAMES = {plain(name): name for name in (AUTOMATIC, *SCHEDULES)} | {
    plain(alias): name for alias, name in SCHEDULE_ALIASES.items()
}


def choose(name: str | Mapping[str, Any], schedule: str = AUTOMATIC, *, span: Range | None = None) -> Choice:
    """The choice that a name stands for.

    Args:
        name: a key of SAMPLERS, one of its aliases ("k_euler_a", "dpmpp_2m"), an older name that ends in its schedule
            ("DPM++ 2M Karras", "k_dpmpp_2m_ka"), or the dict of a diffusers scheduler_config.json.
        schedule: a schedule type; "Automatic" is the sampler's own, or the one that an older name ends in.
        span: other ends or exponent than the schedule's own (not for configs, which say theirs).

    Raises:
        ValueError: unknown names, with the closest ones.
    """
    if not isinstance(name, str):
        return from_config(name)
    sampler, ending = split(name)
    entry = SAMPLERS[sampler]
    kind = find(schedule, SCHEDULE_NAMES, "schedule type")
    kind = kind if kind != AUTOMATIC else ending if ending != AUTOMATIC else entry.schedule
    named = Named(kind, span, entry.discard)
    return Choice(sampler, entry.run, named, entry.options, entry.calls, entry.start)


def split(name: str) -> tuple[str, str]:
    """The sampler and the schedule ("Automatic" if none) of a menu name, older joined names included."""
    key = plain(name)
    if key in SAMPLER_NAMES:
        return SAMPLER_NAMES[key], AUTOMATIC
    for cut in range(len(key) - 1, 0, -1):  # the longest sampler name first: "DPM++ 2M SDE Karras" is not DPM++ 2M's
        if key[:cut] in SAMPLER_NAMES and key[cut:] in SCHEDULE_NAMES:
            return SAMPLER_NAMES[key[:cut]], SCHEDULE_NAMES[key[cut:]]
    raise ValueError(unknown(name, "sampler", SAMPLERS))


def find(name: str, names: Mapping[str, str], what: str) -> str:
    """The proper name behind what a user wrote."""
    if plain(name) not in names:
        raise ValueError(unknown(name, what, dict.fromkeys(names.values())))
    return names[plain(name)]


def unknown(name: str, what: str, names: Iterable[str]) -> str:
    """The sentence for a name nobody knows, with the closest ones."""
    proper = {plain(n): n for n in names}
    close = [proper[key] for key in difflib.get_close_matches(plain(name), list(proper), n=3, cutoff=0.4)]
    hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"there are {', '.join(proper.values())}"
    return f"no {what} is called {name!r}; {hint}"
