"""Strict JSON: bodies with exactly one reading. No repeated names, no numbers out of range, UTF-8 only."""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import Scope

from onward.service.errors import UnsupportedMediaType
from onward.service.http.scopes import require_scope


class StrictJSONRoute(APIRoute):
    """A route whose body, if there is one, must be declared as JSON and be strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the framework's handler."""
        handle = super().get_route_handler()
        body, operation = self.body_field, self.name

        async def handle_strictly(request: Request) -> Response:
            require_scope(request.scope, operation)
            if body is not None and (body.field_info.is_required() or _has_a_body(request.scope)):
                require_json(request.scope)
            return await handle(StrictJSONRequest(request.scope, request.receive))

        return handle_strictly


class StrictJSONRequest(Request):
    """A request that parses its body as strict JSON; the framework answers a failure with its own 4xx."""

    async def json(self) -> Any:
        """Parse the body. Raises json.JSONDecodeError whose message holds nothing of the body."""
        return parse(await self.body())


def parse(body: bytes) -> Any:
    """Parse UTF-8 JSON; refuse repeated names, numbers out of range and unbounded nesting.

    Raises json.JSONDecodeError whose message holds nothing of the body.
    """
    try:
        text = body.decode()
        if text[:1] == "{":  # an object with nothing around it needs no search for spaces
            value, end = _DECODER.raw_decode(text)
            if end == len(text):
                return value
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f" at line {error.lineno}, column {error.colno}" if error.doc else ""  # no place: refused below
        raise json.JSONDecodeError(error.msg + place, "", 0) from error
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("not UTF-8", "", 0) from error
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", "", 0) from error
    except ValueError as error:
        raise json.JSONDecodeError("an integer has too many digits", "", 0) from error


def parse_body(content: bytes) -> Any:
    """Parse a required body. Raises RequestValidationError as the framework does."""
    if not content:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    try:
        return parse(content)
    except json.JSONDecodeError as error:
        fault = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {}}
        raise RequestValidationError([{**fault, "ctx": {"error": error.msg}}]) from error


def require_json(scope: Scope) -> None:
    """Raise UnsupportedMediaType unless the request's body is declared as JSON."""
    declared = dict(scope["headers"]).get(b"content-type", b"")
    if declared.partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaType("Send application/json.")


def _has_a_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise json.JSONDecodeError("a name is repeated in an object", "", 0)
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise json.JSONDecodeError("NaN and Infinity are not JSON numbers", "", 0)


def _finite_number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise json.JSONDecodeError("a number is out of range", "", 0)
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object_without_repeats, parse_constant=_refuse_constant, parse_float=_finite_number
)
