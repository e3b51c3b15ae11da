"""From what an OpenAI client sends to requests of the engine. Every refusal is a sentence with OpenAI's code."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.llm_host import Loaded
from app.rest.openai_models import ChatMessage, ChatRequest, Choose, CompletionRequest, Sampled
from app.rest.openai_tools import call_schema, described

if TYPE_CHECKING:
    from mix.llm.engine import Request
    from mix.llm.generate import LogitsMask
    from mix.llm.sampling import GenerationConfig


class Refused(ValueError):
    """A request that cannot be served, and which of its fields is to blame."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


@dataclass(frozen=True)
class Asked:
    """The engine's requests, prompt after prompt, `n` of each; names of the functions that may be called."""

    requests: tuple["Request", ...]
    n: int
    tools: tuple[str, ...] = ()
    echoes: tuple[str, ...] = ()  # texts that the answers begin with


class Biased:
    """A `LogitsMask` that adds to the scores of some tokens, beside another one if there is one."""

    def __init__(self, bias: Mapping[int, float], inner: "LogitsMask | None") -> None:
        self.ids = np.asarray(list(bias), np.int64)
        self.values = np.asarray(list(bias.values()), np.float32)
        self.inner = inner

    def apply(self, scores: np.ndarray) -> np.ndarray:
        scores = scores.copy()
        scores[self.ids] += self.values
        return scores if self.inner is None else self.inner.apply(scores)

    def accept(self, token: int) -> None:
        if self.inner is not None:
            self.inner.accept(token)

    @property
    def finished(self) -> bool:
        return self.inner is not None and self.inner.finished


def for_chat(loaded: Loaded, body: ChatRequest) -> Asked:
    """A conversation. Raises Refused, or ValueError with a sentence."""
    _check_count(loaded, 1, body.n)
    tools = tools_of(body)
    prompt = prompt_of(loaded, body, tools)
    config = config_of(loaded, body, len(prompt), body.most, body.reported)
    schema = schema_of(body, tools)
    names = tuple(tool["function"]["name"] for tool in tools)
    return Asked(tuple(_requests(loaded, body, prompt, config, schema)), body.n, names)


def for_completion(loaded: Loaded, body: CompletionRequest) -> Asked:
    """Texts to continue. Raises Refused, or ValueError with a sentence."""
    prompts = [loaded.tokenizer.encode(p) if isinstance(p, str) else p for p in body.prompts]
    _check_count(loaded, len(prompts), body.n)
    if body.echo and body.logprobs is not None:
        raise Refused("echo with logprobs is not supported: leave one of them out", "echo")
    requests = []
    for prompt in prompts:
        config = config_of(loaded, body, len(prompt), body.most, body.reported)
        requests += _requests(loaded, body, prompt, config, None)
    echoes = [p if isinstance(p, str) else loaded.tokenizer.decode(p) for p in body.prompts] if body.echo else []
    return Asked(tuple(requests), body.n, echoes=tuple(echoes))


def _check_count(loaded: Loaded, prompts: int, n: int) -> None:
    most = loaded.engine.scheduler.max_running
    if not 1 <= prompts * n <= most:
        raise Refused(f"n is {n} for {prompts} prompts; from 1 to {most} answers can be asked for at once", "n")


def _requests(
    loaded: Loaded, body: Sampled, prompt: Sequence[int], config: "GenerationConfig", schema: Any
) -> list["Request"]:
    """One request a choice."""
    from mix.llm.engine import Request

    return [
        Request(ids=prompt, config=config, mask=mask_of(loaded, body, schema), choice=choice)
        for choice in range(body.n)
    ]


def config_of(loaded: Loaded, body: Sampled, prompt: int, most: int | None, reported: int | None) -> "GenerationConfig":
    """How to generate: the request's words over the model's own over OpenAI's defaults."""
    from mix.llm.sampling import GenerationConfig

    room = loaded.engine.most_tokens(prompt)
    if room < 1 or (most is not None and most > room):
        asked = "" if most is None else f" and max_tokens {most}"
        raise Refused(
            f"a prompt of {prompt} tokens{asked} exceed the {room + prompt} tokens that {loaded.name} can hold; "
            f"shorten the prompt or ask for at most {max(room, 0)} tokens",
            "messages" if room < 1 else "max_tokens",
            "context_length_exceeded",
        )
    own = loaded.model.generation_config
    own = own if own is not None and own.do_sample else GenerationConfig(top_k=0)
    temperature = own.temperature if body.temperature is None else body.temperature
    return GenerationConfig(
        max_new_tokens=room if most is None else most,
        do_sample=temperature > 0,
        temperature=max(temperature, 1e-3),
        top_p=own.top_p if body.top_p is None else body.top_p,
        top_k=own.top_k if body.top_k is None else max(body.top_k, 0),
        min_p=own.min_p if body.min_p is None else body.min_p,
        repetition_penalty=own.repetition_penalty if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        eos_token_id=loaded.ends(),
        stop_strings=body.stops,
        logprobs=reported,
        seed=None if body.seed is None else body.seed % 2**64,
    )


def mask_of(loaded: Loaded, body: Sampled, schema: Any) -> "LogitsMask | None":
    """The constraint of one answer; `schema` False: none, None: any JSON object."""
    from mix.llm.constrain import json_schema

    mask: LogitsMask | None = None
    if schema is not None:
        try:
            mask = json_schema(loaded.tokenizer, schema or None)
        except ValueError as why:
            raise Refused(str(why), "response_format") from why
    if body.logit_bias:
        if (most := max(body.logit_bias)) >= loaded.model.config.vocab_size or min(body.logit_bias) < 0:
            raise Refused(f"logit_bias names token {most}, which this model does not have", "logit_bias")
        mask = Biased(body.logit_bias, mask)
    return mask


# --- conversations ---------------------------------------------------------------------------------------------------


def tools_of(body: ChatRequest) -> list[dict[str, Any]]:
    """The functions that may be called, as templates want them."""
    if not body.tools or body.tool_choice == "none":
        return []
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools]
    if isinstance(body.tool_choice, Choose):
        wanted = body.tool_choice.function.name
        tools = [tool for tool in tools if tool["function"]["name"] == wanted]
        if not tools:
            raise Refused(f"tool_choice names {wanted!r}, which is not among the tools", "tool_choice")
    return tools


def prompt_of(loaded: Loaded, body: ChatRequest, tools: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of the conversation."""
    messages = [_message(m) for m in body.messages]
    try:
        if tools and "tools" not in loaded.tokenizer.template(None, True):
            first = {"role": "system", "content": described(tools)}
            if messages[0]["role"] == "system":
                first["content"] = f"{messages.pop(0)['content']}\n\n{first['content']}"
            return loaded.prompt([first, *messages])
        return loaded.prompt(messages, tools)
    except ValueError as why:
        raise Refused(str(why), "messages", "invalid_template") from why


def _message(message: ChatMessage) -> dict[str, Any]:
    """A message as templates want it: texts joined, arguments of calls as objects."""
    made: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if message.name:
        made["name"] = message.name
    if message.tool_call_id:
        made["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _object(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return made


def _object(arguments: str | dict[str, Any]) -> Any:
    if isinstance(arguments, dict):
        return arguments
    try:
        return json.loads(arguments)
    except json.JSONDecodeError:
        return arguments


def schema_of(body: ChatRequest, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The JSON schema that the answer must fit; {} for any object, None where it is free."""
    if tools and (body.tool_choice == "required" or isinstance(body.tool_choice, Choose)):
        return call_schema(tools)
    form = body.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {}
    if form.json_schema is None:
        raise Refused("response_format json_schema needs a json_schema with a schema in it", "response_format")
    return form.json_schema.schema_
