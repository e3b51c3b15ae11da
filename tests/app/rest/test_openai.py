"""OpenAI's own client against a live server over a tiny model."""

import json
import re
import sys
import time

import httpx
import openai
import paddle
import pytest

from mix.llm import GenerationConfig, Request
from tests.app.rest import tiny_llm

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
JSON = {"content-type": "application/json"}
CALL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
            "additionalProperties": False,
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    tiny_llm.write(data / "models" / "LLM" / "tiny")
    host = tiny_llm.host(data)
    yield host
    host.close()


@pytest.fixture(scope="module")
def address(models):
    with tiny_llm.serving(models) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def greedy(models):
    """What `generate` answers to HELLO, 12 tokens."""
    loaded = models.get("tiny")
    prompt = loaded.prompt(HELLO)
    out = loaded.model.generate(paddle.to_tensor([prompt]), max_new_tokens=12, eos_token_id=loaded.ends())
    return loaded.tokenizer.decode(out.numpy()[0, len(prompt) :], skip_special_tokens=True), len(prompt)


def ask(client, **how):
    return client.chat.completions.create(
        **{"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 12} | how
    )


def test_models_are_listed(client):
    assert [m.id for m in client.models.list().data] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError, match="no language model 'other'; there are: tiny"):
        client.models.retrieve("other")


def test_a_whole_answer_is_generates(client, greedy):
    answer = ask(client)
    text, prompt = greedy
    choice = answer.choices[0]
    assert answer.object == "chat.completion"
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", text, "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 12)
    assert answer.usage.total_tokens == prompt + 12


def test_a_stream_says_the_same_in_pieces(client, greedy):
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert len({c.id for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == greedy[0]
    assert [c.choices[0].finish_reason for c in chunks[-3:-1]] == [None, "length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert all(c.usage is None for c in chunks[:-1])


def test_the_stream_is_server_sent_events_to_the_letter(address):
    body = {"model": "tiny", "messages": HELLO, "stream": True, "max_completion_tokens": 2, "temperature": 0}
    answer = httpx.post(f"{address}/chat/completions", json=body, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    first = json.loads(lines[0].removeprefix("data: "))
    assert first["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": "", "refusal": None},
                                 "logprobs": None, "finish_reason": None}]  # fmt: skip


def test_several_choices_and_seeds(client):
    how = {"n": 3, "temperature": 1.0, "seed": 5, "max_tokens": 6}
    first, again, other = (ask(client, **(how | more)) for more in ({}, {}, {"seed": 6}))
    texts = [[c.message.content for c in answer.choices] for answer in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) > 1
    assert [c.index for c in first.choices] == [0, 1, 2]
    assert first.usage.completion_tokens == sum(len(c.message.content) >= 0 for c in first.choices) * 6


def test_log_probabilities(client):
    content = ask(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(content) == 12
    assert all(len(entry.top_logprobs) == 3 and entry.top_logprobs[0].logprob == entry.logprob for entry in content)
    assert bytes(content[0].bytes).decode() == content[0].token
    chunks = [c.choices[0].logprobs for c in ask(client, logprobs=True, top_logprobs=1, stream=True)]
    assert [e.logprob for c in chunks if c for e in c.content] == pytest.approx([e.logprob for e in content], abs=1e-4)


def test_stop_strings_end_before_themselves(client, greedy):
    text = greedy[0]
    stop = text[4:6]
    choice = ask(client, stop=[stop, "zzzz"]).choices[0]
    assert (choice.message.content, choice.finish_reason) == (text[: text.index(stop)], "stop")


def test_completions(client, models):
    answer = client.completions.create(model="tiny", prompt=["ab", "cd"], max_tokens=5, temperature=0, echo=True, n=2)
    assert [c.text[:2] for c in answer.choices] == ["ab", "ab", "cd", "cd"]
    assert answer.choices[0].text == answer.choices[1].text
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 20)
    ids = models.get("tiny").tokenizer.encode("ab")
    same = client.completions.create(model="tiny", prompt=ids, max_tokens=5, temperature=0, logprobs=2)
    assert "ab" + same.choices[0].text == answer.choices[0].text
    assert len(same.choices[0].logprobs.tokens) == 5
    chunks = list(client.completions.create(model="tiny", prompt=ids, max_tokens=5, temperature=0, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == same.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_answers_that_fit_a_schema(client):
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    choice = ask(client, response_format=form, max_tokens=200, temperature=1.0).choices[0]
    assert json.loads(choice.message.content)["a"] in "xy"
    assert choice.finish_reason == "stop"
    bad = {"type": "json_schema", "json_schema": {"name": "it", "schema": {"type": "nothing"}}}
    with pytest.raises(openai.BadRequestError, match=r"constraint (is not valid|cannot be followed)"):
        ask(client, response_format=bad)


def test_without_the_grammar_library_a_schema_is_refused(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(openai.BadRequestError, match="pip install llguidance"):
        ask(client, response_format={"type": "json_object"})


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_functions(client, stream):
    pytest.importorskip("llguidance")
    how = {"tools": [CALL], "tool_choice": "required", "max_tokens": 250, "temperature": 1.0, "seed": 1}
    if stream:
        chunks = [c.choices[0] for c in ask(client, stream=True, **how)]
        assert not any(c.delta.content for c in chunks)
        calls = next(c.delta.tool_calls for c in chunks if c.delta.tool_calls)
        reason = chunks[-1].finish_reason
    else:
        choice = ask(client, **how).choices[0]
        calls, reason = choice.message.tool_calls, choice.finish_reason
        assert choice.message.content is None
    assert reason == "tool_calls"
    assert calls[0].function.name == "weather"
    assert json.loads(calls[0].function.arguments)["city"] in ("Rome", "Oslo")


def test_a_conversation_with_calls_in_it_is_taken(client):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    talk = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"}]  # fmt: skip
    assert ask(client, messages=talk, tools=[CALL], max_tokens=3).choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"max_tokens": 10_000}, "ask for at most"),
        ({"messages": [{"role": "user", "content": "x" * 1100}]}, "shorten the prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "who is nobody"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "Unicode|surrogate|JSON|parsing"),
        ({"temperature": -1}, "temperature"),
        ({"n": 100}, "n: "),
        ({"top_logprobs": 50, "logprobs": True}, "top_logprobs"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {"type": "poem"}}, "response_format"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"tools": [CALL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "not among the tools"),
        ({"stop": ["a"] * 99}, "stop strings"),
    ],
)
def test_what_cannot_be_is_told_in_openais_way(address, how, says):
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 4} | how
    answer = httpx.post(f"{address}/chat/completions", content=json.dumps(body), headers=JSON, timeout=60)
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"

    assert re.search(says, error["message"]), error


def test_logit_bias_moves_the_choice(client, models):
    x = models.get("tiny").tokenizer.encode("x")[0]
    assert ask(client, logit_bias={str(x): 100}, max_tokens=4).choices[0].message.content == "xxxx"


def test_unknown_models_are_told(client):
    with pytest.raises(openai.NotFoundError, match="no language model 'gpt-9'") as error:
        ask(client, model="gpt-9")
    assert error.value.code == "model_not_found"


def test_who_hangs_up_is_not_computed_for(address, models):
    engine = models.get("tiny").engine
    body = {"model": "tiny", "messages": HELLO, "stream": True, "temperature": 1.0, "max_tokens": 400,
            "logit_bias": {"257": -100}}  # fmt: skip
    with httpx.stream("POST", f"{address}/chat/completions", json=body, timeout=60) as answer:
        next(answer.iter_lines())
    for _ in range(200):
        if engine.load().held == 0:
            break
        time.sleep(0.05)
    load = engine.load()
    assert (load.running, load.held) == (0, 0)
    assert load.ended == load.requests


def test_too_many_at_once_are_sent_away(tmp_path):
    tiny_llm.write(tmp_path / "models" / "LLM" / "small")
    models = tiny_llm.host(tmp_path, max_running=1, max_waiting=1)
    engine = models.get("small").engine
    long = Request(ids=[1, 2], config=GenerationConfig(max_new_tokens=900))
    body = {"model": "small", "messages": HELLO, "max_tokens": 4}
    with tiny_llm.serving(models) as address:
        streams = [engine.submit(long) for _ in range(2)]
        answer = httpx.post(f"{address}/chat/completions", json=body, timeout=60)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "try again" in answer.json()["error"]["message"]
        for stream in streams:
            stream.close()
        assert httpx.post(f"{address}/chat/completions", json=body, timeout=60).status_code == 200
        refused = httpx.post(f"{address}/chat/completions", json=body | {"n": 2}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
    assert models.get("small").engine.load().held == 0
    models.close()


def test_damaged_weights_are_an_error_of_the_server(tmp_path):
    tiny_llm.write(tmp_path / "models" / "LLM" / "broken")
    models = tiny_llm.host(tmp_path)
    weight = models.get("broken").model.blocks[0].part("down").weight
    weight.set_value(paddle.full_like(weight, float("nan")))
    with tiny_llm.serving(models) as address:
        body = {"model": "broken", "messages": HELLO, "max_tokens": 4}
        answer = httpx.post(f"{address}/chat/completions", json=body, timeout=60)
        assert answer.status_code == 500
        assert "weights are damaged" in answer.json()["error"]["message"]
        told = httpx.post(f"{address}/chat/completions", json=body | {"stream": True}, timeout=60)
        assert "weights are damaged" in told.text
        assert told.text.endswith("data: [DONE]\n\n")
    models.close()
