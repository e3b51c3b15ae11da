"""What every tab is built from: words in the user's language, forms that are remembered, pictures that are sent on.

A tab is `build(studio, ui)`. Its words go through `ui.t`, so that the language can be switched in place: labels, hints
and choices of every component are looked up in the catalogue, the values that people have typed stay.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import Context

from app.i18n import LANGUAGES, preferred, translate

if TYPE_CHECKING:
    from app.store import Entry
    from app.studio import Studio

COOKIE = "mixstudio_lang"
# The listeners of the page that are no interface for others.
# Without `show_progress_on` the page would set a status in every output, which takes seconds where there are hundreds.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": []}
_WORDS = ("label", "info", "placeholder")


EXAMPLES = (
    "a red apple on a blue background",
    "a cat in a meadow",
    "a yellow flower, hand drawn",
    "a castle in the snow under a grey sky",
    "a hot air balloon over green grass",
    "a ship on the sea at sunset",
)


@dataclass(frozen=True)
class Target:
    """A place that takes a picture from the gallery: a component on a tab, and what else changes with it."""

    label: str
    component: Any
    tab: str
    also: Mapping[Any, Any] = field(default_factory=dict)  # component -> its new value or update


@dataclass(frozen=True)
class Menu:
    """A dropdown of the models of a kind, after some choices of its own (English words, value)."""

    component: Any
    kind: str
    first: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Source:
    """A place that pictures are sent from: what is chosen there, and the row for the buttons."""

    chosen: Any  # gr.State with a picture's number
    row: Any


@dataclass
class Page:
    """The page under construction; tabs use `t`, `say`, `remember`, `takes` and `sends`."""

    studio: "Studio"
    words: set[str] = field(default_factory=set)
    targets: list[Target] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    menus: list[Menu] = field(default_factory=list)
    tabs: Any = None
    owner: Any = None  # hidden textbox: this browser's name, the same after a reload
    following: set[tuple[str, str]] = field(default_factory=set)
    language_choosers: list[Any] = field(default_factory=list)  # dropdowns with a language as their value
    forms: dict[str, dict[str, Any]] = field(default_factory=dict)  # tab -> its fields, for whoever fills them

    def t(self, text: str) -> str:
        """English words of a component; remembered, so that they can be switched."""
        self.words.add(text)
        return text

    def pairs(self, names: Mapping[str, str]) -> list[tuple[str, str]]:
        """Choices for a dropdown or radio: value -> English words."""
        return [(self.t(text), value) for value, text in names.items()]

    def say(self, text: str, request: "gr.Request | None", **values: Any) -> str:
        """Words that are made while the studio runs, in the language of whoever asks."""
        return translate(text, self.language(request)).format(**values)

    def language(self, request: "gr.Request | None") -> str:
        """The language of a browser: what was chosen there, else the setting, else what the browser prefers."""
        return language_for(request, self.studio)

    # --- forms ---

    def remember(self, name: str, fields: Mapping[str, Any]) -> None:
        """Keep these components' values in the browser, and put them back when the page is opened again."""
        keys, parts = list(fields), list(fields.values())
        kept = f"(...v) => {{ window.mix.remember({json.dumps(name)}, {json.dumps(keys)}, v); return []; }}"
        gr.on([part.change for part in parts], fn=None, inputs=parts, outputs=[], js=kept, **QUIET)
        box = gr.Textbox(visible=False)

        def restore(text: str) -> list[Any]:
            return restored(fields, text)

        recall = f"async () => [await window.mixReady().then(m => m.recall({json.dumps(name)}))]"
        this_page().load(restore, inputs=[box], outputs=parts, js=recall, queue=False, **QUIET)

    # --- models ---

    def models(self, kind: str, label: str, first: Sequence[tuple[str, str]] = (), **how: Any) -> Any:
        """A dropdown of the models of a kind, `first` (English words, value) before them; it follows the catalogue."""
        for text, _ in first:
            self.t(text)
        component = gr.Dropdown(label=label, choices=self._choices(kind, first, "en"), **how)
        self.menus.append(Menu(component, kind, first))
        return component

    def _choices(self, kind: str, first: Sequence[tuple[str, str]], language: str) -> list[tuple[str, str]]:
        models = [model.name for model in self.studio.catalog.list(kind) if not model.problem]
        return [*((translate(text, language), value) for text, value in first), *((name, name) for name in models)]

    def offered(self, language: str) -> list[Any]:
        """What the dropdowns of models hold now, in a language: models come and go while the page is open."""
        return [gr.update(choices=self._choices(menu.kind, menu.first, language)) for menu in self.menus]

    def examples(self, button: Any, prompt: Any, model: Any) -> None:
        """Let a button put one example after another into a prompt: the chosen model's own, where it has some."""
        turn = gr.State(0)

        def show(number: int, name: str | None) -> tuple[str, int]:
            known = self.studio.runtime.about(name or "").examples or EXAMPLES
            return known[number % len(known)], number + 1

        button.click(show, inputs=[turn, model], outputs=[prompt, turn], queue=False, **QUIET)

    # --- pictures from tab to tab ---

    def takes(self, label: str, component: Any, tab: str, also: Mapping[Any, Any] | None = None) -> None:
        """Offer `label` as a button wherever a picture is chosen; the component (gr.Image, gr.ImageEditor) gets it.

        `tab` is the id of the gr.Tab to show, `also` further components with their new values.
        """
        self.targets.append(Target(self.t(label), component, tab, also or {}))

    def sends(self, chosen: Any, row: Any) -> None:
        """Put a button for every target into `row`; `chosen` is a gr.State with a picture's number."""
        self.sources.append(Source(chosen, row))

    def connect(self) -> None:
        """Wire what tabs share: menus of models, buttons that send pictures; called once after all tabs are built."""
        menus = [menu.component for menu in self.menus]

        def offer(request: gr.Request) -> list[Any]:
            return self.offered(self.language(request))

        gr.on([this_page().load, self.tabs.select], offer, outputs=menus, queue=False, **QUIET)
        for number, source in enumerate(self.sources):
            source.row.visible = False  # until there is a picture to send
            source.chosen.change(_shown, inputs=[source.chosen], outputs=[source.row], queue=False, **QUIET)
            with source.row:
                buttons = [
                    gr.Button(target.label, size="sm", elem_id=f"send_{number}_{i}", elem_classes="ms-tiny")
                    for i, target in enumerate(self.targets)
                ]
            for button, target in zip(buttons, self.targets, strict=True):
                outputs = [target.component, self.tabs, *target.also]
                button.click(self._send(target), inputs=[source.chosen], outputs=outputs, **QUIET)

    def _send(self, target: Target) -> Callable[..., Any]:
        def send(chosen: int | None, request: gr.Request) -> Any:
            image = self.picture(chosen, request)
            value = {"background": image, "layers": [], "composite": image}
            editor = isinstance(target.component, gr.ImageEditor)
            return (value if editor else image, gr.Tabs(selected=target.tab), *target.also.values())

        return send

    def find(self, chosen: Any) -> "Entry | None":
        """The chosen picture's entry in the gallery; None where there is none."""
        try:
            return self.studio.store.get(int(chosen))
        except (KeyError, TypeError, ValueError):
            return None

    def entry(self, chosen: Any, request: "gr.Request | None") -> "Entry":
        """The chosen picture's entry; a message where none is chosen or it is gone."""
        found = self.find(chosen)
        if found is None:
            raise gr.Error(self.say("Choose a picture first.", request), print_exception=False)
        return found

    def picture(self, chosen: int | None, request: "gr.Request | None") -> Any:
        """The chosen picture; a message where none is chosen or it is gone."""
        from app.pictures import open_file

        entry = self.entry(chosen, request)
        try:
            return open_file(entry.path).convert("RGB")
        except ValueError as why:
            raise gr.Error(str(why), print_exception=False) from None

    # --- language ---

    def speaking(self, blocks: Any) -> tuple[list[Any], Callable[[str], list[Any]]]:
        """The components with words, and the function that gives their updates for a language."""
        found = [(block, self._words_of(block)) for block in blocks.blocks.values()]
        found = [(block, words) for block, words in found if words]

        def updates(language: str) -> list[Any]:
            return [
                gr.update(**{key: _in_language(value, language) for key, value in words.items()}) for _, words in found
            ]

        return [block for block, _ in found], updates

    def _words_of(self, block: Any) -> dict[str, Any]:
        words: dict[str, Any] = {
            name: str(told) for name in _WORDS if (told := getattr(block, name, None)) and told in self.words
        }
        if isinstance(block, gr.Button | gr.Markdown | gr.UploadButton) and getattr(block, "value", None) in self.words:
            words["value"] = str(block.value)
        choices = getattr(block, "choices", None) or []
        if any(menu.component is block for menu in self.menus):
            return words  # `offered` has them
        if choices and any(label in self.words for label, _ in choices):
            words["choices"] = list(choices)
        return words


def this_page() -> Any:
    """The gr.Blocks that is being built."""
    return Context.root_block


def language_for(request: Any, studio: "Studio") -> str:
    """The language of whoever sent this request (Gradio's or FastAPI's), see `Page.language`."""
    told = request.cookies.get(COOKIE, "") if request is not None else ""
    if told in LANGUAGES:
        return told
    if studio.settings.language in LANGUAGES:
        return studio.settings.language
    return preferred(request.headers.get("accept-language", "")) if request is not None else "en"


def _in_language(value: Any, language: str) -> Any:
    if isinstance(value, str):
        return translate(value, language)
    return [(translate(label, language), told) for label, told in value]


def restored(fields: Mapping[str, Any], text: str | None) -> list[Any]:
    """Updates that put remembered values back; what does not fit the form any more is left out."""
    try:
        values = json.loads(text or "{}")
    except ValueError:
        values = {}
    if not isinstance(values, dict):
        values = {}
    return [
        gr.update(value=values[key]) if key in values and fits(part, values[key]) else gr.skip()
        for key, part in fields.items()
    ]


def filled(fields: Mapping[str, Any], told: Mapping[str, Any]) -> list[Any]:
    """Updates of a form's fields by name; what is not told, or does not fit, stays as it is."""
    return [
        gr.update(value=told[key]) if key in told and fits(part, told[key]) else gr.skip()
        for key, part in fields.items()
    ]


def fits(part: Any, value: Any) -> bool:
    """Whether a component can hold this value."""
    if isinstance(part, gr.Slider | gr.Number):
        low, high = getattr(part, "minimum", None), getattr(part, "maximum", None)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (low is None or value >= low) and (high is None or value <= high)
    if isinstance(part, gr.Checkbox):
        return isinstance(value, bool)
    if isinstance(part, gr.Textbox):
        return isinstance(value, str) and len(value) <= 100_000
    choices: Sequence[Any] | None = getattr(part, "choices", None)
    if choices is not None:
        known = {told for _, told in choices}
        wanted = value if isinstance(value, list) else [value]
        return bool(getattr(part, "allow_custom_value", False)) or all(
            isinstance(one, str | int | float) and one in known for one in wanted
        )
    return False


def painting_fields(ui: Page, prefix: str, without: tuple[str, str]) -> dict[str, Any]:
    """The model and its knobs as Art QR and Blend have them; `without` is (words, value) of the choice of no model."""
    t, told = ui.t, ui.studio.runtime.recommended()
    fields: dict[str, Any] = {
        "model": ui.models(
            "checkpoint", t("Model"), [("The usual one", ""), without], value="", elem_id=f"{prefix}_model"
        ),
        "negative_prompt": gr.Textbox(
            label=t("Negative prompt"), lines=1, max_lines=4, max_length=100_000, elem_id=f"{prefix}_negative"
        ),
    }
    with gr.Row():
        fields["steps"] = gr.Slider(1, 150, value=told["steps"], step=1, label=t("Steps"), elem_id=f"{prefix}_steps")
        fields["cfg_scale"] = gr.Slider(
            0, 30, value=told["cfg_scale"], step=0.5, label=t("CFG scale"), elem_id=f"{prefix}_cfg"
        )
    fields["seed"] = gr.Number(
        label=t("Seed"), value=-1, precision=0, minimum=-1, maximum=2**32 - 1, info=t("-1 is a new one each time"),
        elem_id=f"{prefix}_seed",
    )  # fmt: skip
    return fields


def _shown(chosen: int | None) -> Any:
    return gr.update(visible=chosen is not None)
