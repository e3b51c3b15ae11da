"""What a user sets once: where things lie, how the studio looks and how careful it is. Kept in one JSON file.

The data folder holds everything that is the user's: `models/`, `outputs/`, `styles.csv`, `settings.json`. A value that
cannot be understood is replaced by its default and told, so that a slip in the file never keeps the studio from
starting.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ppdiffusers.weights.write import write_text

ROOT = Path(__file__).parents[1]
LANGUAGES = ("auto", "en", "zh")
THEMES = ("auto", "light", "dark")
DTYPES = ("auto", "float32", "bfloat16", "float16")
FORMATS = ("png", "jpg", "webp")
NOISES = ("cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings; `data` says where the rest lies and is not itself in the file."""

    data: Path = ROOT
    language: str = "auto"
    theme: str = "auto"
    model: str = ""  # the checkpoint to start with; "": the embedded one, or the first that is found
    dtype: str = "auto"  # "auto": the fastest good one of this machine
    rng: str = "cpu"  # whose noise a seed means: diffusers' ("cpu") or the WebUI's default ("gpu")
    preview_every: int = 2  # steps between previews; 0: none
    format: str = "png"
    memory_gb: float = 0.0  # for loaded models; 0: half of this machine's memory
    model_folders: tuple[str, ...] = ()  # other places with models: a WebUI's or ComfyUI's folder, or plain ones
    download_hosts: tuple[str, ...] = ()  # hosts that models may come from, besides the known ones
    queue_limit: int = 64
    confirm_delete: bool = True
    troubles: tuple[str, ...] = field(default=(), compare=False)  # sentences about the file; never written

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {getattr(self, name)}")

    @property
    def models(self) -> Path:
        """Where models are kept."""
        return self.data / "models"

    @property
    def outputs(self) -> Path:
        """Where pictures are kept."""
        return self.data / "outputs"

    @property
    def model_dtype(self) -> str | None:
        """The dtype as the loaders take it."""
        return None if self.dtype == "auto" else self.dtype

    def with_values(self, values: Mapping[str, Any]) -> "Settings":
        """The settings with some changed. Raises ValueError with a sentence for a name or value that is not one."""
        known = {name: _fit(name, value) for name, value in values.items()}
        return replace(self, **known)


CHOICES = {"language": LANGUAGES, "theme": THEMES, "dtype": DTYPES, "rng": NOISES, "format": FORMATS}
RANGES = {"preview_every": (0, 1000), "memory_gb": (0, 4096), "queue_limit": (1, 10_000)}
_TYPES = {f.name: f.type for f in fields(Settings)}
_LOCAL = ("data", "troubles")  # not in the file


def _fit(name: str, value: Any) -> Any:
    """The value in the field's type; JSON has lists for tuples, people write 1 for 1.0."""
    default = getattr(_DEFAULTS, name, None)
    if name not in _TYPES or name in _LOCAL:
        raise ValueError(f"there is no setting {name!r}; there are {', '.join(n for n in _TYPES if n not in _LOCAL)}")
    if isinstance(default, tuple) and isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise ValueError(f"{name} is a {type(default).__name__}, got {value!r}")
    return value


_DEFAULTS = Settings()


def data_folder(given: str | Path | None = None) -> Path:
    """The user's folder: the given one, else $MIXSTUDIO_DATA, else the checkout, else ~/mixstudio."""
    if given:
        return Path(given).expanduser().resolve()
    if told := os.environ.get("MIXSTUDIO_DATA"):
        return Path(told).expanduser().resolve()
    return ROOT if (ROOT / "launch.py").exists() else Path.home() / "mixstudio"


def load(data: str | Path | None = None) -> Settings:
    """The settings of a data folder; what is wrong in the file is left at its default and told in `troubles`."""
    folder = data_folder(data)
    settings, troubles = Settings(data=folder), []
    path = folder / "settings.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError:
        return settings
    except (OSError, ValueError) as why:
        return replace(settings, troubles=(f"{path} cannot be read ({why}); all settings are at their defaults",))
    for name, value in values.items():
        try:
            settings = settings.with_values({name: value})
        except ValueError as why:
            troubles.append(f"{path.name}: {why}; it is left out")
    return replace(settings, troubles=tuple(troubles))


def save(settings: Settings) -> None:
    """Write what differs from the defaults, so that defaults may improve."""
    values = {name: value for name, value in asdict(settings).items() if name not in _LOCAL}
    changed = {name: value for name, value in values.items() if value != getattr(_DEFAULTS, name)}
    settings.data.mkdir(parents=True, exist_ok=True)
    write_text(settings.data / "settings.json", json.dumps(changed, indent=2, ensure_ascii=False) + "\n")
