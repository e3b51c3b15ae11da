"""What OpenAI's clients send, checked at the border. Fields that we do not know are ignored: clients send many."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MOST_CHOICES, MOST_STOPS, MOST_TEXT = 16, 16, 2_000_000


class Lenient(BaseModel):
    """Unknown fields are ignored; numbers must be numbers."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class StreamOptions(Lenient):
    """`include_usage` adds a last chunk that counts tokens."""

    include_usage: bool | None = None


class Sampled(Lenient):
    """What both kinds of requests say about how to generate. top_k, min_p and repetition_penalty are not OpenAI's."""

    model: str = ""
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[int, float] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, none of them empty."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)

    @field_validator("stop")
    @classmethod
    def _few(cls, stop: Any) -> Any:
        if isinstance(stop, list) and len(stop) > MOST_STOPS:
            raise ValueError(f"{len(stop)} stop strings are too many, at most {MOST_STOPS} are taken")
        return stop


class Part(Lenient):
    """A piece of a message; only texts can be read."""

    type: str
    text: str | None = None


class ToolCallFunction(Lenient):
    """A call that the model made earlier."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(Lenient):
    """A call with its id."""

    id: str = ""
    type: Literal["function"] = "function"
    function: ToolCallFunction


class ChatMessage(Lenient):
    """One message of a conversation."""

    role: str = Field(min_length=1, max_length=64)
    content: str | list[Part] | None = Field(default=None)
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @field_validator("content")
    @classmethod
    def _text(cls, content: Any) -> Any:
        if isinstance(content, list) and (other := [p.type for p in content if p.type != "text" or p.text is None]):
            raise ValueError(f"a part of type {other[0]!r} cannot be read by this model; send text")
        return content

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""


class Function(Lenient):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Lenient):
    """A tool; only functions exist."""

    type: Literal["function"]
    function: Function


class Named(Lenient):
    """The name of a function."""

    name: str


class Choose(Lenient):
    """tool_choice that names a function."""

    type: Literal["function"]
    function: Named


class SchemaFormat(Lenient):
    """response_format's json_schema."""

    name: str = ""
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Lenient):
    """How the answer must look."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


class ChatRequest(Sampled):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | Choose | None = None
    response_format: ResponseFormat | None = None

    @property
    def most(self) -> int | None:
        """Tokens that may be added, if the request says."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def reported(self) -> int | None:
        """How many likely tokens are reported beside each one; None: not even its own probability."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Sampled):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(default=16, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = False
    suffix: str | None = None
    best_of: int | None = None

    @field_validator("suffix", "best_of")
    @classmethod
    def _absent(cls, value: Any, info: Any) -> Any:
        if value not in (None, "", 1):
            raise ValueError(f"{info.field_name} is not supported; leave it out")
        return value

    @property
    def prompts(self) -> list[str | list[int]]:
        """One prompt or several."""
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [given]
        return list(given)

    @property
    def most(self) -> int | None:
        """Tokens that may be added."""
        return self.max_tokens

    @property
    def reported(self) -> int | None:
        """How many likely tokens are reported beside each one."""
        return self.logprobs
