"""Language models by name, engines of their own, conversations that outgrow a context."""

import shutil

import paddle
import pytest

from app.conversation import Conversation, Manner, checked, manner_with
from app.llm_host import load
from mix.llm import Token
from tests.app.rest import tiny_llm


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    for name in ("one", "two", "three"):
        tiny_llm.write(data / "models" / "LLM" / name, seed=len(name))
    return data


@pytest.fixture
def host(data):
    made = tiny_llm.host(data)
    yield made
    made.close()


def test_models_are_found_and_the_idle_one_makes_room(host):
    assert list(host.models()) == ["one", "three", "two"]
    first = host.get("one")
    assert host.get("one") is first
    assert host.get() is first  # what is loaded already
    host.get("two")
    host.get("three")
    assert [loaded.name for loaded in host.loaded] == ["two", "three"]
    with pytest.raises(KeyError, match="no language model 'four'; there are: one, three, two"):
        host.get("four")


def test_a_busy_model_is_not_thrown_out(host):
    from mix.llm import Busy

    talk = Conversation(messages=[{"role": "user", "content": "x"}])
    streams = [talk.answer(host.get(name), Manner(max_tokens=900)) for name in ("one", "two")]
    if all(not loaded.idle for loaded in host.loaded):
        with pytest.raises(Busy, match="answering"):
            host.get("three")
    for stream in streams:
        stream.close()
    assert host.unload("one")
    assert not host.unload("one")
    assert host.get("three").name == "three"


def test_nothing_there_says_how_to_get_one(tmp_path):
    host = tiny_llm.host(tmp_path)
    with pytest.raises(KeyError, match="models add smollm2"):
        host.get()
    with pytest.raises(KeyError, match="models add smollm2"):
        host.get("one")


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = tiny_llm.write(tmp_path / "wrong", vocab_size=200, eos_token_id=1)
    with pytest.raises(ValueError, match="not from the same model"):
        load(folder)


def test_the_oldest_messages_go_when_a_conversation_gets_long(host):
    loaded, talk = host.get("one"), Conversation(system="be brief")
    for i in range(12):
        talk.say(f"question {i} " + "x" * 80)
        talk.answered("y" * 80)
    talk.say("the last one")
    ids = talk.prompt(loaded, 100)
    assert talk.left_out > 0
    assert talk.left_out % 2 == 0
    text = loaded.tokenizer.decode(ids)
    assert text.startswith("system: be brief\nuser: question")
    assert text.endswith("user: the last one\nassistant: ")
    talk.messages = [{"role": "user", "content": "z" * 2000}]
    with pytest.raises(ValueError, match="too long"):
        talk.prompt(loaded, 100)


def test_an_answer_repeats_with_its_seed(host):
    loaded, talk = host.get("one"), Conversation()
    talk.say("hello")
    told = [[e.id for e in talk.answer(loaded, Manner(temperature=1.0, max_tokens=8, seed=s)) if isinstance(e, Token)]
            for s in (1, 1, 2)]  # fmt: skip
    assert told[0] == told[1] != told[2]


def test_conversations_are_saved_and_read(tmp_path):
    talk = Conversation("sys", [{"role": "user", "content": "ä"}, {"role": "assistant", "content": "b"}])
    talk.save(tmp_path / "talk.json", Manner())
    assert Conversation.load(tmp_path / "talk.json") == talk
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ValueError, match="not a saved conversation"):
        Conversation.load(tmp_path / "other.json")
    with pytest.raises(ValueError, match="neither"):
        checked([{"role": "system", "content": "x"}])


def test_a_manner_is_checked():
    assert manner_with(Manner(), "temperature", "0").temperature == 0
    assert manner_with(Manner(), "seed", "none").seed is None
    for name, value, says in (("top_p", "2", "between"), ("colour", "1", "there are"), ("top_k", "x", "not a number")):
        with pytest.raises(ValueError, match=says):
            manner_with(Manner(), name, value)


@pytest.fixture(scope="module")
def adapter(data):
    """A LoRA of the model "one" that changes what it says, where models are looked for."""
    from mix.llm.loading import AutoModelForCausalLM
    from mix.peft import LoRAConfig
    from mix.peft.lora import LoRAModel

    folder = data / "models" / "LLM" / "pirate"
    model = LoRAModel(AutoModelForCausalLM.from_pretrained(data / "models" / "LLM" / "one"), LoRAConfig(r=4))
    for name, parameter in model.parameters_of("default").items():
        if "lora_B" in name:
            parameter.set_value(paddle.ones_like(parameter))
    model.save_pretrained(folder)
    yield folder
    shutil.rmtree(folder)


def said(loaded):
    talk = Conversation(messages=[{"role": "user", "content": "hello"}])
    ids = [event.id for event in talk.answer(loaded, Manner(max_tokens=12, temperature=0)) if isinstance(event, Token)]
    assert ids
    return ids


def test_an_adapter_is_a_model_of_its_own_that_names_its_base(host, adapter):
    assert list(host.models()) == ["one", "pirate", "three", "two"]
    assert host.base_of(adapter) == adapter.parent / "one"
    plain, changed = said(host.get("one")), said(host.get("pirate"))
    assert plain != changed
    assert said(load(adapter.parent / "one", adapter=adapter)) == changed
    assert not hasattr(host.get("pirate").model, "configs")  # merged: it runs as fast as its base


def test_an_adapter_of_a_model_that_moved_is_found_by_its_name(host, adapter):
    config = adapter / "adapter_config.json"
    was = config.read_text()
    try:
        config.write_text(was.replace(str(adapter.parent / "one"), "somebody/one"))
        assert host.base_of(adapter) == adapter.parent / "one"
        config.write_text(was.replace(str(adapter.parent / "one"), "somebody/else"))
        with pytest.raises(ValueError, match=r"belongs to somebody/else, which is not here"):
            host.base_of(adapter)
    finally:
        config.write_text(was)


def test_what_is_no_adapter_is_told(data, host):
    with pytest.raises(ValueError, match=r"has no adapter_config\.json"):
        load(data / "models" / "LLM" / "one", adapter=data)
