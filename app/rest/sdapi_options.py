"""The WebUI's options as its clients read and set them: a view of our settings, and what only lives for this run."""

from typing import Any

from app.catalog import Model
from app.studio import Studio

# Options that change pictures; /sdapi takes them for the run, as clients set a checkpoint and go on.
SESSION: dict[str, Any] = {
    "sd_vae": "Automatic",
    "CLIP_stop_at_last_layers": 1,
    "eta_noise_seed_delta": 0,
    "emphasis": "Original",
}


class Options:
    """What holds for the next request."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._session = dict(SESSION)
        self._checkpoint = ""

    def all(self) -> dict[str, Any]:
        """Every option that is known here."""
        settings = self.studio.settings
        return {
            "sd_model_checkpoint": self._title(),
            "sd_checkpoint_hash": "",
            **self._session,
            "randn_source": "CPU" if settings.rng == "cpu" else "GPU",
            "samples_format": settings.format,
            "show_progress_every_n_steps": settings.preview_every,
            "live_previews_enable": settings.preview_every > 0,
            "outdir_samples": str(settings.outputs),
        }

    def set(self, values: dict[str, Any]) -> None:
        """Take what is known and let the WebUI's others pass. Raises KeyError for a model that is not there."""
        if name := values.get("sd_model_checkpoint"):
            self._checkpoint = self.studio.runtime.choose(str(name)).name
        if (vae := values.get("sd_vae")) not in (None, "", "None", "Automatic"):
            self.studio.catalog.find("vae", str(vae))
        self._session |= {key: value for key, value in values.items() if key in SESSION}
        changed: dict[str, Any] = {}
        if "randn_source" in values:
            changed["rng"] = "cpu" if str(values["randn_source"]).lower() == "cpu" else "gpu"
        if "samples_format" in values:
            changed["format"] = "jpg" if values["samples_format"] == "jpeg" else values["samples_format"]
        if "show_progress_every_n_steps" in values:
            changed["preview_every"] = max(int(values["show_progress_every_n_steps"]), 0)
        if changed:
            self.studio.change(changed)

    def with_overrides(self, overrides: dict[str, Any] | None) -> dict[str, Any]:
        """The options of one request."""
        options = {"sd_model_checkpoint": self._checkpoint, **self._session}
        return {**options, **(overrides or {})}

    def _title(self) -> str:
        try:
            return self.studio.runtime.choose(self._checkpoint or self.studio.runtime.last).title
        except (KeyError, ValueError):
            return ""


def checkpoint_json(model: Model) -> dict[str, Any]:
    """A checkpoint as /sd-models lists it."""
    digest = model.digest
    return {
        "title": model.title,
        "model_name": model.name,
        "hash": digest or None,
        "sha256": None,
        "filename": str(model.path),
        "config": None,
    }


def lora_json(model: Model) -> dict[str, Any]:
    """A LoRA as /loras lists it."""
    info = {str(key): value for key, value in model.info.items() if isinstance(value, str | int | float)}
    return {"name": model.name, "alias": model.alias or model.name, "path": str(model.path), "metadata": info}
