"""The Art QR tab: what the code says, what it shows, several candidates, and for each whether and how well it scans."""

from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.i18n import translate
from app.jobs import Job
from app.requests_qr import WITHOUT, ContactParams, QrParams, WifiParams
from app.studio import results
from app.ui.jobview import JobView
from app.ui.parts import EXAMPLES, QUIET, Page, painting_fields

if TYPE_CHECKING:
    from app.studio import Studio

CONTENTS = {"link": "Link", "text": "Text", "wifi": "Wi-Fi", "contact": "Contact"}
SECURITY = {"WPA": "WPA, WPA2, WPA3", "WEP": "WEP", "nopass": "Open"}
LEVELS = {"L": "Low (7 %)", "M": "Medium (15 %)", "Q": "Good (25 %)", "H": "High (30 %)"}
SHAPES = {"rounded": "Rounded", "square": "Square", "dot": "Dots"}
CONTACT = {
    "name": "Given name",
    "family": "Family name",
    "organisation": "Organisation",
    "phone": "Phone",
    "email": "E-mail",
    "url": "Website",
}


class QrView(JobView):
    """Shows the best candidate first: one that scans, and among these the nicest."""

    def present(self, job: Job, language: str) -> tuple[str, str, Any]:
        """As in other tabs, with the candidates ranked once the job is done."""
        status, stage, chosen = super().present(job, language)
        entries = [one.entry for one in results(job) if one.entry is not None]
        if not entries:
            return status, stage, chosen
        ranked = sorted(entries, key=lambda entry: -entry.extra.get("qr", {}).get("score", 0))
        return status, (self._stage(ranked, ranked[0].id) if job.status.final else stage), ranked[0].id


def build(studio: "Studio", ui: Page) -> None:
    """Form on the left, the code and its report on the right."""
    fields: dict[str, Any] = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=340):
            _says(ui, fields)
            example = _shows(ui, fields)
            with gr.Column(elem_classes="ms-card"):
                _code(ui, fields)
                _painting(ui, studio, fields)
                _expert(ui, studio, fields)
            ui.examples(example, fields["prompt"], fields["model"])
        with gr.Column(scale=6, min_width=340, elem_classes="ms-stage-column"):
            view = _results(ui, fields)
            _report(ui, view)
    kept = {name: part for name, part in fields.items() if name not in ("picture", "password")}
    ui.forms["qr"] = kept
    ui.remember("qr", kept)
    ui.takes("Art QR: this picture", fields["picture"], "qr")


# --- the form ---


def _says(ui: Page, fields: dict[str, Any]) -> None:
    """The payload, one group a kind."""
    t = ui.t
    with gr.Column(elem_classes="ms-card"):
        fields["content"] = gr.Radio(
            label=t("What the code says"), choices=ui.pairs(CONTENTS), value="link", elem_id="qr_content"
        )
        with gr.Column() as plain:
            fields["text"] = gr.Textbox(
                label=t("Link or text"),
                placeholder="https://example.com",
                info=t("Shorter links make coarser codes that leave more of the picture"),
                max_length=4000,
                lines=1,
                max_lines=6,
                elem_id="qr_text",
            )
        with gr.Column(visible=False) as wifi:
            with gr.Row():
                fields["ssid"] = gr.Textbox(label=t("Network name"), max_length=500, elem_id="qr_ssid")
                fields["password"] = gr.Textbox(
                    label=t("Password"), type="password", max_length=200, elem_id="qr_password"
                )
            with gr.Row():
                fields["security"] = gr.Dropdown(
                    label=t("Security"), choices=ui.pairs(SECURITY), value="WPA", elem_id="qr_security"
                )
                fields["hidden"] = gr.Checkbox(label=t("Hidden network"), value=False, elem_id="qr_hidden")
        with gr.Column(visible=False) as contact, gr.Row():
            for name, label in CONTACT.items():
                fields[f"contact_{name}"] = gr.Textbox(
                    label=t(label), max_length=500, min_width=150, elem_id=f"qr_contact_{name}"
                )

    def switch(content: str) -> tuple[Any, Any, Any]:
        return tuple(gr.update(visible=content in kinds) for kinds in (("link", "text"), ("wifi",), ("contact",)))  # type: ignore[return-value]

    fields["content"].change(switch, [fields["content"]], [plain, wifi, contact], queue=False, **QUIET)


def _shows(ui: Page, fields: dict[str, Any]) -> gr.Button:
    """Words or a picture, and the one slider; gives the button for examples."""
    t = ui.t
    with gr.Column(elem_classes="ms-card"):
        fields["prompt"] = gr.Textbox(
            label=t("What it shows"),
            placeholder=EXAMPLES[0],
            lines=2,
            max_lines=8,
            max_length=100_000,
            elem_id="qr_prompt",
            elem_classes="ms-prompt",
        )
        example = gr.Button(t("Try an example"), size="sm", elem_id="qr_example")
        fields["strength"] = gr.Slider(
            0, 1, value=0.5, step=0.05, label=t("Picture or code"),
            info=t("0 keeps nearly the picture, 1 is nearly the plain code"), elem_id="qr_strength",
        )  # fmt: skip
        fields["candidates"] = gr.Slider(
            1, 8, value=2, step=1, label=t("Candidates"), info=t("Ranked by look and by how surely they scan"),
            elem_id="qr_candidates",
        )  # fmt: skip
        with gr.Accordion(t("A picture of my own"), open=False, elem_classes="ms-fold", elem_id="qr_own"):
            fields["picture"] = gr.Image(
                label=t("Instead of a painted one"),
                type="pil",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=220,
                elem_id="qr_picture",
            )
    return example


def _code(ui: Page, fields: dict[str, Any]) -> None:
    t = ui.t
    with gr.Accordion(t("Code"), open=False, elem_classes="ms-fold", elem_id="qr_code"):
        with gr.Row():
            fields["error_correction"] = gr.Dropdown(
                label=t("Error correction"), choices=ui.pairs(LEVELS), value="M", elem_id="qr_level"
            )
            fields["shape"] = gr.Dropdown(
                label=t("Module shape"), choices=ui.pairs(SHAPES), value="rounded", elem_id="qr_shape"
            )
        with gr.Row():
            fields["version"] = gr.Slider(
                0, 40, value=0, step=1, label=t("Version"), info=t("0 chooses one"), elem_id="qr_version"
            )
            fields["mask_pattern"] = gr.Slider(
                -1, 7, value=-1, step=1, label=t("Mask pattern"), info=t("-1 takes the one that fits the picture"),
                elem_id="qr_mask",
            )  # fmt: skip
        fields["follow"] = gr.Checkbox(
            label=t("Let the unused part of the code follow the picture"), value=True, elem_id="qr_follow"
        )
        with gr.Row():
            fields["quiet"] = gr.Slider(0, 8, value=2, step=0.5, label=t("Quiet zone (modules)"), elem_id="qr_quiet")
            fields["size"] = gr.Slider(
                0, 2048, value=0, step=8, label=t("Side in pixels"), info=t("0: enough for the modules"),
                elem_id="qr_size",
            )  # fmt: skip
        with gr.Row():
            fields["scale"] = gr.Slider(0.2, 1, value=1, step=0.05, label=t("Part of the picture"), elem_id="qr_scale")
            fields["place_x"] = gr.Slider(0, 1, value=0.5, step=0.05, label=t("From the left"), elem_id="qr_x")
            fields["place_y"] = gr.Slider(0, 1, value=0.5, step=0.05, label=t("From the top"), elem_id="qr_y")


def _painting(ui: Page, studio: "Studio", fields: dict[str, Any]) -> None:
    t = ui.t
    with gr.Accordion(t("Model and sampling"), open=False, elem_classes="ms-fold", elem_id="qr_painting"):
        fields |= painting_fields(ui, "qr", ("None: only with my own picture", WITHOUT))


def _expert(ui: Page, studio: "Studio", fields: dict[str, Any]) -> None:
    """How the model is led, and ControlNets where there are any."""
    t = ui.t
    with gr.Accordion(t("Expert"), open=False, elem_classes="ms-fold", elem_id="qr_expert"):
        with gr.Row():
            fields["guidance"] = gr.Slider(
                -0.1, 4, value=-0.1, step=0.1, label=t("Guidance"),
                info=t("How strongly the model is led; below 0 follows the slider, 0 is off"), elem_id="qr_guidance",
            )  # fmt: skip
            fields["redraw"] = gr.Slider(
                -0.05, 1, value=-0.05, step=0.05, label=t("Painted again"),
                info=t("While it is led; below 0 what suits the model, 0 leaves it out"), elem_id="qr_redraw",
            )  # fmt: skip
        with gr.Row():
            fields["guidance_start"] = gr.Slider(
                0, 1, value=0.2, step=0.05, label=t("Guidance from"), elem_id="qr_guidance_start"
            )
            fields["guidance_end"] = gr.Slider(
                0, 1, value=1, step=0.05, label=t("Guidance to"), elem_id="qr_guidance_end"
            )
            fields["rounds"] = gr.Slider(1, 20, value=8, step=1, label=t("Rounds of repair"), elem_id="qr_rounds")
        for unit in (1, 2):
            with gr.Row():
                fields[f"control_{unit}"] = ui.models(
                    "controlnet",
                    t("ControlNet that sees the code"),
                    [("Nothing", "")],
                    value="",
                    elem_id=f"qr_control_{unit}",
                )
                for name, label, value, most in (
                    ("weight", "Weight", 1.0 if unit == 1 else 0.2, 2),
                    ("start", "From", 0.0 if unit == 1 else 0.4, 1),
                    ("end", "To", 1.0 if unit == 1 else 0.8, 1),
                ):
                    fields[f"{name}_{unit}"] = gr.Slider(
                        0, most, value=value, step=0.05, label=t(label), min_width=90, elem_id=f"qr_{name}_{unit}"
                    )


# --- starting, results ---


def _results(ui: Page, fields: dict[str, Any]) -> JobView:
    with gr.Row(elem_id="qr_actions", elem_classes="ms-row-tight"):
        go = gr.Button(ui.t("Make the code"), variant="primary", elem_id="qr_go", elem_classes="ms-go", scale=3)
        stop = gr.Button(ui.t("Interrupt"), elem_id="qr_stop", elem_classes="ms-stop", scale=1, min_width=90)
    view = QrView(
        ui,
        "qr",
        "Your code appears here",
        "Give a link and say what it shows. Every code is read by several readers before you get it.",
    )
    names, parts = list(fields), list(fields.values())
    view.starts(go.click, lambda *values: params_of(dict(zip(names, values, strict=True))), parts)
    view.stops(stop)
    with gr.Row(elem_id="qr_send", elem_classes="ms-row-tight") as row:
        pass
    ui.sends(view.chosen, row)
    return view


def params_of(values: dict[str, Any]) -> QrParams:
    """The form's values as checked params. Raises ValueError with a sentence."""
    told = {name: values[name] for name in QrParams.model_fields if values.get(name) is not None}
    told |= {name: int(values[name]) for name in ("version", "mask_pattern", "size", "candidates", "steps", "seed")}
    told["rounds"] = int(values["rounds"])
    if values["content"] in ("wifi", "contact"):
        told.pop("text", None)
    if values["content"] == "wifi":
        told["wifi"] = WifiParams(
            name=values["ssid"] or "",
            password=values["password"] or "",
            security=values["security"],
            hidden=values["hidden"],
        )
    if values["content"] == "contact":
        told["contact"] = ContactParams(**{name: values[f"contact_{name}"] or "" for name in CONTACT})
    for name in ("guidance", "redraw"):
        if (values.get(name) or 0) < 0:
            told.pop(name, None)
    told["controls"] = [
        {"model": values[f"control_{n}"], **{name: values[f"{name}_{n}"] for name in ("weight", "start", "end")}}
        for n in (1, 2)
        if values[f"control_{n}"]
    ]
    return QrParams(**told)


def _report(ui: Page, view: JobView) -> None:
    """The scan report of the chosen candidate, and its siblings with their badges."""
    box = gr.HTML("", elem_id="qr_report")

    def show(chosen: Any, request: gr.Request) -> str:
        entry = ui.find(chosen)
        if entry is None or "qr" not in entry.extra:
            return ""
        language = ui.language(request)
        siblings = [one for one in ui.studio.store.find(limit=50) if one.job == entry.job and "qr" in one.extra]
        siblings = sorted(siblings, key=lambda one: -one.extra["qr"]["score"])
        return report(entry.extra["qr"], language, entry.id) + _badges(siblings, entry.id, language)

    # The stage changes too when a further candidate gets ready while the first one stays chosen.
    gr.on([view.chosen.change, view.stage.change], show, inputs=[view.chosen], outputs=[box], **QUIET)


def report(told: dict[str, Any], language: str, picture: int) -> str:
    """One code's report as HTML: the verdict, reasons in red where it failed, and the table of readers."""

    def t(text: str) -> str:
        return escape(translate(text, language))

    if told["ok"]:
        verdict = f'<p class="ms-scan ms-good" role="status"><b>{t("Scans with every reader")}</b></p>'
    else:
        fixes = "".join(f"<li>{t(reason)}</li>" for reason in told["reasons"])
        verdict = (
            f'<div class="ms-scan ms-problem" role="alert"><b>{t("This code does not scan with every reader")}</b>'
            f"<ul>{fixes}</ul></div>"
        )
    figures = (
        ("Distortions read", f"{told['rate']:.0%}"),
        ("Margin", f"{told['margin']:.0%}"),
        ("Like the picture without code", f"{told['similarity']:.0%}"),
        ("Rounds of repair", str(told["rounds"])),
        ("Version", f"{told['version']}, {t('mask pattern')} {told['mask_pattern']}"),
    )
    facts = " · ".join(f"{t(name)}: <b>{value}</b>" for name, value in figures)
    names = list(next(iter(told["readers"].values())))
    header = "".join(f"<th>{t(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{escape(reader)}</th>" + "".join(_cell(row[name]) for name in names) + "</tr>"
        for reader, row in told["readers"].items()
    )
    save = f'<a class="ms-link" href="/pictures/{picture}?download=1" download>{t("Download")}</a>'
    return (
        f'<div class="ms-card ms-qr-report">{verdict}<p class="ms-note">{facts} · {save}</p>'
        f'<div style="overflow-x:auto"><table class="ms-table"><thead><tr><th></th>{header}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div>"
    )


def _cell(right: bool) -> str:
    kind, mark = ("", "✓") if right else (' class="ms-problem"', "✗")
    return f'<td{kind} style="text-align:center">{mark}</td>'


def _badges(entries: list[Any], chosen: int, language: str) -> str:
    """One line a candidate, the best first."""
    if len(entries) < 2:
        return ""
    lines = []
    for entry in entries:
        told = entry.extra["qr"]
        word = translate("scans" if told["ok"] else "does not scan", language)
        kind = "" if told["ok"] else ' class="ms-problem"'
        mark = "<b>" if entry.id == chosen else ""
        end = "</b>" if mark else ""
        lines.append(
            f"<li>{mark}<span{kind}>{escape(word)}</span> · {told['rate']:.0%} · {told['similarity']:.0%}{end}</li>"
        )
    return f'<ol class="ms-note" aria-label="{escape(translate("Candidates", language))}">{"".join(lines)}</ol>'
