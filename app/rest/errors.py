"""What goes wrong, as HTTP: one sentence with the right status, never a traceback, and the server lives on."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from app.jobs import QueueFull
from app.requests import sentence

RETRY_SECONDS = 10


def install(app: FastAPI) -> None:
    """Turn the errors of the layers below into answers."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(QueueFull, _full)
    app.add_exception_handler(FileNotFoundError, _missing)
    app.add_exception_handler(KeyError, _missing)
    app.add_exception_handler(ValueError, _wrong)


def answer(status: int, why: str, kind: str = "", headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as all our routes tell it; `error` and `errors` are where clients of the WebUI look."""
    body = {"error": kind or "Error", "detail": why, "body": "", "errors": why}
    return JSONResponse(body, status, headers)


async def _invalid(request: Request, why: Any) -> JSONResponse:
    errors = [{**error, "loc": error["loc"][1:]} for error in why.errors()]  # without "body" in front
    return answer(422, sentence(_Errors(errors)), "ValidationError")


class _Errors:
    def __init__(self, errors: list[dict[str, Any]]) -> None:
        self._errors = errors

    def errors(self) -> list[dict[str, Any]]:
        return self._errors


async def _full(request: Request, why: Any) -> JSONResponse:
    return answer(503, str(why), "QueueFull", {"Retry-After": str(RETRY_SECONDS)})


async def _missing(request: Request, why: Any) -> JSONResponse:
    return answer(404, str(why.args[0]) if why.args else str(why), "NotFound")


async def _wrong(request: Request, why: Any) -> JSONResponse:
    return answer(422, str(why), type(why).__name__)
