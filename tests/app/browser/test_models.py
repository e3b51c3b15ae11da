"""Models, logins and styles, as a person uses them."""

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def file(tmp_path):
    base = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes = {f"{base}.lora_down.weight": (4, 768), f"{base}.lora_up.weight": (320, 4)}
    save_file({k: np.ones(s, "float32") for k, s in shapes.items()}, tmp_path / "wet paint.safetensors")
    return tmp_path / "wet paint.safetensors"


def choose(person, element: str, option: str) -> None:
    person.page.locator(f"#{element} input").click()
    person.page.get_by_role("option", name=option, exact=True).click()


def add(person, text: str) -> None:
    person.page.locator("#models_source").locator("input, textarea").fill(text)
    person.page.locator("#models_add").click()


def test_a_model_comes_from_disk_is_described_checked_and_goes(person, file):
    person.tab("Models")
    choose(person, "models_kind", "LoRAs")
    add(person, str(file))
    person.says("Done", "#models_status")
    card = person.page.locator("#models_cards [data-pick='lora/wet paint']")
    card.click()
    person.says("lora · sd15", "#models_facts")
    person.page.locator("#models_activation_text").locator("input, textarea").fill("wet, paint")
    person.page.locator("#models_save").click()
    person.page.get_by_text("Saved.").first.wait_for()
    person.page.locator("#models_verify").click()
    person.says("Done", "#models_care_status")
    person.page.locator("#models_remove").click()
    card.wait_for(state="detached")
    person.sound()


REFUSED = {
    "https://example.org/x.safetensors": "not among the hosts",
    "/no/such/file.safetensors": "there is no file or folder",
    "what is this": "is nothing that can be added",
}


def test_what_cannot_be_added_is_told(person):
    person.tab("Models")
    for text, said in REFUSED.items():
        add(person, text)
        person.says(said, "#models_status")
    person.sound()


def test_a_token_and_styles_are_kept(person, tmp_path):
    person.tab("Settings")
    field = person.page.locator("#settings_token_civitai input")
    field.fill("very-secret")
    person.page.locator("#settings_token_civitai_keep").click()
    person.says("A token is kept", "#settings_token_civitai_told")
    assert field.input_value() == ""
    assert "very-secret" not in person.page.content()
    person.page.locator("#settings_token_civitai_forget").click()
    person.says("No token yet", "#settings_token_civitai_told")
    table = tmp_path / "styles.csv"
    table.write_text('name,prompt,negative_prompt\r\nCharcoal,"{prompt}, charcoal",colour\r\n', encoding="utf-8-sig")
    person.page.locator("#styles_import").locator("xpath=..").locator("input[type=file]").set_input_files(table)
    person.says("The styles were taken over", "#styles_told")
    person.tab("Create")
    choose(person, "create_styles", "Charcoal")
    person.page.fill("#create_prompt textarea", "my own words")
    person.tab("Settings")
    person.page.locator("#styles_name").locator("input, textarea").fill("Mine")
    person.page.locator("#styles_keep").click()
    person.says("The style Mine is kept", "#styles_told")
    choose(person, "styles_which", "Mine")
    person.page.locator("#styles_delete").click()
    person.says("The style Mine is deleted", "#styles_told")
    person.sound()
