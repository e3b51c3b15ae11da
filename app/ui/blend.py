"""The Blend tab: two photos in, one picture that is both out; a strip of balances, and both sides compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import PIL.Image

from app.jobs import Job
from app.requests_blend import WITHOUT, BlendParams
from app.studio import results
from app.ui.jobview import JobView
from app.ui.parts import QUIET, Page, painting_fields

if TYPE_CHECKING:
    from app.studio import Studio

METHODS = {
    "latent": "Melt: both in one, each keeps what catches the eye",
    "structure+look": "Dress: shapes of the first in colours and textures of the second",
    "composite": "Join: parts of both along a hidden seam",
    "dissolve": "Overlay: one half transparent over the other, no model",
}
SHAPES = {
    "subject": "Around the subjects",
    "shadows": "Double exposure: the second in the dark parts of the first",
    "left-right": "Left and right",
    "top-bottom": "Above and below",
    "diagonal": "Diagonal",
    "radial": "The second in the middle",
    "mask": "My own mask (white is the second)",
}
ALIGNMENTS = {"crop": "Crop", "pad": "Soft borders", "stretch": "Stretch"}
READS = {"luminance": "Brightness", "canny": "Edges (Canny)"}
PICTURES = ("image_a", "image_b", "mask")
EXAMPLES = Path(__file__).parents[2] / "assets" / "photos"
SIDES = {"a": "First photo", "b": "Second photo"}


class BlendView(JobView):
    """Shows a strip's middle first: the ends are the photos, which everybody knows."""

    def present(self, job: Job, language: str) -> tuple[str, str, Any]:
        """As in other tabs, with another picture chosen."""
        status, stage, chosen = super().present(job, language)
        entries = [one.entry for one in results(job) if one.entry is not None]
        if len(entries) < 3:
            return status, stage, chosen
        middle = entries[len(entries) // 2].id
        return status, (self._stage(entries, middle) if job.status.final else stage), middle


def build(studio: "Studio", ui: Page) -> None:
    """Form on the left, pictures on the right."""
    fields: dict[str, Any] = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=340):
            _photos(ui, fields)
            _wish(ui, fields)
            with gr.Column(elem_classes="ms-card"):
                _look(ui, fields)
                _fitting(ui, fields)
                _painting(ui, studio, fields)
        with gr.Column(scale=6, min_width=340, elem_classes="ms-stage-column"):
            view = _results(ui, fields)
            _compare(ui, view, fields)
    pictures = {name: fields[name] for name in PICTURES}
    kept = {name: part for name, part in fields.items() if name not in PICTURES}
    ui.forms["blend"] = kept
    ui.remember("blend", kept)
    ui.takes("Blend: first photo", pictures["image_a"], "blend")
    ui.takes("Blend: second photo", pictures["image_b"], "blend")


# --- the form ---


def _photos(ui: Page, fields: dict[str, Any]) -> None:
    """Both photos side by side, swap, examples."""
    t = ui.t
    with gr.Column(elem_classes="ms-card"):
        with gr.Row():
            for name, label in (("image_a", "First photo"), ("image_b", "Second photo")):
                fields[name] = gr.Image(
                    label=t(label),
                    type="pil",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=240,
                    elem_id=f"blend_{name}",
                )
        with gr.Row(elem_classes="ms-row-tight"):
            swap = gr.Button(t("Swap the photos"), size="sm", elem_id="blend_swap")
            example = gr.Button(t("Try two examples"), size="sm", elem_id="blend_examples")
    both = [fields["image_a"], fields["image_b"]]
    swap.click(lambda a, b: (b, a), inputs=both, outputs=both, **QUIET)
    turn = gr.State(0)
    example.click(_examples, inputs=[turn], outputs=[*both, turn], **QUIET)


PAIRS = (("rocket", "dahlia"), ("pagoda", "cat"), ("astronaut", "dahlia"), ("cat", "coffee"))


def _examples(turn: int) -> tuple[Any, Any, int]:
    """The next pair of example photos."""
    first, second = (PIL.Image.open(EXAMPLES / f"{name}.jpg") for name in PAIRS[turn % len(PAIRS)])
    return first, second, turn + 1


def _wish(ui: Page, fields: dict[str, Any]) -> None:
    """What everybody sets: words, balance, method."""
    t = ui.t
    with gr.Column(elem_classes="ms-card"):
        fields["prompt"] = gr.Textbox(
            label=t("Prompt (if you like)"),
            placeholder=t("What the blend should turn into: a stained glass window, an oil painting"),
            lines=2,
            max_lines=8,
            max_length=100_000,
            elem_id="blend_prompt",
            elem_classes="ms-prompt",
        )
        fields["balance"] = gr.Slider(
            0, 1, value=0.5, step=0.01, label=t("Balance"), info=t("0 is the first photo, 1 the second"),
            elem_id="blend_balance",
        )  # fmt: skip
        fields["method"] = gr.Radio(
            label=t("Method"), choices=ui.pairs(METHODS), value="latent", elem_id="blend_method"
        )
        with gr.Column(visible=False) as seam:
            fields["shape"] = gr.Dropdown(
                label=t("Where the seam runs"), choices=ui.pairs(SHAPES), value="subject", elem_id="blend_shape"
            )
            fields["mask"] = gr.Image(
                label=t("Mask: white is the second photo"),
                type="pil",
                sources=["upload", "clipboard"],
                height=200,
                visible=False,
                elem_id="blend_mask",
            )
    fields["method"].change(
        lambda method: gr.update(visible=method == "composite"), [fields["method"]], [seam], queue=False, **QUIET
    )
    fields["shape"].change(
        lambda shape: gr.update(visible=shape == "mask"), [fields["shape"]], [fields["mask"]], queue=False, **QUIET
    )


def _look(ui: Page, fields: dict[str, Any]) -> None:
    t = ui.t
    knobs = (
        ("strength", 0.4, "Painted anew", "By the model, most in the middle; 0 leaves it out"),
        ("selective", 0.7, "Choosy", "0 mixes evenly, 1 gives each place to the stronger photo"),
        ("texture", 0.7, "Texture", "Dress: brushwork of the second besides its colours"),
        ("softness", 0.15, "Soft seam", "Join: how wide the seam is"),
    )
    with gr.Accordion(t("Look"), open=False, elem_classes="ms-fold", elem_id="blend_look"):
        for name, value, label, info in knobs:
            fields[name] = gr.Slider(
                0, 1, value=value, step=0.01, label=t(label), info=t(info), elem_id=f"blend_{name}"
            )


def _fitting(ui: Page, fields: dict[str, Any]) -> None:
    t = ui.t
    with gr.Accordion(t("Fitting the photos"), open=False, elem_classes="ms-fold", elem_id="blend_fitting"):
        fields["align"] = gr.Radio(
            label=t("Other proportions"), choices=ui.pairs(ALIGNMENTS), value="crop", elem_id="blend_align"
        )
        with gr.Row():
            fields["focus"] = gr.Checkbox(
                label=t("Crop around what catches the eye"), value=True, elem_id="blend_focus"
            )
            fields["match"] = gr.Checkbox(
                label=t("Both show the same thing: lay one onto the other"), value=False, elem_id="blend_match"
            )
        fields["size"] = gr.Slider(
            256, 2048, value=768, step=64, label=t("Longer side"), info=t("In pixels"), elem_id="blend_size"
        )


def _painting(ui: Page, studio: "Studio", fields: dict[str, Any]) -> None:
    """The model and its knobs."""
    t = ui.t
    with gr.Accordion(t("Model and sampling"), open=False, elem_classes="ms-fold", elem_id="blend_painting"):
        fields |= painting_fields(ui, "blend", ("None: blend pixels only", WITHOUT))
        with gr.Row():
            fields["control"] = ui.models(
                "controlnet", t("Shapes held by"), [("Nothing", "")], value="", elem_id="blend_control"
            )
            fields["control_reads"] = gr.Dropdown(
                label=t("It reads"), choices=ui.pairs(READS), value="luminance", elem_id="blend_control_reads"
            )
        fields["control_weight"] = gr.Slider(
            0, 2, value=0.6, step=0.05, label=t("Weight"), elem_id="blend_control_weight"
        )


# --- starting, results ---


def _results(ui: Page, fields: dict[str, Any]) -> JobView:
    """Buttons and stage; a click in the strip chooses that balance."""
    with gr.Row(elem_id="blend_actions", elem_classes="ms-row-tight"):
        go = gr.Button(ui.t("Blend"), variant="primary", elem_id="blend_go", elem_classes="ms-go", scale=3)
        strip = gr.Button(ui.t("Strip of 5"), elem_id="blend_strip", elem_classes="ms-go", scale=2)
        stop = gr.Button(ui.t("Interrupt"), elem_id="blend_stop", elem_classes="ms-stop", scale=1, min_width=90)
    view = BlendView(
        ui,
        "blend",
        "Your blend appears here",
        "Choose two photos and press Blend. A strip shows five balances; click one to go on from it.",
    )
    names, parts = list(fields), list(fields.values())

    def make(count: int) -> Any:
        return lambda *values: params_of(dict(zip(names, values, strict=True)), count)

    view.starts(go.click, make(0), parts)
    view.starts(strip.click, make(5), parts)
    view.stops(stop)
    picked: Any = view.stage.pick

    def balance(event: gr.EventData) -> Any:
        told: Any = event._data or {}
        entry = ui.find(told.get("value"))
        found = entry.extra.get("blend", {}).get("balance") if entry is not None else None
        return gr.skip() if found is None else found

    picked(balance, outputs=[fields["balance"]], queue=False, **QUIET)
    with gr.Row(elem_id="blend_send", elem_classes="ms-row-tight") as row:
        pass
    ui.sends(view.chosen, row)
    return view


def params_of(values: dict[str, Any], strip: int) -> BlendParams:
    """The form's values as checked params. Raises ValueError with a sentence."""
    if values["image_a"] is None or values["image_b"] is None:
        raise ValueError("Choose both photos first.")
    told = {name: value for name, value in values.items() if value is not None}
    told |= {name: int(values[name]) for name in ("steps", "size", "seed")}
    if values["shape"] != "mask" or values["method"] != "composite":
        told.pop("mask", None)
    return BlendParams(strip=strip, **told)


def _compare(ui: Page, view: JobView, fields: dict[str, Any]) -> None:
    """A slider over one of the photos and the result."""
    t = ui.t
    with gr.Accordion(t("Before and after"), open=True, elem_classes="ms-fold", elem_id="blend_compare"):
        side = gr.Radio(label=t("Compare with"), choices=ui.pairs(SIDES), value="a", elem_id="blend_side")
        slider = gr.ImageSlider(
            label=t("Photo and blend"), type="pil", interactive=False, elem_id="blend_slider", max_height=520
        )
        told = gr.Markdown("", elem_classes="ms-note", elem_id="blend_told")
    names = ("image_a", "image_b", "align", "focus", "match")

    def show(chosen: Any, side: str, request: gr.Request, *values: Any) -> tuple[Any, Any]:
        entry = ui.find(chosen)
        given: dict[str, Any] = dict(zip(names, values, strict=True))
        if entry is None or given["image_a"] is None or given["image_b"] is None:
            return gr.skip(), gr.skip()
        blend = entry.extra.get("blend", {})
        if not blend:
            return gr.skip(), gr.skip()
        words = ui.say(
            "Balance {balance:.2f}: {a:.0%} like the first photo, {b:.0%} like the second.",
            request,
            balance=blend["balance"],
            a=blend["like_a"],
            b=blend["like_b"],
        )
        return (fitted(given, side, (entry.width, entry.height)), ui.picture(chosen, request)), words

    inputs = [view.chosen, side, *(fields[name] for name in names)]
    gr.on([view.chosen.change, side.change], show, inputs=inputs, outputs=[slider, told], **QUIET)
    seen, picked = gr.State(None), view.stage.pick  # a click in the strip tells its picture itself

    def number(event: gr.EventData) -> Any:
        told: Any = event._data or {}
        return told.get("value")

    picked(number, outputs=[seen], queue=False, **QUIET).then(
        show, inputs=[seen, *inputs[1:]], outputs=[slider, told], **QUIET
    )


def fitted(given: dict[str, Any], side: str, size: tuple[int, int]) -> PIL.Image.Image:
    """One of the photos as the blend saw it, at the blend's size."""
    from mix.appflow.blend.align import align, to_image
    from mix.appflow.blend.request import BlendRequest

    told = {name: given[name] for name in ("align", "focus", "match")}
    pair = align(BlendRequest(a=given["image_a"], b=given["image_b"], width=size[0], height=size[1], **told))
    return to_image(pair.a if side == "a" else pair.b)
