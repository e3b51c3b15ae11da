"""The Gallery tab: everything that was made, found by its words; and PNG Info, which reads what a picture says."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.pictures import open_file
from app.ui import fill, render
from app.ui.create import updates
from app.ui.create_parts import infotext, use_buttons
from app.ui.jobview import PICK
from app.ui.parts import QUIET, Page, filled, this_page

if TYPE_CHECKING:
    from app.studio import Studio

PAGE = 48  # pictures on a page
SHOWN = {"all": "All", "favourites": "Favourites", "trash": "Trash"}


def build(studio: "Studio", ui: Page) -> None:
    """Two tabs in the tab: the pictures, and PNG Info."""
    with gr.Tabs(elem_id="gallery_tabs"):
        with gr.Tab(ui.t("Pictures"), id="pictures", elem_id="tab_pictures"):
            Gallery(studio, ui)
        with gr.Tab(ui.t("PNG Info"), id="info", elem_id="tab_info"):
            _png_info(ui)


class Gallery:
    """Search, tiles, the chosen picture and what can be done with it."""

    def __init__(self, studio: "Studio", ui: Page) -> None:
        self.studio, self.ui = studio, ui
        self.chosen, self.page = gr.State(None), gr.State(0)
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=340):
                self._finder()
            with gr.Column(scale=5, min_width=320, elem_classes="ms-stage-column"):
                self._details()
        self._wire()

    def _finder(self) -> None:
        t = self.ui.t
        with gr.Row(elem_classes="ms-row-tight"):
            self.search = gr.Textbox(
                label=t("Search"),
                placeholder=t("Words of the prompt or the settings"),
                lines=1,
                elem_id="gallery_search",
                scale=3,
                min_width=180,
            )
            self.show = gr.Radio(
                label=t("Show"),
                choices=self.ui.pairs(SHOWN),
                value="all",
                elem_id="gallery_show",
                scale=2,
                min_width=240,
            )
        self.tiles = gr.HTML("", elem_id="gallery_tiles", js_on_load=PICK)
        with gr.Row(elem_classes="ms-row-tight"):
            self.back = gr.Button(t("Newer"), size="sm", elem_id="gallery_back")
            self.on = gr.Button(t("Older"), size="sm", elem_id="gallery_on")
            self.again = gr.Button(t("Look again"), size="sm", elem_id="gallery_again")

    def _details(self) -> None:
        t, ui = self.ui.t, self.ui
        self.stage = gr.HTML("", elem_id="gallery_stage")
        with gr.Row(elem_classes="ms-row-tight ms-wrap"):
            self.star = gr.Button(t("Favourite"), size="sm", elem_id="gallery_star", elem_classes="ms-tiny")
            self.trash = gr.Button(t("Delete"), size="sm", elem_id="gallery_trash", elem_classes="ms-tiny")
            self.restore = gr.Button(t("Restore"), size="sm", elem_id="gallery_restore", elem_classes="ms-tiny")
            self.empty = gr.Button(t("Empty the trash"), size="sm", elem_id="gallery_empty", elem_classes="ms-tiny")
        row = gr.Row(elem_classes="ms-row-tight ms-wrap", elem_id="gallery_send")
        ui.sends(self.chosen, row)
        self.text = gr.HTML("", elem_id="gallery_infotext")
        use_buttons(ui, "gallery", self.chosen, ui.forms["create"])
        to_qr(ui, "gallery_use_qr", self.chosen, lambda number: entry.infotext if (entry := ui.find(number)) else "")

    # --- what is seen ---

    def _found(self, text: str, show: str, page: int) -> list[Any]:
        return self.studio.store.find(
            text or "", show == "favourites", show == "trash", limit=PAGE + 1, offset=page * PAGE
        )

    def _tiles(self, request: gr.Request, text: str, show: str, page: int, chosen: int | None) -> list[Any]:
        """Tiles, the chosen picture and which buttons make sense."""
        entries = self._found(text, show, page)
        more = len(entries) > PAGE
        entries = entries[:PAGE]
        if chosen not in {entry.id for entry in entries}:
            chosen = entries[0].id if entries else None
        nothing = {"all": "No pictures yet. Make one in Create.", "trash": "The trash is empty."}
        words = "Nothing has all of these words." if text else nothing.get(show, "No favourites yet.")
        trash = show == "trash"
        return [
            render.grid(entries, chosen, self.ui.say(words, request)),
            chosen,
            self._large(chosen),
            infotext(self.ui, chosen),
            page,
            gr.update(visible=page > 0),
            gr.update(visible=more),
            gr.update(visible=not trash),
            gr.update(visible=trash),
            gr.update(visible=trash),
        ]

    def _large(self, chosen: int | None) -> str:
        entry = self.ui.find(chosen)
        if entry is None:
            return ""
        facts = f'<p class="ms-note">{entry.width} x {entry.height} · {render.moment(entry.created)}</p>'
        save = f'<a class="ms-link" href="/pictures/{entry.id}?download=1" download>{render.both("Download")}</a>'
        return render.stage([entry], entry.id) + f'<div class="ms-facts">{facts}{save}</div>'

    def _wire(self) -> None:
        where = [self.search, self.show, self.page, self.chosen]
        outputs = [self.tiles, self.chosen, self.stage, self.text, self.page, self.back, self.on]
        outputs += [self.trash, self.restore, self.empty]
        quick: dict[str, Any] = {"inputs": where, "outputs": outputs, "queue": False, **QUIET}

        def turn(step: int) -> Any:
            def look(request: gr.Request, text: str, show: str, page: int, chosen: int | None) -> list[Any]:
                return self._tiles(request, text, show, max(0, page + step) if step else page, chosen)

            return look

        def first(request: gr.Request, text: str, show: str, page: int, chosen: int | None) -> list[Any]:
            return self._tiles(request, text, show, 0, chosen)

        gr.on([self.search.change, self.show.change], first, trigger_mode="always_last", **quick)
        self.back.click(turn(-1), **quick)
        self.on.click(turn(1), **quick)
        self.again.click(turn(0), **quick)
        for block in this_page().blocks.values():
            if getattr(block, "elem_id", None) == "tab_gallery":
                block.select(turn(0), **quick)
        picked: Any = self.tiles.pick
        picked(self._pick, inputs=where, outputs=outputs, queue=False, **QUIET)
        for button, act in ((self.star, "star"), (self.trash, "trash"), (self.restore, "restore")):
            button.click(self._act(act), **quick)
        self.empty.click(self._empty, **quick)

    def _pick(
        self, event: gr.EventData, request: gr.Request, text: str, show: str, page: int, chosen: int | None
    ) -> list[Any]:
        told: Any = event._data or {}
        entry = self.ui.find(told.get("value"))
        return self._tiles(request, text, show, page, entry.id if entry else chosen)

    def _act(self, act: str) -> Any:
        def change(request: gr.Request, text: str, show: str, page: int, chosen: int | None) -> list[Any]:
            entry, store = self.ui.entry(chosen, request), self.studio.store
            following = self._beside(self._found(text, show, page), entry.id)
            try:
                if act == "star":
                    store.favour(entry.id, not entry.favourite)
                elif act == "trash":
                    store.trash(entry.id)
                else:
                    store.restore(entry.id)
            except OSError as why:
                raise gr.Error(str(why), print_exception=False) from None
            return self._tiles(request, text, show, page, entry.id if act == "star" else following)

        return change

    @staticmethod
    def _beside(entries: list[Any], number: int) -> int | None:
        """The picture that takes the place of one that goes."""
        numbers = [entry.id for entry in entries[:PAGE]]
        place = numbers.index(number) if number in numbers else 0
        rest = [n for n in numbers if n != number]
        return rest[min(place, len(rest) - 1)] if rest else None

    def _empty(self, request: gr.Request, text: str, show: str, page: int, chosen: int | None) -> list[Any]:
        count = self.studio.store.empty_trash()
        gr.Info(self.ui.say("{n} pictures are gone for good.", request, n=count), duration=4)
        return self._tiles(request, text, show, 0, None)


def _png_info(ui: Page) -> None:
    """Drop a picture, see its settings, use them."""
    t, fields = ui.t, ui.forms["create"]
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="ms-card"):
            image = gr.Image(
                label=t("A picture from this studio, the WebUI or ComfyUI"),
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=420,
                elem_id="info_image",
            )
        with gr.Column(scale=6, min_width=320, elem_classes="ms-card"):
            said = gr.Textbox(label=t("Settings inside"), lines=10, max_lines=24, interactive=True, elem_id="info_text")
            with gr.Row(elem_classes="ms-row-tight ms-wrap"):
                for what, label in {"all": "Send to Create", "remix": "Use all but the seed"}.items():
                    button = gr.Button(t(label), size="sm", elem_id=f"info_{what}", elem_classes="ms-tiny")

                    def use(text: str, what: str = what) -> list[Any]:
                        return [gr.Tabs(selected="create"), *updates(fields, text or "", what)]

                    button.click(use, inputs=[said], outputs=[ui.tabs, *fields.values()], queue=False, **QUIET)

                to_qr(ui, "info_qr", said, lambda text: text or "")

    def read(path: str | None, request: gr.Request) -> str:
        if not path:
            return ""
        try:
            told = fill.settings_of(open_file(path))
        except ValueError as why:
            raise gr.Error(str(why), print_exception=False) from None
        if not told:
            gr.Warning(ui.say("This picture carries no settings.", request))
        return told

    image.change(read, inputs=[image], outputs=[said], api_name="png_info", show_progress="hidden")


def to_qr(ui: Page, elem_id: str, source: Any, text_of: Callable[[Any], str]) -> None:
    """A button that brings an art QR code's settings back into the Art QR form; `text_of` gives the infotext."""
    fields = ui.forms["qr"]
    button = gr.Button(ui.t("Send to Art QR"), size="sm", elem_id=elem_id, elem_classes="ms-tiny")

    def use(value: Any, request: gr.Request) -> list[Any]:
        told = fill.qr_fields_of(text_of(value))
        if not told:
            gr.Warning(ui.say("These are not the settings of an art QR code.", request))
            return [gr.skip() for _ in range(len(fields) + 1)]
        return [gr.Tabs(selected="qr"), *filled(fields, told)]

    button.click(use, inputs=[source], outputs=[ui.tabs, *fields.values()], queue=False, **QUIET)
