"""Searching Civitai in the Models tab: what is clicked goes into the box of what is to be added."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.ui import render
from app.ui.jobview import PICK
from app.ui.parts import QUIET, Page

if TYPE_CHECKING:
    from app.studio import Studio

TYPES = {
    "": "All kinds",
    "Checkpoint": "Checkpoints",
    "LORA": "LoRAs",
    "VAE": "VAEs",
    "Controlnet": "ControlNets",
    "TextualInversion": "Embeddings",
}


def build(studio: "Studio", ui: Page, source: Any) -> None:
    """Words, a kind, and a list; `source` is the textbox that takes the link of the chosen one."""
    t = ui.t
    with gr.Accordion(t("Search Civitai"), open=False, elem_id="models_search_part"):
        with gr.Row(elem_classes="ms-row-tight"):
            words = gr.Textbox(label=t("What for"), lines=1, max_length=200, elem_id="civitai_words", scale=3)
            kind = gr.Dropdown(label=t("Kind"), choices=ui.pairs(TYPES), value="", elem_id="civitai_kind", scale=2)
        go = gr.Button(t("Search"), size="sm", elem_id="civitai_go")
        found = gr.HTML("", elem_id="civitai_found", js_on_load=PICK)
    gr.on([go.click, words.submit], _searcher(studio, ui), inputs=[words, kind], outputs=[found], **QUIET)
    picked: Any = found.pick
    picked(_chosen, outputs=[source], queue=False, **QUIET)


def _searcher(studio: "Studio", ui: Page) -> Any:
    def look(words: str, kind: str, request: gr.Request) -> str:
        from app.models import civitai
        from app.models.access import Access

        if not (words or "").strip():
            return render.trouble("Say what to search for.", ui.language(request))
        try:
            rows = civitai.search(Access.of(studio.settings), words.strip(), [kind] if kind else [], 20)
        except (ValueError, OSError) as why:
            return render.trouble(str(why), ui.language(request))
        return listed(rows) or render.notice(ui.say("Nothing was found.", request))

    return look


def listed(rows: Sequence[Mapping[str, Any]]) -> str:
    """The found models as a list of buttons; their names come from strangers."""
    lines = "".join(
        f'<button type="button" class="ms-found" data-pick="{escape(str(row["link"]))}">'
        f'<b>{escape(str(row["name"]))}</b><span class="ms-note">{escape(facts(row))}</span></button>'
        for row in rows
    )
    return f'<div class="ms-finds">{lines}</div>' if lines else ""


def facts(row: Mapping[str, Any]) -> str:
    """Type, base, author and downloads, as far as Civitai tells them."""
    downloads = f"↓ {row['downloads']:,}" if row["downloads"] else ""
    return " · ".join(filter(None, (str(row["type"]), str(row["base"]), str(row["creator"]), downloads)))


def _chosen(event: gr.EventData) -> Any:
    told: Any = event._data or {}
    link = str(told.get("value", ""))
    return link if link.startswith("https://civitai.com/models/") else gr.skip()
