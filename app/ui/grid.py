"""The X/Y/Z grid of the Create tab: the form's picture once for each combination of values, on one labelled sheet."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.grid import AXES
from app.requests import GenerateParams
from app.requests_grid import AxisParams, GridParams
from app.ui.parts import QUIET, Page

if TYPE_CHECKING:
    from app.ui.jobview import JobView

HINTS = {"x": "1-5, 1-10 (+2), 0-1 [5], or a, b, c", "y": "", "z": ""}
Make = Callable[[dict[str, Any]], GenerateParams]


def fold(ui: Page, view: "JobView", inputs: Mapping[str, Any], make: Make) -> None:
    """Three axes, what they cost, and the button; `make` turns the values of the form's `inputs` into params."""
    fields, cost, go = _form(ui)
    names, own = list(inputs), list(fields)

    def params(*values: Any) -> GridParams:
        base = make(dict(zip(names, values[: len(names)], strict=True)))
        return params_of(base, dict(zip(own, values[len(names) :], strict=True)))

    plain = {name: part for name, part in inputs.items() if not isinstance(part, gr.Image | gr.ImageEditor)}

    def tell(request: gr.Request, *values: Any) -> str:
        """The cost, without sending pictures to and fro: as if from words only."""
        form = dict.fromkeys(names) | dict(zip(plain, values[: len(plain)], strict=True)) | {"mode": "text"}
        form |= {name: False for name in ("control_1", "control_2") if name in form}
        try:
            told = params(*form.values(), *values[len(plain) :]).plan().cost()
        except ValueError:  # half-typed values; the button says what is wrong
            return ""
        return ui.say("{pictures} pictures, {steps} steps, {loads} times a model is loaded", request, **told)

    view.starts(go.click, params, [*inputs.values(), *fields.values()])
    asked = [*plain.values(), *fields.values()]
    changes = [part.change for part in fields.values()]
    gr.on(changes, tell, inputs=asked, outputs=[cost], trigger_mode="always_last", queue=False, **QUIET)
    ui.remember("grid", fields)


def _form(ui: Page) -> tuple[dict[str, Any], Any, Any]:
    """The fields, the place for the cost, and the button."""
    t = ui.t
    fields: dict[str, Any] = {}
    with gr.Accordion(t("X/Y/Z grid"), open=False, elem_classes="ms-fold", elem_id="create_grid_fold"):
        _axes(ui, fields)
        with gr.Row(elem_classes="ms-row-tight"):
            fields["legend"] = gr.Checkbox(label=t("Labels on the sheet"), value=True, elem_id="create_grid_legend")
            fields["each"] = gr.Checkbox(label=t("Keep the single pictures too"), elem_id="create_grid_each")
        cost = gr.Markdown("", elem_classes="ms-note", elem_id="create_grid_cost")
        go = gr.Button(t("Make the grid"), elem_id="create_grid_go")
    return fields, cost, go


def _axes(ui: Page, fields: dict[str, Any]) -> None:
    """What varies, and by which values; three times."""
    t = ui.t
    for letter in "xyz":
        with gr.Row(elem_classes="ms-row-tight"):
            fields[letter] = gr.Dropdown(
                label=letter.upper(),
                choices=[(t("Nothing"), ""), *((name, name) for name in AXES)],
                value="",
                scale=2,
                min_width=130,
                elem_id=f"create_grid_{letter}",
            )
            fields[f"{letter}_values"] = gr.Textbox(
                label=t("Values"),
                placeholder=HINTS[letter],
                lines=1,
                max_length=10_000,
                scale=3,
                min_width=160,
                elem_id=f"create_grid_{letter}_values",
            )


def params_of(base: GenerateParams, values: Mapping[str, Any]) -> GridParams:
    """The grid's fields as checked params. Raises ValueError with a sentence."""
    x, y, z = (AxisParams(name=values[axis] or "", values=values[f"{axis}_values"] or "") for axis in "xyz")
    return GridParams(base=base, x=x, y=y, z=z, legend=bool(values["legend"]), each=bool(values["each"]))
