"""The Models tab: what is on disk, what it is, what is wrong with it; and a box that gets more."""

from typing import TYPE_CHECKING, Any

import gradio as gr

from app.jobs import QueueFull
from app.ui import models_care, models_search, render
from app.ui.jobview import PICK, JobView
from app.ui.parts import QUIET, Page

if TYPE_CHECKING:
    from app.catalog import Model
    from app.studio import Studio

KINDS = {
    "checkpoint": "Checkpoints",
    "lora": "LoRAs",
    "vae": "VAEs",
    "controlnet": "ControlNets",
    "embedding": "Embeddings",
    "upscaler": "Upscalers",
    "llm": "Language models",
}
WORDS = {
    "activation text": "Trigger words",
    "negative text": "Negative words",
    "description": "Description",
    "notes": "Notes",
}


def build(studio: "Studio", ui: Page) -> None:
    """Cards on the left, adding and editing on the right."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=340):
            shelf = Shelf(studio, ui)
        with gr.Column(scale=5, min_width=320):
            with gr.Column(elem_classes="ms-card"):
                _add(studio, ui, shelf)
            with gr.Column(elem_classes="ms-card"):
                _edit(studio, ui, shelf)
                models_care.build(studio, ui, shelf)


class Shelf:
    """The models as cards; `chosen` is a gr.State with "kind/name"."""

    def __init__(self, studio: "Studio", ui: Page) -> None:
        self.studio, self.ui = studio, ui
        t = ui.t
        self.chosen = gr.State("")
        with gr.Row(elem_classes="ms-row-tight"):
            self.kind = gr.Dropdown(
                label=t("Kind"),
                choices=ui.pairs(KINDS),
                value="checkpoint",
                elem_id="models_kind",
                scale=2,
                min_width=140,
            )
            self.search = gr.Textbox(
                label=t("Search"), placeholder=t("Name"), lines=1, elem_id="models_search", scale=3, min_width=140
            )
            self.again = gr.Button(t("Look again"), size="sm", elem_id="models_again", scale=1, min_width=100)
        self.cards = gr.HTML(self.draw("checkpoint", "", ""), elem_id="models_cards", js_on_load=PICK)
        inputs = [self.kind, self.search, self.chosen]
        gr.on(
            [self.kind.change, self.search.change], self.draw, inputs=inputs, outputs=[self.cards], queue=False, **QUIET
        )
        self.again.click(self.refresh, inputs=inputs, outputs=[self.cards], **QUIET)

    def draw(self, kind: str, text: str, chosen: str) -> str:
        """The cards of a kind whose names have all these words."""
        words = (text or "").lower().split()
        found = [
            m for m in self.studio.catalog.list(kind) if all(word in f"{m.name} {m.alias}".lower() for word in words)
        ]
        if not found:
            return f'<p class="ms-note">{render.both("Nothing of this kind yet.")}</p>'
        cards = "".join(render.model_card(m, f"{m.kind}/{m.name}" == chosen) for m in found[:500])
        return f'<div class="ms-cards ms-tall">{cards}</div>'

    def refresh(self, kind: str, text: str, chosen: str) -> str:
        """Look at the disk again."""
        self.studio.catalog.refresh()
        return self.draw(kind, text, chosen)

    def find(self, chosen: str) -> "Model | None":
        """The model behind "kind/name"; None where there is none."""
        kind, _, name = (chosen or "").partition("/")
        try:
            return self.studio.catalog.find(kind, name) if name else None
        except KeyError:
            return None


# --- adding ---


def _add(studio: "Studio", ui: Page, shelf: Shelf) -> None:
    t = ui.t
    gr.Markdown(t("## Add a model"))
    source = gr.Textbox(
        label=t("Where it is"),
        placeholder="https://civitai.com/models/...",
        info=t("A Civitai page or hash, owner/name on the Hugging Face hub, a link, or a file or folder here"),
        lines=1,
        max_length=2000,
        elem_id="models_source",
    )
    with gr.Row(elem_classes="ms-row-tight"):
        look = gr.Button(t("What is it?"), elem_id="models_plan", min_width=110)
        get = gr.Button(t("Add"), variant="primary", elem_id="models_add", min_width=90)
        stop = gr.Button(t("Cancel"), elem_id="models_stop", min_width=90)
    told = gr.HTML("", elem_id="models_told")
    view = JobView(ui, "models", stage=False)
    view.stops(stop)
    view.starts_jobs(get.click, _submit(studio), [source])
    models_search.build(studio, ui, source)
    look.click(_plan(studio, ui), inputs=[source], outputs=[told], **QUIET)
    inputs = [shelf.kind, shelf.search, shelf.chosen]
    view.status.change(shelf.draw, inputs=inputs, outputs=[shelf.cards], queue=False, **QUIET)


def _submit(studio: "Studio") -> Any:
    """A download, or a file of this computer where there is one."""

    def submit(owner: str, text: str) -> Any:
        from pathlib import Path

        from app.requests_download import DownloadParams
        from app.services_download import submit_local

        text = (text or "").strip()
        if not text:
            raise ValueError("Say where the model is.")
        path = Path(text).expanduser()
        if path.is_absolute():
            return submit_local(studio, path, owner)
        return studio.submit(DownloadParams(source=text), owner)

    return submit


def _plan(studio: "Studio", ui: Page) -> Any:
    def look(text: str, request: gr.Request) -> str:
        from html import escape

        from app.models.add import Options, plan

        try:
            found = plan(text or "", studio.settings, Options(local=not studio.confined))
        except (ValueError, KeyError, OSError, QueueFull) as why:
            return render.trouble(str(why.args[0]) if why.args else str(why), ui.language(request))
        whole = sum(size for _, size in found.files)
        rows = "".join(f"<li>{escape(name)} · {render.size(size)}</li>" for name, size in found.files[:12])
        notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
        facts = " · ".join(filter(None, (found.kind, render.size(whole) if whole else "")))
        return (
            f'<div class="ms-status"><b>{escape(found.title)}</b> <span class="ms-note">{escape(facts)}</span>'
            f"<ul>{rows}{notes}</ul></div>"
        )

    return look


# --- editing ---


def _edit(studio: "Studio", ui: Page, shelf: Shelf) -> None:
    t = ui.t
    gr.Markdown(t("## About the chosen model"))
    facts = gr.HTML(_facts(None), elem_id="models_facts")
    fields = {
        key: gr.Textbox(
            label=t(label), lines=1 if "text" in key else 3, max_lines=8, elem_id=f"models_{key.replace(' ', '_')}"
        )
        for key, label in WORDS.items()
    }
    weight = gr.Slider(0, 2, value=1, step=0.05, label=t("Preferred weight"), elem_id="models_weight")
    save = gr.Button(t("Save"), elem_id="models_save")
    parts = [*fields.values(), weight]

    def pick(event: gr.EventData, kind: str, text: str) -> list[Any]:
        told: Any = event._data or {}
        chosen = str(told.get("value", ""))
        model = shelf.find(chosen)
        info = dict(model.info) if model else {}
        return [
            chosen,
            shelf.draw(kind, text, chosen),
            _facts(model),
            *(info.get(k, "") for k in WORDS),
            info.get("preferred weight", 1),
        ]

    picked: Any = shelf.cards.pick
    inputs = [shelf.kind, shelf.search]
    picked(pick, inputs=inputs, outputs=[shelf.chosen, shelf.cards, facts, *parts], queue=False, **QUIET)

    outputs = [shelf.cards]
    save.click(_keep(ui, shelf), inputs=[shelf.chosen, *inputs, *parts], outputs=outputs, **QUIET)


def _keep(ui: Page, shelf: Shelf) -> Any:
    """Write what a person says about a model into the files beside it."""

    def write(request: gr.Request, chosen: str, kind: str, text: str, *values: Any) -> str:
        from app.models.sidecars import write_info

        model = shelf.find(chosen)
        if model is None:
            raise gr.Error(ui.say("Choose a model first.", request), print_exception=False)
        told = dict(zip([*WORDS, "preferred weight"], values, strict=True))
        try:
            write_info(model.path, **told)
        except (ValueError, OSError) as why:
            raise gr.Error(str(why), print_exception=False) from None
        gr.Info(ui.say("Saved.", request), duration=3)
        return shelf.refresh(kind, text, chosen)

    return write


def _facts(model: "Model | None") -> str:
    """Name, place, family and problem of a model."""
    from html import escape

    if model is None:
        return f'<p class="ms-note">{render.both("Choose a model on the left.")}</p>'
    facts = " · ".join(filter(None, (model.kind, model.family, render.size(model.size), model.digest)))
    problem = f'<p class="ms-problem">{escape(model.problem)}</p>' if model.problem else ""
    place = f'<p class="ms-note ms-path">{escape(str(model.path))}</p>'
    return f"<p><b>{escape(model.name)}</b></p><p class='ms-note'>{escape(facts)}</p>{problem}{place}"
