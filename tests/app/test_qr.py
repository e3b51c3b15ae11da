"""Art QR as the page, HTTP and the terminal ask for it."""

import json

import pytest
from pydantic import ValidationError

from app.cli import main
from app.jobs import Status
from app.requests_qr import QrParams
from app.services import kinds
from app.studio import results
from app.ui.qr import params_of, report
from mix.appflow.artqr import scan
from ppdiffusers.pipelines.infotext import extract
from tests.mix.appflow.artqr.test_repair import scene

LINK = "https://example.com/a"
PLAIN = {"model": "none", "size": 400, "version": 2, "seed": 1}
FORM = {
    **{"content": "link", "text": "example.com", "prompt": "a cat", "strength": 0.5, "candidates": 2.0},
    **{"ssid": "Guests", "password": "a;b:longer", "security": "WPA", "hidden": False, "version": 0.0, "size": 0.0},
    **{"mask_pattern": -1.0, "steps": 20.0, "seed": -1.0, "rounds": 6.0, "guidance": -0.1, "picture": None},
    **{f"contact_{name}": "" for name in ("name", "family", "organisation", "phone", "email", "url")},
    **{
        f"{name}_{n}": value
        for n in (1, 2)
        for name, value in (("control", ""), ("weight", 1), ("start", 0), ("end", 1))
    },
}


def test_qr_is_a_kind_of_job():
    assert kinds()["qr"] is QrParams


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": ""}, "nothing to say"),
        ({"text": LINK, "strength": 2}, "less than or equal to 1"),
        ({"text": LINK, "model": "none"}, "needs a picture"),
        ({"content": "wifi"}, "network's name"),
        ({"content": "contact", "contact": {"name": ""}}, "needs a name"),
        ({"text": LINK, "guidance_start": 0.9, "guidance_end": 0.1}, "before it starts"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(values, message):
    with pytest.raises(ValidationError, match=message):
        QrParams(**values)


def test_a_job_keeps_the_code_with_its_report(studio):
    job = studio.submit(QrParams(text=LINK, picture=scene(200), **PLAIN))
    assert job.wait(120)
    assert job.status is Status.SUCCEEDED, job.error
    (saved,) = results(job)
    told = saved.entry.extra["qr"]
    assert told["ok"]
    assert set(told["readers"]) == set(scan.readers())
    assert "QR text" in (extract(saved.entry.path) or "")
    assert scan.scan(saved.picture(), LINK, ()).ok
    page = report(told, "zh", saved.entry.id)
    assert "所有识读器都能扫描" in page
    assert 'role="alert"' in report(told | {"ok": False, "reasons": ["<b>"]}, "en", 1)


def test_the_form_asks_for_what_it_shows():
    asked = params_of(FORM)
    assert (asked.said(), asked.guidance, asked.candidates) == ("https://example.com", None, 2)
    wifi = params_of(FORM | {"content": "wifi"})
    assert wifi.said() == r"WIFI:T:WPA;S:Guests;P:a\;b\:longer;;"
    assert params_of(FORM | {"control_1": "monster"}).controls[0].model == "monster"


def test_the_command_line_writes_what_scans(tmp_path, capsys):
    scene(200).save(tmp_path / "a.png")
    words = ["qr", "--picture", str(tmp_path / "a.png"), "--model", "none", "--size", "400", "--version", "2"]
    words += ["--out", str(tmp_path / "qr.png"), "--data", str(tmp_path / "data"), "--json"]
    assert main([*words, "--text", LINK]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[-1]["path"] == str(tmp_path / "qr.png")
    assert told[-1]["report"]["ok"]
    assert main(words) == 1
    assert "one of --text" in capsys.readouterr().err
    assert main([*words, "--text", LINK, "--strength", "3"]) == 1
    assert "strength" in capsys.readouterr().err
