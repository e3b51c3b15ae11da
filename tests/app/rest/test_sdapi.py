"""The WebUI's HTTP interface, as its clients use it: `webuiapi` unchanged against a live server, and raw bodies."""

import base64
import io
import threading
import time

import numpy as np
import PIL.Image
import pytest
import webuiapi

from app.pictures import encode
from ppdiffusers.pipelines.infotext import parse

QUICK = {"steps": 2, "width": 64, "height": 64, "seed": 1, "sampler_name": "Euler"}
PHOTO = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.fixture
def api(live):
    return webuiapi.WebUIApi(port=live)


def post(client, path, **body):
    answer = client.post(f"/sdapi/v1/{path}", json=QUICK | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def pictures(answer):
    return [PIL.Image.open(io.BytesIO(base64.b64decode(image))) for image in answer["images"]]


def test_a_real_client_makes_changes_and_reads_pictures(api):
    made = api.txt2img(prompt="a fox", negative_prompt="blurry", **QUICK)
    assert made.image.size == (64, 64)
    assert made.info["seed"] == 1
    assert made.info["infotexts"][0].startswith("a fox\nNegative prompt: blurry\nSteps: 2")
    changed = api.img2img(images=[made.image], prompt="a dog", denoising_strength=0.5, **QUICK)
    assert changed.image.size == (64, 64)
    told = api.png_info(made.image)
    assert "Seed: 1" in told.info
    assert told.parameters["Sampler"] == "Euler"
    mask = PIL.Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    painted = api.img2img(images=[PHOTO], mask_image=mask, inpainting_fill=1, mask_blur=0, prompt="x", **QUICK)
    assert np.array_equal(np.asarray(painted.image)[:, 40:], np.asarray(PHOTO)[:, 40:])


def test_a_real_client_reads_lists_and_sets_options(api):
    assert "tiny" in api.util_get_model_names()
    assert {"Euler a", "DPM++ 2M"} <= set(api.util_get_sampler_names())
    assert "karras" in api.util_get_scheduler_names()
    assert "Lanczos" in [one["name"] for one in api.get_upscalers()]
    for empty in (api.get_loras, api.get_sd_vae, api.get_hypernetworks, api.get_face_restorers):
        assert empty() == []
    assert api.get_embeddings()["loaded"] == {}
    assert api.get_prompt_styles()[0]["name"]
    api.set_options({"sd_model_checkpoint": "tiny", "CLIP_stop_at_last_layers": 2, "unknown_option": 1})
    assert api.get_options()["sd_model_checkpoint"] == "tiny"
    assert "Clip skip: 2" in api.txt2img(prompt="x", **QUICK).info["infotexts"][0]
    assert api.get_cmd_flags()["api"]
    assert api.get_memory()["ram"]["total"]
    assert api.refresh_checkpoints() == {}
    assert api.controlnet_version() >= 2
    assert "canny" in api.controlnet_module_list()
    assert api.controlnet_detect([PHOTO], module="canny").image.size == (64, 64)


def test_a_real_client_enlarges(api):
    single = api.extra_single_image(PHOTO, upscaler_1="Lanczos", upscaling_resize=1.5)
    assert single.image.size == (96, 96)
    batch = api.extra_batch_images(
        [PHOTO, PHOTO], upscaler_1="Nearest", resize_mode=1, upscaling_resize_w=128, upscaling_resize_h=64
    )
    assert [image.size for image in batch.images] == [(128, 64)] * 2


def test_a_real_client_watches_and_interrupts(api):
    found = {}
    thread = threading.Thread(
        target=lambda: found.update(r=api.txt2img(prompt="x", n_iter=3, **QUICK | {"steps": 400}))
    )
    thread.start()
    seen = {}
    for _ in range(600):
        seen = webuiapi.WebUIApi.get_progress(api)
        if seen["current_image"]:
            break
        time.sleep(0.05)
    assert 0 < seen["progress"] < 1
    assert seen["state"]["job_count"] == 1
    assert PIL.Image.open(io.BytesIO(base64.b64decode(seen["current_image"]))).size[0] > 0
    api.interrupt()
    thread.join(60)
    assert found["r"].info["interrupted"]
    assert api.get_progress()["state"]["job_count"] == 0


def test_batches_styles_hires_and_overrides(client):
    answer = post(
        client,
        "txt2img",
        prompt="a fox",
        batch_size=2,
        n_iter=2,
        styles=["Ink"],
        enable_hr=True,
        hr_resize_x=128,
        hr_upscaler="Latent (antialiased)",
        hr_second_pass_steps=1,
        denoising_strength=0.6,
        override_settings={"randn_source": "GPU", "CLIP_stop_at_last_layers": 2},
    )
    made = pictures(answer)
    assert [image.size for image in made] == [(128, 128)] * 4
    texts = [parse(image.info["parameters"]) for image in made]
    assert [text.values["Seed"] for text in texts] == ["1", "2", "3", "4"]
    assert texts[0].prompt == "a fox, ink drawing, fine lines, high contrast"
    assert texts[0].values["Hires steps"] == "1"
    assert "RNG" not in texts[0].values  # the WebUI's default is not written
    assert texts[0].values["Clip skip"] == "2"


def test_pictures_are_kept_only_where_it_is_asked(client):
    post(client, "txt2img")
    assert client.get("/v1/pictures").json() == []
    assert post(client, "txt2img", save_images=True, send_images=False)["images"] == []
    assert len(client.get("/v1/pictures").json()) == 1


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("txt2img", {"sampler_name": "Oiler"}, "Euler"),
        ("txt2img", {"tiling": True}, "tiling"),
        ("txt2img", {"script_name": "prompt matrix"}, "prompt matrix"),
        ("txt2img", {"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, "ADetailer"),
        ("txt2img", {"width": -1}, "width"),
        ("txt2img", {"override_settings": {"sd_model_checkpoint": "none such"}}, "tiny"),
        ("txt2img", {"alwayson_scripts": {"controlnet": {"args": [{"model": "x", "module": "openpose"}]}}}, "openpose"),
        ("img2img", {"init_images": []}, "init_images"),
        ("img2img", {"init_images": ["http://127.0.0.1/a.png"]}, "not followed"),
        ("img2img", {"init_images": ["AAAA"]}, "not a picture"),
        ("extra-single-image", {"image": encode(PHOTO), "upscaler_1": "LDSR"}, "Lanczos"),
        ("extra-single-image", {"image": encode(PHOTO), "gfpgan_visibility": 1}, "face"),
        ("png-info", {"image": ""}, "picture"),
    ],
)
def test_what_cannot_be_done_is_said(client, path, body, words):
    answer = client.post(f"/sdapi/v1/{path}", json=QUICK | body)
    assert 400 <= answer.status_code < 500
    assert words in answer.json()["detail"]


def test_scripts_that_ask_for_nothing_are_let_pass(client):
    assert post(client, "txt2img", alwayson_scripts={"ADetailer": {"args": [False]}, "ControlNet": {"args": []}})[
        "images"
    ]
