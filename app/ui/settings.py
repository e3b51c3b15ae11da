"""The Settings tab: language, look, and how models are run."""

from typing import TYPE_CHECKING, Any

import gradio as gr

from app import settings as setting
from app.ui import render, styles, tokens
from app.ui.parts import QUIET, Page

if TYPE_CHECKING:
    from app.studio import Studio

LANGUAGES = [("English", "en"), ("中文", "zh")]  # each in its own words
THEMES = {"auto": "As the system", "light": "Light", "dark": "Dark"}
DTYPES = {"auto": "The best of this machine", "float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
NOISES = {"cpu": "As diffusers (CPU)", "gpu": "As the WebUI (GPU)"}
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WebP"}


def build(studio: "Studio", ui: Page) -> None:
    """One column of fields and a button that keeps them."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320, elem_classes="ms-card"):
            fields = _look(studio, ui)
        with gr.Column(scale=1, min_width=320, elem_classes="ms-card"):
            fields |= _running(studio, ui)
    save = gr.Button(ui.t("Save settings"), variant="primary", elem_id="settings_save")
    told = gr.HTML("", elem_id="settings_told")
    with gr.Column(elem_classes="ms-card"):
        tokens.build(studio, ui)
    with gr.Column(elem_classes="ms-card"):
        styles.build(studio, ui)
    _places(studio, ui)
    ui.language_choosers.append(fields["language"])
    paint = "(wish) => { window.mix.setTheme(wish); return []; }"
    fields["theme"].input(None, inputs=[fields["theme"]], outputs=[], js=paint, **QUIET)

    def keep(request: gr.Request, *values: Any) -> str:
        given = dict(zip(fields, values, strict=True))
        given["model_folders"] = [line.strip() for line in (given["model_folders"] or "").splitlines() if line.strip()]
        given["model"] = given["model"] or ""
        whole = {"preview_every": int(given["preview_every"]), "queue_limit": int(given["queue_limit"])}
        try:
            studio.change(given | whole)
        except (ValueError, OSError) as why:
            return render.trouble(str(why), ui.language(request))
        words = "Saved. Models that are loaded keep their precision until they are loaded again."
        return render.notice(ui.say(words, request))

    save.click(keep, inputs=list(fields.values()), outputs=[told], **QUIET)


def _look(studio: "Studio", ui: Page) -> dict[str, Any]:
    t, now = ui.t, studio.settings
    gr.Markdown(t("## The page"))
    return {
        "language": gr.Dropdown(
            label=t("Language"),
            choices=[(t("As the browser"), "auto"), *LANGUAGES],
            value=now.language,
            elem_id="settings_language",
        ),
        "theme": gr.Radio(label=t("Colours"), choices=ui.pairs(THEMES), value=now.theme, elem_id="settings_theme"),
        "preview_every": gr.Slider(
            0,
            20,
            value=now.preview_every,
            step=1,
            label=t("Live preview every ... steps"),
            info=t("0: no preview"),
            elem_id="settings_preview",
        ),
        "format": gr.Radio(
            label=t("Pictures are kept as"), choices=ui.pairs(FORMATS), value=now.format, elem_id="settings_format"
        ),
        "queue_limit": gr.Slider(
            1, 1000, value=now.queue_limit, step=1, label=t("Jobs that may wait"), elem_id="settings_queue"
        ),
    }


def _running(studio: "Studio", ui: Page) -> dict[str, Any]:
    t, now = ui.t, studio.settings
    gr.Markdown(t("## The models"))
    found = {model.name for model in studio.catalog.list("checkpoint")}
    return {
        "model": ui.models(
            "checkpoint",
            t("Model to start with"),
            [("The built-in one, or the first that is found", "")],
            value=now.model if now.model in found else "",
            elem_id="settings_model",
        ),
        "dtype": gr.Dropdown(label=t("Precision"), choices=ui.pairs(DTYPES), value=now.dtype, elem_id="settings_dtype"),
        "rng": gr.Radio(label=t("What a seed means"), choices=ui.pairs(NOISES), value=now.rng, elem_id="settings_rng"),
        "memory_gb": gr.Slider(
            0,
            256,
            value=now.memory_gb,
            step=1,
            label=t("Memory for loaded models, GB"),
            info=t("0: half of this machine"),
            elem_id="settings_memory",
        ),
        "model_folders": gr.Textbox(
            label=t("Other folders with models"),
            info=t("One a line: a WebUI's or ComfyUI's folder, or plain ones"),
            value="\n".join(now.model_folders),
            lines=3,
            elem_id="settings_folders",
        ),
    }


def _places(studio: "Studio", ui: Page) -> None:
    """Where everything lies, to be copied."""
    from html import escape

    rows = {
        "Pictures": studio.settings.outputs,
        "Models": studio.settings.models,
        "Styles": studio.styles_path,
        "Settings": setting.data_folder(studio.settings.data) / "settings.json",
    }
    lines = "".join(
        f"<dt>{render.both(ui.t(name))}</dt><dd class='ms-path'>{escape(str(path))}</dd>" for name, path in rows.items()
    )
    gr.HTML(f"<dl class='ms-places'>{lines}</dl>", elem_id="settings_places")
