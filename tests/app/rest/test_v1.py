"""Our own HTTP interface."""

import io
import json
import random
import threading

import httpx
import PIL.Image
import pytest

from app.pictures import encode
from tests.app.conftest import VALUES


def make(client, **values):
    answer = client.post("/v1/generate?wait=60", json=VALUES | values)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events_of(client, job_id, **headers):
    text = client.get(f"/v1/jobs/{job_id}/events", headers=headers).text
    blocks = [
        dict(line.split(": ", 1) for line in block.split("\n") if line[0] != ":")
        for block in text.split("\n\n")
        if block
    ]
    return [(block.get("id"), block["event"], json.loads(block["data"])) for block in blocks if "event" in block]


def test_a_job_is_accepted_followed_and_its_picture_fetched(client):
    answer = client.post("/v1/jobs", json={"kind": "generate", "params": {"prompt": "a fox", **VALUES}})
    assert answer.status_code == 202
    job_id = answer.json()["id"]
    assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
    events = events_of(client, job_id)
    names = [name for _, name, _ in events]
    assert {"progress", "picture"} <= set(names)
    assert names[-1] == "end"
    assert events[-1][2]["status"] == "succeeded"
    picture = next(data for _, name, data in events if name == "picture")["picture"]
    file = client.get(picture["url"])
    assert file.headers["content-type"] == "image/png"
    assert PIL.Image.open(io.BytesIO(file.content)).info["parameters"].startswith("a fox")


def test_events_resume_after_the_last_one_that_was_seen(client):
    job = make(client)
    every = events_of(client, job["id"])
    rest = events_of(client, job["id"], **{"Last-Event-ID": every[1][0]})
    assert rest == every[2:]


def test_the_gallery_marks_deletes_and_restores(client):
    number = make(client, prompt="a fox")["pictures"][0]["picture"]["id"]
    assert client.patch(f"/v1/pictures/{number}", json={"favourite": True}).json()["favourite"]
    assert [one["id"] for one in client.get("/v1/pictures?favourites=true").json()] == [number]
    client.delete(f"/v1/pictures/{number}")
    assert client.get("/v1/pictures").json() == []
    assert client.get("/v1/pictures?trashed=true").json()[0]["id"] == number
    client.post(f"/v1/pictures/{number}/restore")
    assert len(client.get("/v1/pictures?text=fox").json()) == 1
    assert client.get("/v1/pictures?text=dog").json() == []


def test_a_picture_that_is_not_kept_comes_as_data(client):
    (picture,) = make(client, save=False)["pictures"]
    assert picture["data"].startswith("data:image/png;base64,")
    assert client.get("/v1/pictures").json() == []


def test_waiting_jobs_are_moved_and_cancelled(client):
    long = client.post("/v1/generate", json=VALUES | {"steps": 900}).json()
    first, second = (client.post("/v1/generate", json=VALUES).json()["id"] for _ in range(2))
    moved = client.post(f"/v1/jobs/{second}/move", json={"place": 0}).json()
    assert moved["place"] == 1  # behind the running one
    assert client.post(f"/v1/jobs/{first}/cancel").json()["status"] == "canceled"
    client.post(f"/v1/jobs/{long['id']}/cancel")
    assert events_of(client, long["id"])[-1][2]["status"] == "canceled"
    assert events_of(client, second)[-1][2]["status"] == "succeeded"
    assert client.post(f"/v1/jobs/{second}/move", json={"place": 0}).status_code == 422


def test_models_settings_and_kinds_are_told(client):
    assert [model["name"] for model in client.get("/v1/catalog?kind=checkpoint").json() if not model["embedded"]] == [
        "tiny"
    ]
    assert client.patch("/v1/settings", json={"preview_every": 5}).json()["preview_every"] == 5
    assert client.get("/v1/kinds").json()["generate"]["properties"]["prompt"]
    assert client.get("/v1/health").json()["status"] == "ok"
    assert "/v1/generate" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/v1/generate", {"width": -8}, 422, "width"),
        ("POST", "/v1/generate", {"steps": "many"}, 422, "steps"),
        ("POST", "/v1/generate", {"prompt": "x" * 10**7}, 422, "prompt"),
        ("POST", "/v1/generate", {"nonsense": 1}, 422, "nonsense"),
        ("POST", "/v1/generate", [1], 422, "dictionary"),
        ("POST", "/v1/jobs", {"kind": "paint"}, 422, "generate"),
        ("GET", "/v1/jobs/none", None, 404, "no job"),
        ("POST", "/v1/jobs/none/cancel", None, 404, "no job"),
        ("GET", "/v1/pictures/99", None, 404, "no picture 99"),
        ("GET", "/v1/pictures/..%2f..%2fetc%2fpasswd/file", None, 404, ""),
        ("GET", "/v1/pictures/99/file", None, 404, "no picture 99"),
        ("GET", "/v1/catalog?kind=toys", None, 422, "checkpoint"),
        ("GET", "/v1/catalog/checkpoint/tiny/preview", None, 404, "no preview"),
        ("PATCH", "/v1/settings", {"dtype": "int3"}, 422, "bfloat16"),
        ("PATCH", "/v1/settings", {"colour": "red"}, 422, "no setting 'colour'"),
        ("PATCH", "/v1/settings", {"model_folders": ["/etc"]}, 403, "settings.json"),
        ("PATCH", "/v1/settings", {"data": "/etc"}, 422, "no setting 'data'"),
    ],
)
def test_what_cannot_be_is_answered_with_a_sentence_and_the_server_lives(client, method, path, body, status, words):
    answer = client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert client.get("/v1/health").status_code == 200


def test_a_broken_picture_is_refused(client):
    for bad in ("AAAA", "not base64!", encode(PIL.Image.new("RGB", (64, 64)))[:60]):
        assert client.post("/v1/generate", json={"init_image": bad}).status_code == 422


def test_a_full_queue_says_when_to_come_back(client, studio):
    studio.worker.limit = 1
    client.post("/v1/generate", json=VALUES | {"steps": 900})
    answers = [client.post("/v1/generate", json=VALUES) for _ in range(3)]
    full = answers[-1]
    assert full.status_code == 503
    assert int(full.headers["Retry-After"]) > 0
    assert "cancel some" in full.json()["detail"]


def test_many_clients_with_random_cancels_leave_every_job_in_one_final_state(live, studio):
    studio.worker.limit = studio.worker.keep = 1000
    rng, jobs, lock = random.Random(0), [], threading.Lock()

    def work(number):
        with httpx.Client(base_url=f"http://127.0.0.1:{live}", timeout=60) as client:
            for i in range(8):
                job = client.post("/v1/generate", json=VALUES | {"steps": 1, "seed": i, "save": False}).json()["id"]
                with lock:
                    jobs.append(job)
                    unwanted = rng.random() < 0.7
                if unwanted:
                    client.post(f"/v1/jobs/{job}/cancel")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in jobs:
        assert studio.job(job).wait(120)
    ends = [studio.job(job).status.value for job in jobs]
    assert len(ends) == len(set(jobs)) == 64
    assert set(ends) <= {"succeeded", "canceled"}
    past = {one.id: one.status for one in studio.store.history(1000)}
    assert [past[job] for job in jobs] == ends
