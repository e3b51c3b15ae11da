"""Logins for downloads, in the Settings tab: a token is given once, kept in the file of secrets, never shown again."""

from typing import TYPE_CHECKING, Any

import gradio as gr

from app.models.access import load_tokens, save_token
from app.ui import render
from app.ui.parts import QUIET, Page

if TYPE_CHECKING:
    from app.studio import Studio

SERVICES = {"civitai": "Civitai token", "huggingface": "Hugging Face token"}
WHERE = {
    "civitai": "Make one at civitai.com: account settings, API keys",
    "huggingface": "Make one at huggingface.co/settings/tokens",
}


def build(studio: "Studio", ui: Page) -> None:
    """A hidden field and two buttons for each service."""
    gr.Markdown(ui.t("## Logins for downloads"))
    for service, label in SERVICES.items():
        box = gr.Textbox(
            label=ui.t(label),
            info=ui.t(WHERE[service]),
            type="password",
            lines=1,
            max_length=500,
            elem_id=f"settings_token_{service}",
        )
        with gr.Row(elem_classes="ms-row-tight"):
            keep = gr.Button(ui.t("Keep the token"), size="sm", elem_id=f"settings_token_{service}_keep")
            forget = gr.Button(ui.t("Forget the token"), size="sm", elem_id=f"settings_token_{service}_forget")
        told = gr.HTML(_state(studio, service), elem_id=f"settings_token_{service}_told")
        keep.click(_keeper(studio, ui, service), inputs=[box], outputs=[box, told], **QUIET)
        forget.click(_keeper(studio, ui, service), inputs=[gr.State(None)], outputs=[box, told], **QUIET)


def _state(studio: "Studio", service: str) -> str:
    there = bool(load_tokens(studio.settings.data).get(service))
    words = "A token is kept; it is sent to this service only." if there else "No token yet."
    return f'<p class="ms-note">{render.both(words)}</p>'


def _keeper(studio: "Studio", ui: Page, service: str) -> Any:
    def keep(token: str | None, request: gr.Request) -> tuple[str, str]:
        if token is not None and not token.strip():
            return "", _state(studio, service)
        try:
            save_token(studio.settings.data, service, token or "")
        except (ValueError, OSError) as why:
            return "", render.trouble(str(why), ui.language(request))
        return "", _state(studio, service)

    return keep
