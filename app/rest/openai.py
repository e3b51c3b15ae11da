"""OpenAI's interface to the language models: /v1/chat/completions, /v1/completions, /v1/models.

Made for OpenAI's own clients: the same fields, the same chunks in a stream, the same error object. Who hangs up is no
longer computed for.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute

from app.llm_host import LLMHost, Loaded
from app.requests import sentence
from app.rest.openai_answers import Answer, Told
from app.rest.openai_models import ChatRequest, CompletionRequest
from app.rest.openai_requests import Asked, Refused, for_chat, for_completion
from app.rest.openai_tools import ToolReader

if TYPE_CHECKING:
    from mix.llm.engine import EngineEvent, Stream

log = logging.getLogger(__name__)
LOOK = 1.0  # seconds between two looks whether somebody still listens
KEEP_ALIVE = 15  # looks after which a silent stream gets a comment, so that proxies do not hang up
STREAMED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class HasLLMs(Protocol):
    """The studio, or whatever else has a host of language models."""

    @property
    def llms(self) -> LLMHost: ...


# --- errors ----------------------------------------------------------------------------------------------------------


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def told_error(why: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of what went wrong."""
    from mix.llm.engine import Busy

    if isinstance(why, Busy):
        return 503, error_body(str(why), "server_error", code="overloaded"), {"Retry-After": str(why.retry_after)}
    if isinstance(why, KeyError):
        return 404, error_body(str(why.args[0]), "invalid_request_error", "model", "model_not_found"), {}
    if isinstance(why, Refused):
        return 400, error_body(str(why), "invalid_request_error", why.param, why.code), {}
    if isinstance(why, ValueError):
        return 400, error_body(str(why), "invalid_request_error"), {}
    log.error("a request to a language model failed", exc_info=why)
    return 500, error_body(f"the model failed: {why}", "server_error"), {}


class Broken(RuntimeError):
    """The model failed in the middle of an answer."""


class OpenAIRoute(APIRoute):
    """A route that tells errors in OpenAI's way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await inner(request)
            except RequestValidationError as why:
                found = [{**error, "loc": error["loc"][1:]} for error in why.errors()]
                param = ".".join(str(step) for step in found[0]["loc"]) or None
                return JSONResponse(error_body(sentence(_Errors(found)), "invalid_request_error", param), 400)
            except Exception as why:
                status, body, headers = told_error(why)
                return JSONResponse(body, status, headers)

        return handle


class _Errors:
    def __init__(self, found: Sequence[dict[str, Any]]) -> None:
        self._found = found

    def errors(self) -> Sequence[dict[str, Any]]:
        return self._found


# --- running ---------------------------------------------------------------------------------------------------------


class Running:
    """The engine's streams of one HTTP request as one stream of (choice, event)."""

    def __init__(self, loaded: Loaded, asked: Asked) -> None:
        loop, self._events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Any]]()
        self._streams: list[Stream] = []

        def deliver(index: int) -> Callable[[Any], None]:
            return lambda event: loop.call_soon_threadsafe(self._events.put_nowait, (index, event)) and None

        try:
            for index, request in enumerate(asked.requests):
                self._streams.append(loaded.engine.submit(request, deliver(index)))
        except BaseException:
            self.close()
            raise

    async def events(self) -> "AsyncGenerator[tuple[int, EngineEvent] | None, None]":
        """Events until every choice has ended; None when nothing came for a while. Closing cancels the rest."""
        from mix.llm.engine import Ended

        left = len(self._streams)
        try:
            while left:
                try:
                    index, event = await asyncio.wait_for(self._events.get(), LOOK)
                except asyncio.TimeoutError:
                    yield None
                    continue
                if isinstance(event, Ended):
                    left -= 1
                    _check(event)
                yield index, event
        finally:
            self.close()

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


def _check(event: Any) -> None:
    """Raise what ended a choice that should have gone on."""
    if event.error is not None:
        raise Broken(str(event.error)) from event.error
    if event.reason == "cancelled":
        raise Broken("the model was unloaded")


async def answer_whole(request: Request, running: Running, answer: Answer, choices: list[Told], n: int) -> Response:
    """Wait for the end of all choices."""
    async with aclosing(running.events()) as events:
        async for item in events:
            if item is None:
                if await request.is_disconnected():
                    return Response(status_code=499)
                continue
            answer.take(choices[item[0]], item[1])
    return JSONResponse(answer.whole(choices, n))


async def answer_stream(
    running: Running, answer: Answer, choices: list[Told], n: int, counted: bool
) -> AsyncIterator[str]:
    """Server-sent events, one a chunk, and [DONE]."""

    def sse(chunk: Any) -> str:
        more = {"usage": None} if counted and "usage" not in chunk and "error" not in chunk else {}
        return f"data: {json.dumps(chunk | more, ensure_ascii=False)}\n\n"

    silence = 0
    try:
        for chunk in chain.from_iterable(map(answer.first, choices)):
            yield sse(chunk)
        async with aclosing(running.events()) as events:
            async for item in events:
                silence = silence + 1 if item is None else 0
                if item is None:
                    if silence % KEEP_ALIVE == 0:
                        yield ": still here\n\n"
                    continue
                told = choices[item[0]]
                piece = answer.take(told, item[1])
                for chunk in () if piece.empty else answer.chunk(told, piece):
                    yield sse(chunk)
        if counted:
            yield sse(answer.counted(choices, n))
    except Exception as why:  # the status is sent already: the error becomes the last event
        yield sse(told_error(why)[1])
    finally:
        running.close()
    yield "data: [DONE]\n\n"


async def respond(request: Request, loaded: Loaded, body: ChatRequest | CompletionRequest, asked: Asked) -> Response:
    """Run what was asked, whole or as a stream."""
    kind = "chat" if isinstance(body, ChatRequest) else "text"
    answer = Answer(kind, loaded.name, loaded.tokenizer, loaded.ends(), body.reported is not None)
    running = Running(loaded, asked)
    choices = [
        Told(i, ToolReader(asked.tools) if asked.tools else None, asked.echoes[i // asked.n] if asked.echoes else "")
        for i in range(len(asked.requests))
    ]
    if not body.stream:
        return await answer_whole(request, running, answer, choices, asked.n)
    counted = bool(body.stream_options and body.stream_options.include_usage)
    events = answer_stream(running, answer, choices, asked.n, counted)
    return StreamingResponse(events, media_type="text/event-stream", headers=STREAMED)


# --- routes ----------------------------------------------------------------------------------------------------------


def router(studio: HasLLMs) -> APIRouter:
    """The routes, over the studio's host of language models."""
    routes, models = APIRouter(prefix="/v1", route_class=OpenAIRoute, tags=["language models"]), studio.llms

    @routes.post("/chat/completions")
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """Answer a conversation."""
        loaded = await run_in_threadpool(models.get, body.model)
        return await respond(request, loaded, body, await run_in_threadpool(for_chat, loaded, body))

    @routes.post("/completions")
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continue texts."""
        loaded = await run_in_threadpool(models.get, body.model)
        return await respond(request, loaded, body, await run_in_threadpool(for_completion, loaded, body))

    @routes.get("/models")
    def list_models() -> dict[str, Any]:
        """The language models that can be asked."""
        return {"object": "list", "data": [_model(name, model) for name, model in models.models().items()]}

    @routes.get("/models/{name:path}")
    def one_model(name: str) -> dict[str, Any]:
        """One of them."""
        return _model(*models.find(name))

    return routes


def _model(name: str, model: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(model.changed), "owned_by": "mixstudio"}
