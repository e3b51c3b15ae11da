"""The page: header, tabs, language, and what is wired once for all of them."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.ui import named, theme
from app.ui.parts import QUIET, Page

if TYPE_CHECKING:
    from app.studio import Studio

HERE = Path(__file__).parent
# id -> (name on the page, module with build(studio, ui)); a tab without its module is left out.
TABS = {
    "create": ("Create", "app.ui.create"),
    "qr": ("Art QR", "app.ui.qr"),
    "blend": ("Blend", "app.ui.blend"),
    "chat": ("Chat", "app.ui.chat"),
    "gallery": ("Gallery", "app.ui.gallery"),
    "models": ("Models", "app.ui.models"),
    "settings": ("Settings", "app.ui.settings"),
}
BRAND = '<h1><img src="/studio/icon.svg" alt="" width="32" height="32"><span>MixStudio</span></h1>'
OTHER = {"en": "中文", "zh": "English"}  # what the language button says


def css() -> str:
    """All of the page's own styles."""
    return theme.variables() + (HERE / "style.css").read_text(encoding="utf-8")


def head(studio: "Studio") -> str:
    """What stands in the page's head: colours of the browser's frame, and our script."""
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("complete.js", "page.js"))
    wish = studio.settings.theme
    return (
        '<meta name="theme-color" media="(prefers-color-scheme: light)" content="#f1f4f3">'
        '<meta name="theme-color" media="(prefers-color-scheme: dark)" content="#0f1514">'
        '<link rel="icon" href="/studio/icon.svg" type="image/svg+xml">'
        f'<script>document.documentElement.dataset.theme = "{wish}";\n{script}</script>'
    )


def build(studio: "Studio") -> gr.Blocks:
    """All tabs; nothing is loaded for it."""
    ui = Page(studio)
    with gr.Blocks(title="MixStudio", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        language, speak = _header(ui)
        ui.owner = gr.Textbox(visible="hidden", elem_id="owner", label=ui.t("Browser"))
        blocks.load(None, outputs=[ui.owner], js="async () => (await window.mixReady()).owner()", **QUIET)
        with gr.Tabs(selected="create", elem_id="tabs") as ui.tabs:
            for name, (label, module) in TABS.items():
                if find_spec(module) is not None:
                    with gr.Tab(ui.t(label), id=name, elem_id=f"tab_{name}"):
                        import_module(module).build(studio, ui)
        ui.connect()
        _languages(ui, blocks, language, speak)
        named.build(studio)
    blocks.queue(default_concurrency_limit=None, max_size=256)
    return blocks


def _header(ui: Page) -> tuple[Any, Any]:
    """Brand, queue, theme and language; gives the language button and the hidden word that says the language."""
    with gr.Row(elem_id="ms_head"):
        gr.HTML(BRAND, elem_id="ms_brand")
        queue = gr.Button(ui.t("Queue"), size="sm", elem_id="queue_open", variant="secondary")
        shade = gr.Button(ui.t("Theme"), size="sm", elem_id="theme_toggle", variant="secondary")
        language = gr.Button(OTHER["en"], size="sm", elem_id="language_toggle", variant="secondary")
    speak = gr.Textbox(visible="hidden", elem_id="language", label=ui.t("Language"))
    queue.click(None, js="() => { window.mix.openQueue(); return []; }", **QUIET)
    shade.click(None, js="() => { window.mix.toggleTheme(); return []; }", **QUIET)
    return language, speak


def _languages(ui: Page, blocks: gr.Blocks, button: Any, speak: Any) -> None:
    """Switch the words of all components; the values that people have typed stay."""
    parts, updates = ui.speaking(blocks)

    def switch(language: str) -> list[Any]:
        return [language, gr.update(value=OTHER[language]), *updates(language)]

    def first(request: gr.Request) -> list[Any]:
        language = ui.language(request)
        if language == "en":  # as the page was built
            return [language, *(gr.skip() for _ in range(len(parts) + 1))]
        return switch(language)

    def toggle(now: str, wish: str) -> list[Any]:
        return switch(wish if wish in OTHER else "en" if now == "zh" else "zh")

    outputs = [speak, button, *parts]
    blocks.load(first, outputs=outputs, queue=False, **QUIET)
    button.click(lambda now: toggle(now, ""), inputs=[speak], outputs=outputs, queue=False, **QUIET)
    for chooser in ui.language_choosers:
        chooser.input(toggle, inputs=[speak, chooser], outputs=outputs, queue=False, **QUIET)
    menus = [menu.component for menu in ui.menus]
    speak.change(ui.offered, inputs=[speak], outputs=menus, queue=False, **QUIET)
    speak.change(None, inputs=[speak], js="(l) => { if (l) window.mix.setLanguage(l); return []; }", **QUIET)
