"""Pieces of HTML that the page shows: status, stage, tiles, cards. All that comes from outside is escaped."""

import base64
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

import PIL.Image

from app.i18n import LANGUAGES, translate

if TYPE_CHECKING:
    from app.catalog import Model
    from app.jobs import Job
    from app.store import Entry


def both(text: str) -> str:
    """Words in every language at once, of which the page shows those of its language."""
    return "".join(f'<span lang="{code}">{escape(translate(text, code))}</span>' for code in LANGUAGES)


def seconds(value: float, language: str) -> str:
    """A duration as people say it."""
    value = max(0.0, value)
    if value < 10:
        return translate("{n} s", language).format(n=f"{value:.1f}")
    if value < 90:
        return translate("{n} s", language).format(n=round(value))
    return translate("{n} min", language).format(n=round(value / 60))


def as_data(image: PIL.Image.Image, side: int = 640) -> str:
    """A small picture as a data URI."""
    picture = image.convert("RGB")
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def sheet(images: Sequence[PIL.Image.Image]) -> PIL.Image.Image:
    """Several pictures of one size beside each other."""
    if len(images) == 1:
        return images[0]
    columns = min(len(images), 2 if len(images) <= 4 else 3)
    width, height = images[0].size
    rows = -(-len(images) // columns)
    whole = PIL.Image.new("RGB", (columns * width, rows * height))
    for i, image in enumerate(images):
        whole.paste(image, (i % columns * width, i // columns * height))
    return whole


def status(job: "Job", language: str, place: int | None, wait: float | None) -> str:
    """What a job does at present: waiting, how far it is, how it ended."""
    from app.jobs import Status

    def t(text: str, **values: Any) -> str:
        return escape(translate(text, language).format(**values))

    notes = _notes(job, language)
    if job.status is Status.FAILED:
        hint = f"<br>{escape(translate(job.hint, language))}" if job.hint else ""
        reason = escape(translate(job.error or "", language))
        title = t("That did not work")
        return f'<div class="ms-status ms-failed" role="alert"><b>{title}</b>: {reason}{hint}{notes}</div>'
    if job.status is Status.CANCELED:
        return _line(t("Cancelled"), "", None, notes)
    if job.status is Status.SUCCEEDED:
        took = seconds((job.ended or 0) - (job.started or 0), language)
        return _line(t("Done"), took, None, notes)
    if job.status is Status.QUEUED:
        before = place or 0
        told = t("Next in line") if before <= 1 else t("{n} jobs before this one", n=before)
        return _line(told, t("about {t}", t=seconds(wait, language)) if wait else "", -1.0, notes)
    if job.cancelled:
        return _line(t("Stopping after this step"), "", -1.0, notes)
    rest = job.remaining
    left = t("about {t} left", t=seconds(rest, language)) if rest is not None else ""
    part = job.done / job.of if job.of else -1.0
    return _line(escape(translate(_doing(job), language)), left, part, notes)


def _doing(job: "Job") -> str:
    for event in reversed(job.events):
        if getattr(event, "note", "") and hasattr(event, "of"):
            return str(event.note)
    return "Working"


def _notes(job: "Job", language: str) -> str:
    told = [e.text for e in list(job.events) if getattr(e, "warning", False) and hasattr(e, "text")]
    if not told:
        return ""
    return "<ul>" + "".join(f"<li>{escape(translate(text, language))}</li>" for text in dict.fromkeys(told)) + "</ul>"


def _line(left: str, right: str, part: float | None, notes: str) -> str:
    bar = ""
    if part is not None and part < 0:
        bar = '<div class="ms-bar ms-waiting" role="progressbar"><i></i></div>'
    elif part is not None:
        percent = round(min(1.0, part) * 100)
        bar = f'<div class="ms-bar" role="progressbar" aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
    return (
        f'<div class="ms-status"><div class="ms-line"><span>{left}</span><span>{right}</span></div>{bar}{notes}</div>'
    )


def trouble(text: str, language: str) -> str:
    """A refusal before there is a job."""
    return (
        f'<div class="ms-status ms-failed" role="alert"><b>{escape(translate("That did not work", language))}</b>: '
        f"{escape(translate(text, language))}</div>"
    )


def notice(text: str) -> str:
    """A plain sentence in the status place."""
    return f'<div class="ms-status">{escape(text)}</div>' if text else ""


def _yes(value: bool) -> str:
    return "true" if value else "false"


def tile(entry: "Entry", chosen: bool, words: bool = False) -> str:
    """A picture as a button."""
    told = escape(entry.prompt.strip()[:160] or entry.name, quote=True)
    star = '<span class="ms-star" aria-hidden="true">★</span>' if entry.favourite else ""
    line = f"<small>{told}</small>" if words and entry.prompt.strip() else ""
    return (
        f'<button type="button" class="ms-tile" data-pick="{entry.id}" title="{told}" aria-pressed="{_yes(chosen)}">'
        f'<img src="/pictures/{entry.id}/thumb" alt="{told}" loading="lazy">{star}{line}</button>'
    )


def stage(entries: Sequence["Entry"], chosen: int | None, live: str = "", empty: tuple[str, str] = ("", "")) -> str:
    """The large picture (a preview while a job runs, else the chosen one) and the strip below."""
    picked = next((entry for entry in entries if entry.id == chosen), entries[0] if entries else None)
    if live:
        inside = f'<div class="ms-frame ms-live"><img src="{live}" alt=""></div>'
    elif picked is not None:
        told = escape(picked.prompt.strip()[:300] or picked.name, quote=True)
        small = ' class="ms-small"' if picked.width <= 512 else ""
        inside = (
            f'<div class="ms-frame"><a href="/pictures/{picked.id}" target="_blank" rel="noopener">'
            f'<img{small} src="/pictures/{picked.id}" alt="{told}" width="{picked.width}" height="{picked.height}" '
            'style="height:auto"></a></div>'
        )
    else:
        inside = f'<div class="ms-frame"><div class="ms-empty"><b>{escape(empty[0])}</b>{escape(empty[1])}</div></div>'
    strip = ""
    if len(entries) > 1:
        tiles = "".join(tile(entry, picked is not None and entry.id == picked.id) for entry in entries)
        strip = f'<div class="ms-strip">{tiles}</div>'
    return f'<div class="ms-stage">{inside}{strip}</div>'


def grid(entries: Iterable["Entry"], chosen: int | None, empty: str) -> str:
    """Many pictures as tiles."""
    tiles = "".join(tile(entry, entry.id == chosen, words=True) for entry in entries)
    return f'<div class="ms-grid">{tiles}</div>' if tiles else f'<div class="ms-empty">{escape(empty)}</div>'


def moment(when: float) -> str:
    """A point in time."""
    return datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M")


def text(words: str) -> str:
    """Text as it stands."""
    return f'<div class="ms-text">{escape(words)}</div>'


def lora_card(model: "Model") -> str:
    """A LoRA as a button that puts it into the prompt."""
    weight = model.info.get("preferred weight") or 1
    words = str(model.info.get("activation text") or "")
    told = {"data-lora": model.name, "data-weight": f"{weight:g}", "data-words": words, "title": words or model.name}
    inside = "".join(f' {key}="{escape(value, quote=True)}"' for key, value in told.items())
    return f'<button type="button" class="ms-model" aria-pressed="false"{inside}>{_card_inside(model)}</button>'


def model_card(model: "Model", pressed: bool = False) -> str:
    """A model as a button with its preview, its family and what is wrong with it."""
    key = escape(f"{model.kind}/{model.name}", quote=True)
    return (
        f'<button type="button" class="ms-model" data-pick="{key}" aria-pressed="{_yes(pressed)}">'
        f"{_card_inside(model)}</button>"
    )


def _card_inside(model: "Model") -> str:
    picture = escape(model.name[:1].upper())
    if model.preview:
        picture = f'<img src="/previews/{model_key(model)}" alt="" loading="lazy">'
    facts = " · ".join(filter(None, (model.family, size(model.size))))
    below = (
        f'<span class="ms-problem">{escape(model.problem)}</span>' if model.problem else f"<span>{escape(facts)}</span>"
    )
    return f'<span class="ms-pic">{picture}</span><span class="ms-words"><b>{escape(model.name)}</b>{below}</span>'


def model_key(model: "Model") -> str:
    """A model's place in the address of its preview."""
    from urllib.parse import quote

    return quote(f"{model.kind}/{model.name}")


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
