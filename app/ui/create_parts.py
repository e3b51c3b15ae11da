"""Sections of the Create form, each a function that adds its components to `fields`, and what the sections do alone."""

from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import PIL.Image
from gradio.components import Component

from app.pictures import open_file
from app.preprocess import PREPROCESSORS, preprocess
from app.ui import render
from app.ui.parts import QUIET, Page

if TYPE_CHECKING:
    from app.studio import Studio

PICTURES = ("init_image", "editor", "control_1_image", "control_2_image")
SIZES = {
    "512x512": (512, 512),
    "512x768": (512, 768),
    "768x512": (768, 512),
    "640x960": (640, 960),
    "1024x1024": (1024, 1024),
    "832x1216": (832, 1216),
    "1216x832": (1216, 832),
}
FITS = {"crop": "Crop to the size", "stretch": "Stretch to the size", "pad": "Fit inside, with borders"}
CONTENTS = {
    "original": "Keep what is there",
    "fill": "Fill from the surroundings",
    "latent noise": "Noise",
    "latent nothing": "Nothing",
}
WAYS = {
    "none": "As it is",
    "canny": "Edges (Canny)",
    "luminance": "Brightness",
    "invert": "Inverted drawing",
    "blur": "Blurred (tile)",
}
BALANCE = {"balanced": "Balanced", "prompt": "The prompt counts more", "control": "The control counts more"}
UPSCALERS = ("Latent", "Latent (nearest)", "Latent (bicubic)", "Lanczos", "Bicubic", "Nearest")
Fields = dict[str, Component]


def words(ui: Page, studio: "Studio", fields: Fields) -> dict[str, Any]:
    """Prompts and styles; gives the places where the tokens are counted."""
    t = ui.t
    fields["prompt"] = gr.Textbox(
        label=t("Prompt"),
        placeholder=t("A red fox asleep in the snow, morning light"),
        lines=3,
        max_lines=12,
        max_length=100_000,
        elem_id="create_prompt",
        elem_classes="ms-prompt",
    )
    counted = gr.HTML("", elem_id="create_tokens", elem_classes="ms-tokens")
    fields["example"] = gr.Button(t("Try an example"), size="sm", elem_id="create_example")
    fields["negative_prompt"] = gr.Textbox(
        label=t("Negative prompt"),
        placeholder=t("What should not be there"),
        lines=1,
        max_lines=8,
        max_length=100_000,
        elem_id="create_negative",
        elem_classes="ms-prompt",
    )
    against = gr.HTML("", elem_id="create_negative_tokens", elem_classes="ms-tokens")
    fields["styles"] = gr.Dropdown(
        label=t("Styles"),
        choices=[style.name for style in studio.styles()],
        multiselect=True,
        value=[],
        elem_id="create_styles",
    )
    return {"prompt": counted, "negative_prompt": against}


def start(ui: Page, fields: Fields) -> None:
    """From words only, from a picture, or a part of a picture anew."""
    t = ui.t
    modes = {"text": "Words only", "picture": "From a picture", "part": "Repaint a part"}
    fields["mode"] = gr.Radio(label=t("Start"), choices=ui.pairs(modes), value="text", elem_id="create_mode")
    with gr.Column(visible=False, elem_id="create_picture_part") as fields["picture_part"]:  # type: ignore[assignment]
        fields["init_image"] = gr.Image(
            label=t("Start picture"), type="pil", sources=["upload", "clipboard"], height=300, elem_id="create_init"
        )
    _repaint(ui, fields)
    with gr.Row(visible=False) as fields["strength_part"]:  # type: ignore[assignment]
        fields["strength"] = gr.Slider(
            0,
            1,
            value=0.75,
            step=0.01,
            label=t("Change"),
            info=t("0 keeps the picture, 1 forgets it"),
            elem_id="create_strength",
        )
        fields["fit"] = gr.Dropdown(
            label=t("Other proportions"), choices=ui.pairs(FITS), value="crop", elem_id="create_fit"
        )


def _repaint(ui: Page, fields: Fields) -> None:
    """The editor with its brush, and how the painted part is made anew."""
    t = ui.t
    with gr.Column(visible=False, elem_id="create_mask_part") as fields["mask_part"]:  # type: ignore[assignment]
        fields["editor"] = gr.ImageEditor(
            label=t("Paint over what is to be made anew"),
            type="pil",
            image_mode="RGBA",
            format="png",
            sources=("upload", "clipboard"),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=48, colors=["#e6a63c"], default_color="#e6a63c", color_mode="fixed"),
            eraser=gr.Eraser(default_size=48),
            height=440,
            elem_id="create_editor",
        )
        with gr.Row():
            fields["masked_content"] = gr.Dropdown(
                label=t("Under the paint"),
                choices=ui.pairs(CONTENTS),
                value="original",
                elem_id="create_masked_content",
            )
            fields["mask_blur"] = gr.Slider(0, 64, value=4, step=1, label=t("Soft edge"), elem_id="create_mask_blur")
        with gr.Row():
            fields["only_masked"] = gr.Checkbox(
                label=t("Only this part, at full size"), value=False, elem_id="create_only_masked"
            )
            fields["invert_mask"] = gr.Checkbox(label=t("Keep the paint, redo the rest"), elem_id="create_invert_mask")
        fields["padding"] = gr.Slider(
            0, 256, value=32, step=4, label=t("Pixels around the part"), visible=False, elem_id="create_padding"
        )


def wire_start(fields: Fields, sections: dict[str, Any]) -> None:
    """Show what the chosen start needs."""

    def show(mode: str) -> list[Any]:
        shown = (mode == "picture", mode == "part", mode != "text")
        return [gr.update(visible=one) for one in shown]

    outputs = [sections[key] for key in ("picture_part", "mask_part", "strength_part")]
    fields["mode"].change(show, inputs=[fields["mode"]], outputs=outputs, queue=False, **QUIET)  # type: ignore[attr-defined]
    fields["only_masked"].change(  # type: ignore[attr-defined]
        lambda on: gr.update(visible=on),
        inputs=[fields["only_masked"]],
        outputs=[fields["padding"]],
        queue=False,
        **QUIET,
    )


def picture_and_mask(value: dict[str, Any] | None) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """The editor's picture and its mask (white is made anew), of one size. Raises ValueError with a sentence."""
    background = (value or {}).get("background")
    if background is None:
        raise ValueError("Choose the picture that you want to repaint a part of.")
    mask = PIL.Image.new("L", background.size, 0)
    for layer in (value or {}).get("layers") or []:
        alpha = np.asarray(layer.convert("RGBA").getchannel("A"))
        painted = PIL.Image.fromarray(np.where(alpha > 32, 255, 0).astype(np.uint8))
        if painted.size != background.size:
            painted = painted.resize(background.size, PIL.Image.Resampling.NEAREST)
        mask.paste(255, mask=painted)
    if mask.getbbox() is None:
        raise ValueError("Paint over the part that is to be made anew.")
    return background.convert("RGB"), mask


def shape(ui: Page, studio: "Studio", fields: Fields) -> None:
    """Model, size, number and seed."""
    t = ui.t
    told = studio.runtime.recommended()
    side = {"width": int(told.get("width") or 512), "height": int(told.get("height") or 512)}
    with gr.Row(elem_classes="ms-row-tight"):
        fields["model"] = ui.models(
            "checkpoint", t("Model"), value=_first(studio), elem_id="create_model", scale=3, min_width=200
        )
        fields["vae"] = ui.models(
            "vae", "VAE", [("The model's own", "")], value="", elem_id="create_vae", scale=2, min_width=140
        )
    fields["note"] = gr.HTML(model_note(ui, ""), elem_id="create_model_note")
    with gr.Row(elem_classes="ms-row-tight"):
        fields["width"] = gr.Slider(64, 2048, value=side["width"], step=8, label=t("Width"), elem_id="create_width")
        fields["height"] = gr.Slider(64, 2048, value=side["height"], step=8, label=t("Height"), elem_id="create_height")
    with gr.Row(elem_classes="ms-row-tight"):
        fields["preset"] = gr.Dropdown(
            label=t("Usual sizes"), choices=list(SIZES), value=None, elem_id="create_sizes", scale=3, min_width=140
        )
        fields["swap"] = gr.Button(t("Swap sides"), size="sm", elem_id="create_swap", scale=1, min_width=90)
    with gr.Row(elem_classes="ms-row-tight"):
        fields["count"] = gr.Slider(1, 16, value=1, step=1, label=t("Pictures"), elem_id="create_count")
        fields["batch_size"] = gr.Slider(1, 8, value=1, step=1, label=t("At once"), elem_id="create_batch")
    with gr.Row(elem_classes="ms-row-tight"):
        fields["seed"] = gr.Number(
            label=t("Seed"), value=-1, precision=0, minimum=-1, maximum=2**32 - 1, info=t("-1 is a new one each time"),
            elem_id="create_seed", scale=3, min_width=140,
        )  # fmt: skip
        fields["dice"] = gr.Button(t("Random"), size="sm", elem_id="create_dice", scale=1, min_width=80)
        fields["again"] = gr.Button(t("Last one"), size="sm", elem_id="create_again", scale=1, min_width=80)


def model_note(ui: Page, name: str) -> str:
    """What the makers of a model say about it."""
    note = ui.studio.runtime.about(name or "").note
    return f'<p class="ms-note">{render.both(note)}</p>' if note else ""


def _first(studio: "Studio") -> str | None:
    try:
        return studio.runtime.choose().name
    except (KeyError, ValueError):
        return None


def wire_size(fields: Fields, extras: dict[str, Any]) -> None:
    """Presets, swap, and a random seed."""
    sides = [fields["width"], fields["height"]]
    extras["preset"].input(
        lambda name: SIZES.get(name, (gr.skip(), gr.skip())),
        inputs=[extras["preset"]],
        outputs=sides,
        queue=False,
        **QUIET,
    )
    extras["swap"].click(None, inputs=sides, outputs=sides, js="(w, h) => [h, w]", **QUIET)
    extras["dice"].click(None, outputs=[fields["seed"]], js="() => -1", **QUIET)


def sampling(ui: Page, studio: "Studio", fields: Fields) -> None:
    """How the picture is walked to."""
    from ppdiffusers.sampling.menu import AUTOMATIC, SAMPLERS, SCHEDULES

    t, told = ui.t, studio.runtime.recommended()
    with gr.Accordion(t("Sampling"), open=False, elem_classes="ms-fold", elem_id="create_sampling"):
        with gr.Row():
            fields["sampler"] = gr.Dropdown(
                label=t("Sampler"), choices=list(SAMPLERS), value=told["sampler"], elem_id="create_sampler"
            )
            schedules = [(t("Automatic"), AUTOMATIC), *((name, name) for name in SCHEDULES)]
            fields["schedule"] = gr.Dropdown(
                label=t("Schedule"), choices=schedules, value=told.get("schedule", AUTOMATIC), elem_id="create_schedule"
            )
        with gr.Row():
            fields["steps"] = gr.Slider(1, 150, value=told["steps"], step=1, label=t("Steps"), elem_id="create_steps")
            fields["cfg_scale"] = gr.Slider(
                0,
                30,
                value=told["cfg_scale"],
                step=0.5,
                label=t("CFG scale"),
                info=t("How much the prompt counts"),
                elem_id="create_cfg",
            )
        with gr.Row():
            fields["clip_skip"] = gr.Slider(1, 4, value=1, step=1, label=t("Clip skip"), elem_id="create_clip_skip")
            fields["variation_strength"] = gr.Slider(
                0,
                1,
                value=0,
                step=0.01,
                label=t("Variation"),
                info=t("Mixes a second seed in"),
                elem_id="create_variation",
            )
        fields["variation_seed"] = gr.Number(
            label=t("Variation seed"),
            value=-1,
            precision=0,
            minimum=-1,
            maximum=2**32 - 1,
            elem_id="create_variation_seed",
        )


def second_pass(ui: Page, fields: Fields) -> None:
    """Hires fix."""
    t = ui.t
    with gr.Accordion(
        t("Larger: a second pass (hires fix)"), open=False, elem_classes="ms-fold", elem_id="create_hires_fold"
    ):
        fields["hires"] = gr.Checkbox(label=t("Make it larger in a second pass"), value=False, elem_id="create_hires")
        with gr.Row():
            fields["hires_scale"] = gr.Slider(1, 4, value=2, step=0.05, label=t("Scale"), elem_id="create_hires_scale")
            fields["hires_strength"] = gr.Slider(
                0, 1, value=0.5, step=0.01, label=t("Change"), elem_id="create_hires_strength"
            )
        with gr.Row():
            fields["hires_steps"] = gr.Slider(
                0,
                150,
                value=0,
                step=1,
                label=t("Steps"),
                info=t("0: as many as in the first pass"),
                elem_id="create_hires_steps",
            )
            fields["hires_upscaler"] = gr.Dropdown(
                label=t("Enlarged by"), choices=list(UPSCALERS), value="Latent", elem_id="create_hires_upscaler"
            )


def control(ui: Page, studio: "Studio", fields: Fields, n: int) -> None:
    """One ControlNet unit."""
    t, key = ui.t, f"control_{n}"
    names = [model.name for model in studio.catalog.list("controlnet") if not model.problem]
    title = t("ControlNet") if n == 1 else t("Second ControlNet")
    with gr.Accordion(title, open=False, elem_classes="ms-fold", elem_id=f"create_{key}_fold"):
        fields[key] = gr.Checkbox(label=t("Use this unit"), value=False, elem_id=f"create_{key}")
        with gr.Row():
            fields[f"{key}_model"] = ui.models(
                "controlnet", t("ControlNet model"), value=names[0] if names else None, elem_id=f"create_{key}_model"
            )
            ways = {name: WAYS.get(name, name) for name in PREPROCESSORS}
            fields[f"{key}_preprocessor"] = gr.Dropdown(
                label=t("The picture is read as"), choices=ui.pairs(ways), value="none", elem_id=f"create_{key}_way"
            )
        with gr.Row():
            fields[f"{key}_image"] = gr.Image(
                label=t("Control picture"),
                type="pil",
                sources=["upload", "clipboard"],
                height=220,
                elem_id=f"create_{key}_image",
            )
            fields[f"{key}_seen"] = gr.Image(
                label=t("What the ControlNet sees"), interactive=False, height=220, elem_id=f"create_{key}_seen"
            )
        with gr.Row():
            fields[f"{key}_low"] = gr.Slider(0, 255, value=100, step=1, label=t("Low"), elem_id=f"create_{key}_low")
            fields[f"{key}_high"] = gr.Slider(0, 255, value=200, step=1, label=t("High"), elem_id=f"create_{key}_high")
        with gr.Row():
            fields[f"{key}_weight"] = gr.Slider(
                0, 2, value=1, step=0.05, label=t("Weight"), elem_id=f"create_{key}_weight"
            )
            fields[f"{key}_start"] = gr.Slider(0, 1, value=0, step=0.01, label=t("From"), elem_id=f"create_{key}_start")
            fields[f"{key}_end"] = gr.Slider(0, 1, value=1, step=0.01, label=t("To"), elem_id=f"create_{key}_end")
        fields[f"{key}_mode"] = gr.Radio(
            label=t("Where they disagree"), choices=ui.pairs(BALANCE), value="balanced", elem_id=f"create_{key}_mode"
        )


def wire_control(fields: Fields, pictures: dict[str, Any], extras: dict[str, Any]) -> None:
    """Show what the net will see."""

    def see(image: PIL.Image.Image | None, way: str, low: float, high: float) -> PIL.Image.Image | None:
        return None if image is None else preprocess(way, image, low, high)

    for n in (1, 2):
        inputs = [
            pictures[f"control_{n}_image"],
            *(fields[f"control_{n}_{name}"] for name in ("preprocessor", "low", "high")),
        ]
        triggers = [pictures[f"control_{n}_image"].change, fields[f"control_{n}_preprocessor"].change]  # type: ignore[attr-defined]
        triggers += [fields[f"control_{n}_{name}"].release for name in ("low", "high")]  # type: ignore[attr-defined]
        gr.on(triggers, see, inputs=inputs, outputs=[extras[f"control_{n}_seen"]], concurrency_limit=None, **QUIET)


LORA_CLICK = """
element.addEventListener('click', event => {
  const card = event.target.closest('[data-lora]');
  if (!card) return;
  window.mix.lora(card.dataset.lora, card.dataset.weight, card.dataset.words);
});
"""


def loras(ui: Page, studio: "Studio") -> None:
    """Cards that put a LoRA's tag and trigger words into the prompt, and take them out again."""
    t = ui.t
    with gr.Accordion("LoRA", open=False, elem_classes="ms-fold", elem_id="create_loras"):
        with gr.Row(elem_classes="ms-row-tight"):
            search = gr.Textbox(
                label=t("Find a LoRA"),
                placeholder=t("Name"),
                lines=1,
                elem_id="create_lora_search",
                scale=4,
                min_width=160,
            )
            again = gr.Button(t("Look again"), size="sm", elem_id="create_lora_refresh", scale=1, min_width=100)
        cards = gr.HTML(lora_cards(studio, ""), elem_id="create_lora_cards", js_on_load=LORA_CLICK)
        gr.Markdown(
            t("A click puts the LoRA and its trigger words into the prompt, another takes them out."),
            elem_classes="ms-note",
        )
    search.change(lambda text: lora_cards(studio, text), inputs=[search], outputs=[cards], queue=False, **QUIET)

    def refresh(text: str) -> str:
        studio.catalog.refresh()
        return lora_cards(studio, text)

    again.click(refresh, inputs=[search], outputs=[cards], **QUIET)


def lora_cards(studio: "Studio", text: str) -> str:
    """The LoRAs whose name has all these words."""
    found = [
        model
        for model in studio.catalog.list("lora")
        if all(word in f"{model.name} {model.alias}".lower() for word in text.lower().split())
    ]
    if not found:
        return f'<p class="ms-note">{render.both("No LoRA here yet. The Models tab gets some.")}</p>'
    return f'<div class="ms-cards">{"".join(render.lora_card(model) for model in found[:200])}</div>'


def about(ui: Page, view: Any, fields: Fields, extras: dict[str, Any]) -> None:
    """Below the stage: what can be done with the picture, and the settings that made it."""
    from app.ui.create import updates

    t = ui.t
    row = gr.Row(elem_id="create_send", elem_classes="ms-row-tight ms-wrap")
    with row:
        star = gr.Button(t("Favourite"), size="sm", elem_id="create_star", elem_classes="ms-tiny")
        enlarge = gr.Button(t("Enlarge"), size="sm", elem_id="create_enlarge", elem_classes="ms-tiny")
    view.starts_jobs(enlarge.click, _enlarge(ui), [view.chosen, fields["hires_scale"]])
    ui.sends(view.chosen, row)
    with gr.Accordion(t("Settings of this picture"), open=False, elem_classes="ms-fold", elem_id="create_about"):
        text = gr.HTML("", elem_id="create_infotext")
        use_buttons(ui, "create", view.chosen, fields)
    view.chosen.change(lambda chosen: infotext(ui, chosen), inputs=[view.chosen], outputs=[text], queue=False, **QUIET)

    def favour(chosen: int | None, request: gr.Request) -> None:
        entry = ui.entry(chosen, request)
        studio = ui.studio
        studio.store.favour(entry.id, not entry.favourite)
        gr.Info(ui.say("No favourite any more." if entry.favourite else "Kept as a favourite.", request), duration=3)

    star.click(favour, inputs=[view.chosen], queue=False, **QUIET)

    def last(chosen: int | None) -> list[Any]:
        entry = ui.find(chosen)
        return updates(fields, entry.infotext if entry else "", "seed")

    extras["again"].click(last, inputs=[view.chosen], outputs=list(fields.values()), queue=False, **QUIET)


def _enlarge(ui: Page) -> Any:
    """A second, larger pass over a finished picture."""

    def submit(owner: str, chosen: int | None, scale: float) -> Any:
        from app.requests_enlarge import EnlargeParams

        entry = ui.find(chosen)
        if entry is None:
            raise ValueError("Choose a picture first.")
        image = open_file(entry.path)
        return ui.studio.submit(EnlargeParams(image=image, scale=scale, infotext=entry.infotext), owner)

    return submit


def infotext(ui: Page, chosen: int | None) -> str:
    """The settings of a picture as a block of text."""
    entry = ui.find(chosen)
    return render.text(entry.infotext) if entry is not None and entry.infotext else ""


USES = {"all": "Use all", "remix": "Use all but the seed", "prompt": "Use the prompt", "seed": "Use the seed"}


def use_buttons(ui: Page, where: str, chosen: Any, fields: Fields) -> None:
    """Buttons that bring a picture's settings back into the Create form."""
    from app.ui.create import updates

    with gr.Row(elem_classes="ms-row-tight ms-wrap"):
        for what, label in USES.items():
            button = gr.Button(ui.t(label), size="sm", elem_id=f"{where}_use_{what}", elem_classes="ms-tiny")

            def use(number: int | None, request: gr.Request, what: str = what) -> list[Any]:
                return [gr.Tabs(selected="create"), *updates(fields, ui.entry(number, request).infotext, what)]

            button.click(use, inputs=[chosen], outputs=[ui.tabs, *fields.values()], queue=False, **QUIET)
