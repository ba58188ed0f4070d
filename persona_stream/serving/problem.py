"""Errors over HTTP: RFC 9457 `application/problem+json`, with a stable `code` and pointers to what is wrong."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

import msgspec
from aiohttp import hdrs, web

from persona_stream.serving.schemas import Problem

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:problem-type:persona:"

PROBLEMS: dict[str, tuple[int, str]] = {
    "bad-json": (400, "The body is not JSON"),
    "bad-request": (400, "The request does not fit the contract"),
    "not-found": (404, "Nothing is served at this address"),
    "unknown-user": (404, "Nothing is held of this user"),
    "unknown-item": (404, "Nothing is held of this item"),
    "method-not-allowed": (405, "The address does not take this method"),
    "too-large": (413, "The body is too large"),
    "too-many-events": (413, "The body holds too many events"),
    "internal": (500, "The server failed to answer"),
    "kafka-unavailable": (503, "Kafka can't be reached"),
    "overloaded": (503, "More events arrive than Kafka takes"),
    "stale-state": (503, "The state is older than the request allows"),
}
"""Every problem: its HTTP status and its title."""

Where = Literal["body", "query"]

_FIELD = re.compile(r"^Object (?:missing required|contains unknown) field `(?P<field>[^`]*)`")
_PATH = re.compile(r" - at `\$(?P<path>.*)`$")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]")

_encode = msgspec.json.Encoder().encode


class ProblemError(Exception):
    """Ends a request with a problem of PROBLEMS."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        errors: list[dict[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`errors`: `{"in", "pointer", "detail"}` for each part of the request that is wrong."""
        super().__init__(detail or code)
        self.status, title = PROBLEMS[code]
        self.problem = Problem(TYPE_PREFIX + code, title, self.status, code, detail, errors or [])
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The answer's body."""
        return _encode(self.problem)


def retry_later(code: str, detail: str, *, after_s: int) -> ProblemError:
    """A problem that passes: the answer says when to come again."""
    return ProblemError(code, detail, headers={hdrs.RETRY_AFTER: str(after_s)})


def misfit(error: msgspec.ValidationError, where: Where) -> ProblemError:
    """What msgspec found wrong, with a pointer to the place (RFC 6901; for the query, `/name`).

    >>> misfit(msgspec.ValidationError("Expected `str`, got `int` - at `$.items[1]`"), "body").problem.errors
    [{'in': 'body', 'pointer': '/items/1', 'detail': 'Expected `str`, got `int`'}]
    """
    message = str(error)
    return ProblemError(
        "bad-request",
        message,
        errors=[{"in": where, "pointer": pointer(message), "detail": _PATH.sub("", message)}],
    )


def pointer(message: str) -> str:
    """The JSON pointer that a msgspec message speaks of; empty for the whole document.

    >>> pointer("Object missing required field `user`")
    '/user'
    """
    path = _PATH.search(message)
    steps = [step["name"] or step["index"] for step in _STEP.finditer(path["path"])] if path else []
    if field := _FIELD.match(message):
        steps.append(field["field"])
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def from_http_error(error: web.HTTPException, path: str) -> ProblemError:
    """The problem for what aiohttp itself refuses."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return ProblemError(
            "method-not-allowed",
            f"{path} takes {allowed}, not {error.method}.",
            headers={hdrs.ALLOW: allowed},
        )
    if error.status == HTTPStatus.NOT_FOUND:
        return ProblemError("not-found", f"{path[:200]} is not known; GET /openapi.json lists what is.")
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return ProblemError("too-large", "Send it in smaller parts.")
    if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return ProblemError("bad-request", f"{error.status} {error.reason}")
    return ProblemError("internal")
