"""The styles, in the Settings tab: take over a WebUI's `styles.csv`, keep the prompts as a style, delete one."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app import styles
from app.ui import render
from app.ui.parts import QUIET, Page, this_page

if TYPE_CHECKING:
    from app.studio import Studio


def build(studio: "Studio", ui: Page) -> None:
    """Three ways to change the table; the lists of styles on the page follow."""
    t = ui.t
    gr.Markdown(t("## Styles"))
    with gr.Row(elem_classes="ms-row-tight"):
        take = gr.UploadButton(
            t("Take over a styles.csv"), file_types=[".csv"], size="sm", elem_id="styles_import", min_width=140
        )
    name = gr.Textbox(label=t("Name of a new style"), lines=1, max_length=200, elem_id="styles_name")
    keep = gr.Button(t("Keep the prompts of Create under this name"), size="sm", elem_id="styles_keep")
    which = gr.Dropdown(label=t("Style"), choices=_names(studio), value=None, elem_id="styles_which")
    delete = gr.Button(t("Delete this style"), size="sm", elem_id="styles_delete")
    told = gr.HTML("", elem_id="styles_told")
    create = ui.forms.get("create", {})
    lists = [which, *([create["styles"]] if "styles" in create else [])]

    def change(request: gr.Request, change: Any, words: str, **values: Any) -> list[Any]:
        try:
            found = change(studio.styles())
            styles.save(studio.styles_path, found)
        except (ValueError, OSError) as why:
            return [render.trouble(str(why), ui.language(request)), *(gr.skip() for _ in lists)]
        return [render.notice(ui.say(words, request, **values)), *(gr.update(choices=_names(studio)) for _ in lists)]

    _importing(take, change, [told, *lists])
    _keeping(keep, name, create, change, [told, *lists])
    _deleting(delete, which, change, [told, *lists])
    this_page().load(
        lambda: ["", *(gr.update(choices=_names(studio)) for _ in lists)], outputs=[told, *lists], queue=False, **QUIET
    )


def _names(studio: "Studio") -> list[str]:
    try:
        return [style.name for style in studio.styles()]
    except ValueError:  # a damaged table: told where it is used
        return []


def _importing(button: Any, change: Any, outputs: list[Any]) -> None:
    def take(path: str | None, request: gr.Request) -> list[Any]:
        def merged(ours: list[styles.Style]) -> list[styles.Style]:
            if not path:
                raise ValueError("Choose a file first.")
            return styles.merge(ours, styles.parse(Path(path).read_bytes(), Path(path).name))

        return change(request, merged, "The styles were taken over.")

    button.upload(take, inputs=[button], outputs=outputs, **QUIET)


def _keeping(button: Any, name: Any, create: dict[str, Any], change: Any, outputs: list[Any]) -> None:
    if not {"prompt", "negative_prompt"} <= set(create):
        button.visible = False
        return

    def keep(name: str, prompt: str, negative: str, request: gr.Request) -> list[Any]:
        def kept(ours: list[styles.Style]) -> list[styles.Style]:
            if not name.strip():
                raise ValueError("Give the style a name first.")
            return styles.merge(ours, [styles.Style(name.strip(), prompt or "", negative or "")])

        return change(request, kept, "The style {name} is kept.", name=name.strip())

    button.click(keep, inputs=[name, create["prompt"], create["negative_prompt"]], outputs=outputs, **QUIET)


def _deleting(button: Any, which: Any, change: Any, outputs: list[Any]) -> None:
    def delete(name: str | None, request: gr.Request) -> list[Any]:
        return change(request, lambda found: _without(found, name), "The style {name} is deleted.", name=name)

    button.click(delete, inputs=[which], outputs=outputs, **QUIET)


def _without(found: Iterable[styles.Style], name: str | None) -> list[styles.Style]:
    if not name:
        raise ValueError("Choose a style first.")
    return [style for style in found if style.name != name]
