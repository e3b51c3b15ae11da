"""The Create tab: words in, pictures out. Simple at first sight; the knobs are folded."""

from functools import cache
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.requests import GenerateParams
from app.ui import create_parts as parts
from app.ui import fill, grid
from app.ui.jobview import JobView
from app.ui.parts import QUIET, Page, filled

if TYPE_CHECKING:
    from app.studio import Studio

# What stands in the form but is no setting of a picture.
EXTRAS = {
    *("picture_part", "mask_part", "strength_part", "preset", "swap", "dice", "again"),
    *("control_1_seen", "control_2_seen", "example", "note"),
}


def build(studio: "Studio", ui: Page) -> None:
    """Form on the left, pictures on the right."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=340):
            fields, tokens = _form(studio, ui)
        pictures = {key: fields.pop(key) for key in parts.PICTURES}
        extras = {key: fields.pop(key) for key in list(fields) if key in EXTRAS}
        ui.forms["create"] = fields
        with gr.Column(scale=6, min_width=340, elem_classes="ms-stage-column"):
            view = _results(ui, fields, {**fields, **pictures})
            parts.about(ui, view, fields, extras)
            grid.fold(ui, view, {**fields, **pictures}, params_of)
    ui.remember("create", fields)
    parts.wire_start(fields, extras)
    parts.wire_size(fields, extras)
    parts.wire_control(fields, pictures, extras)
    _wire_model(studio, fields)
    ui.examples(extras["example"], fields["prompt"], fields["model"])
    note = {"inputs": [fields["model"]], "outputs": [extras["note"]]}
    fields["model"].change(lambda name: parts.model_note(ui, name), queue=False, **note, **QUIET)
    _wire_tokens(studio, ui, fields, tokens)
    ui.takes("Vary", pictures["init_image"], "create", {fields["mode"]: "picture"})
    ui.takes("Repaint a part", pictures["editor"], "create", {fields["mode"]: "part"})
    ui.takes("Use as control", pictures["control_1_image"], "create", {fields["control_1"]: True})


def _form(studio: "Studio", ui: Page) -> tuple[dict[str, Any], dict[str, Any]]:
    """All fields by name, in the order in which they stand, and the places for the counted tokens."""
    fields: dict[str, Any] = {}
    with gr.Column(elem_classes="ms-card"):
        tokens = parts.words(ui, studio, fields)
        parts.start(ui, fields)
    with gr.Column(elem_classes="ms-card"):
        parts.shape(ui, studio, fields)
    with gr.Column(elem_classes="ms-card"):
        parts.sampling(ui, studio, fields)
        parts.second_pass(ui, fields)
        for number in (1, 2):
            parts.control(ui, studio, fields, number)
        parts.loras(ui, studio)
    return fields, tokens


def _results(ui: Page, fields: dict[str, Any], inputs: dict[str, Any]) -> JobView:
    """Buttons and stage."""
    with gr.Row(elem_id="create_actions", elem_classes="ms-row-tight"):
        go = gr.Button(ui.t("Generate"), variant="primary", elem_id="create_go", elem_classes="ms-go", scale=4)
        stop = gr.Button(ui.t("Interrupt"), elem_id="create_stop", elem_classes="ms-stop", scale=1, min_width=90)
        skip = gr.Button(ui.t("Skip"), elem_id="create_skip", scale=1, min_width=70)
    view = JobView(
        ui,
        "create",
        "Your picture appears here",
        "Say what you want to see and press Generate (Ctrl+Enter). You can queue more while one is being made.",
    )
    names = list(inputs)
    view.starts(go.click, lambda *values: params_of(dict(zip(names, values, strict=True))), list(inputs.values()))
    view.stops(stop)
    view.skips(skip)
    return view


# --- from the form to what is asked for ---

SAME = (
    *("prompt", "negative_prompt", "styles", "vae", "sampler", "schedule", "cfg_scale"),
    *("variation_strength",),
)
WHOLE = ("width", "height", "steps", "seed", "count", "batch_size", "clip_skip", "variation_seed")


def params_of(values: dict[str, Any]) -> GenerateParams:
    """The form's values as checked params. Raises ValueError with a sentence."""
    told: dict[str, Any] = {key: values[key] for key in SAME}
    told |= {key: int(values[key]) for key in WHOLE if values[key] is not None}
    told |= {"model": values["model"] or "", "styles": values["styles"] or []}
    if values["mode"] != "text":
        told |= _start(values)
    if values["hires"]:
        keys = ("scale", "strength", "steps", "upscaler")
        told["hires"] = {key: values[f"hires_{key}"] for key in keys}
    told["controls"] = [_control(values, n) for n in (1, 2) if values[f"control_{n}"]]
    return GenerateParams(**told)


def _start(values: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"strength": values["strength"], "fit": values["fit"]}
    if values["mode"] == "picture":
        if values["init_image"] is None:
            raise ValueError("Choose the picture to start from, or switch to “Words only”.")
        return told | {"init_image": values["init_image"]}
    image, mask = parts.picture_and_mask(values["editor"])
    same = ("mask_blur", "masked_content", "only_masked", "invert_mask")
    return told | {"init_image": image, "mask": mask, "padding": int(values["padding"])} | {k: values[k] for k in same}


def _control(values: dict[str, Any], number: int) -> dict[str, Any]:
    told = {
        key: values[f"control_{number}_{key}"] for key in ("model", "preprocessor", "weight", "start", "end", "mode")
    }
    if not told["model"]:
        raise ValueError("Choose a ControlNet model, or switch the unit off.")
    return told | {
        "image": values[f"control_{number}_image"],
        "low": values[f"control_{number}_low"],
        "high": values[f"control_{number}_high"],
    }


# --- what the fields do to each other ---


def _wire_model(studio: "Studio", fields: dict[str, Any]) -> None:
    keys = ("sampler", "schedule", "steps", "cfg_scale", "width", "height")

    def advise(name: str) -> list[Any]:
        """What the chosen model's makers recommend."""
        told = studio.runtime.recommended(name or "")
        return filled({key: fields[key] for key in keys}, told)

    outputs = [fields[key] for key in keys]
    fields["model"].input(advise, inputs=[fields["model"]], outputs=outputs, queue=False, **QUIET)


def _wire_tokens(studio: "Studio", ui: Page, fields: dict[str, Any], tokens: dict[str, Any]) -> None:
    def count(prompt: str, names: list[str], negative: str, request: gr.Request) -> list[str]:
        try:
            both = studio.with_styles(names or [], prompt or "", negative or "")
        except ValueError:
            both = (prompt or "", negative or "")
        return [ui.say("{n} of {m} tokens", request, **_tokens(text)) if text else "" for text in both]

    told = [fields["prompt"], fields["styles"], fields["negative_prompt"]]
    gr.on(
        [part.change for part in told],
        count,
        inputs=told,
        outputs=[tokens["prompt"], tokens["negative_prompt"]],
        queue=False,
        trigger_mode="always_last",
        **QUIET,
    )


@cache
def _words() -> Any:
    from ppdiffusers.prompt.embedding import Words
    from ppdiffusers.prompt.tokenizer import CLIPTokenizer

    return Words(CLIPTokenizer.clip())


def _tokens(text: str) -> dict[str, int]:
    """How many tokens a prompt has, and how many fit into the chunks that it takes."""
    from ppdiffusers.prompt.chunk import count, split
    from ppdiffusers.prompt.network import extract_networks

    if len(text) > 20_000:
        return {"n": len(text) // 4, "m": len(text) // 4}
    used, of = count(split(extract_networks(text)[0], _words()))
    return {"n": used, "m": of}


def updates(fields: dict[str, Any], text: str, what: str) -> list[Any]:
    """Updates of all fields from an infotext; what does not fit stays as it is."""
    return filled(fields, fill.choose(fill.fields_of(text), what))
