"""What can be done with the chosen model, in the Models tab: look it up at Civitai, check it, move it to the trash."""

from typing import TYPE_CHECKING, Any

import gradio as gr

from app.ui.jobview import JobView
from app.ui.parts import QUIET, Page

if TYPE_CHECKING:
    from app.jobs import Job
    from app.studio import Studio
    from app.ui.models import Shelf


def build(studio: "Studio", ui: Page, shelf: "Shelf") -> None:
    """Three buttons and a status line."""
    with gr.Row(elem_classes="ms-row-tight"):
        ask = gr.Button(ui.t("Look it up at Civitai"), size="sm", elem_id="models_identify", min_width=130)
        check = gr.Button(ui.t("Check the file"), size="sm", elem_id="models_verify", min_width=110)
        remove = gr.Button(ui.t("To the trash"), size="sm", variant="stop", elem_id="models_remove", min_width=100)
    view = JobView(ui, "models_care", stage=False)
    view.starts_jobs(ask.click, _job(studio, shelf, "submit_identify"), [shelf.chosen])
    view.starts_jobs(check.click, _job(studio, shelf, "submit_verify"), [shelf.chosen])
    inputs = [shelf.kind, shelf.search, shelf.chosen]
    view.status.change(shelf.draw, inputs=inputs, outputs=[shelf.cards], queue=False, **QUIET)
    remove.click(_remover(studio, ui, shelf), inputs=inputs, outputs=[shelf.cards, shelf.chosen], **QUIET)


def _job(studio: "Studio", shelf: "Shelf", name: str) -> Any:
    def submit(owner: str, chosen: str) -> "Job":
        from app import services_download

        model = shelf.find(chosen)
        if model is None:
            raise ValueError("Choose a model first.")
        return getattr(services_download, name)(studio, model, owner)

    return submit


def _remover(studio: "Studio", ui: Page, shelf: "Shelf") -> Any:
    def remove(request: gr.Request, kind: str, text: str, chosen: str) -> tuple[str, str]:
        from app.models.places import to_trash

        model = shelf.find(chosen)
        if model is None:
            raise gr.Error(ui.say("Choose a model first.", request), print_exception=False)
        try:
            to_trash(studio.settings, model.path)
        except (ValueError, OSError) as why:
            raise gr.Error(str(why), print_exception=False) from None
        gr.Info(ui.say("It is in the trash of the models folder.", request), duration=4)
        return shelf.refresh(kind, text, ""), ""

    return remove
