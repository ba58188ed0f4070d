"""How every `/v1` route answers: freshness headers, timing, problems and metrics around a thin handler."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import hdrs, web
from msgspec import Struct

from persona_stream.serving import problem
from persona_stream.serving.freshness import state_age_ms
from persona_stream.serving.http_metrics import FALLBACKS, REQUEST_SECONDS, RESPONSES
from persona_stream.serving.problem import ProblemError, retry_later
from persona_stream.serving.queries import Query, read_query
from persona_stream.serving.state import STATE, ServerState

NONE = "none"
"""What a header says where there is no model, or no fallback."""
_JSON = "application/json"
_STALE_RETRY_S = 1

_log = structlog.get_logger(__name__)

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Stamp(Struct):
    """How fresh an answer is, for its headers: all of `Freshness` would cost more than the rest of the shell."""

    state_age_ms: int
    lag_events: int
    model: str


def stamp(state: ServerState) -> Stamp:
    """The freshness of what is answered now."""
    replica = state.replica
    return Stamp(state_age_ms(replica), replica.tables["users"].lag_events(), state.engine.scorers.model)


class Reply(Struct):
    """A handler's answer. `model` None: whatever is live."""

    body: bytes
    status: int = 200
    fallback: str = NONE
    model: str | None = None


class Call(Struct):
    """One request to a handler. `started_s`: monotonic time when it came in."""

    state: ServerState
    request: web.Request
    query: Any
    started_s: float

    def path(self, name: str) -> str:
        """A part of the path, percent-decoded."""
        return self.request.match_info[name]


Handler = Callable[[Call], Awaitable[Reply]]


class Route(Struct, frozen=True, kw_only=True):
    """A `/v1` route: how it is served, and how it is described. `query` None: parameters are not looked at."""

    method: str
    path: str
    handler: Handler
    name: str
    """The operation's id, its metric in `Server-Timing`."""
    summary: str
    answer: type
    answer_status: int = 200
    query: type[Query] | None = None
    body: type | None = None
    problems: tuple[str, ...] = ()


def endpoint(state: ServerState, route: Route) -> Handle:
    """An aiohttp handler for a route."""
    seconds = REQUEST_SECONDS.labels(route.path)
    handler, name, query_type, drain = route.handler, route.name, route.query, state.drain
    answered = RESPONSES.labels(route.path, str(route.answer_status))

    async def handle(request: web.Request) -> web.Response:
        started_s = time.monotonic()
        fresh = stamp(state)
        drain.in_flight += 1
        try:
            query = None
            if query_type is not None:
                query = read_query(request, query_type)
                _check_lag(query.max_lag_ms, fresh)
            reply = await handler(Call(state, request, query, started_s))
        except Exception as error:
            found = as_problem(error, request)
            response = respond_problem(found, fresh, name, started_s)
            RESPONSES.labels(route.path, str(found.status)).inc()
        else:
            response = _respond(reply, fresh, name, started_s)
            answered.inc()
            if reply.fallback != NONE:
                FALLBACKS.labels(route.path, reply.fallback).inc()
        finally:
            drain.answered()
        seconds.observe(time.monotonic() - started_s)
        return response

    return handle


def as_problem(error: Exception, request: web.BaseRequest) -> ProblemError:
    """What a caller is told of an error; one that nobody foresaw is logged, and told without its insides."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, web.HTTPException):
        return problem.from_http_error(error, request.path)
    _log.error("a request failed", method=request.method, path=request.path, exc_info=error)
    return ProblemError("internal")


@web.middleware
async def router_problems(request: web.Request, handler: Handle) -> web.StreamResponse:
    """Turn what the router refuses, and failures outside `/v1`, into problems; answer CORS preflights."""
    started_s = time.monotonic()
    try:
        return await handler(request)
    except Exception as error:
        versioned = request.path.startswith("/v1/")
        if versioned and request.method == hdrs.METH_OPTIONS and isinstance(error, web.HTTPMethodNotAllowed):
            return _preflight(request, error.allowed_methods)
        found = as_problem(error, request)
        if versioned:
            return respond_problem(found, stamp(request.app[STATE]), "route", started_s)
        headers = {hdrs.CONTENT_TYPE: problem.CONTENT_TYPE, **found.headers}
        return web.Response(body=found.body(), status=found.status, headers=headers)


def respond_problem(found: ProblemError, fresh: Stamp, name: str, started_s: float) -> web.Response:
    """A problem with the headers that every answer under `/v1` has."""
    headers = _headers(fresh, name, started_s, problem.CONTENT_TYPE, fresh.model, NONE)
    return web.Response(body=found.body(), status=found.status, headers={**headers, **found.headers})


def _respond(reply: Reply, fresh: Stamp, name: str, started_s: float) -> web.Response:
    model = fresh.model if reply.model is None else reply.model
    headers = _headers(fresh, name, started_s, _JSON, model, reply.fallback)
    return web.Response(body=reply.body, status=reply.status, headers=headers)


def _headers(fresh: Stamp, name: str, started_s: float, content_type: str, model: str, fallback: str) -> dict[str, str]:
    return {
        hdrs.CONTENT_TYPE: content_type,
        hdrs.CACHE_CONTROL: "no-store",
        "X-Persona-State-Age-Ms": str(fresh.state_age_ms),
        "X-Persona-Lag-Events": str(fresh.lag_events),
        "X-Persona-Model": model or NONE,
        "X-Persona-Fallback": fallback,
        "Server-Timing": f"{name};dur={(time.monotonic() - started_s) * 1000:.2f}",
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",
        hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: "*",
    }


def _preflight(request: web.Request, methods: set[str]) -> web.Response:
    """What a browser may send, from any page: nothing here goes by cookies, so no origin has rights of its own."""
    headers = {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(methods)),
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "content-type"),
        hdrs.ACCESS_CONTROL_MAX_AGE: "86400",
    }
    return web.Response(status=204, headers=headers)


def _check_lag(max_lag_ms: int | None, fresh: Stamp) -> None:
    if max_lag_ms is not None and fresh.state_age_ms > max_lag_ms:
        behind = f"The state is {fresh.state_age_ms} ms old, {fresh.lag_events} events behind"
        raise retry_later("stale-state", f"{behind}; at most {max_lag_ms} ms are allowed.", after_s=_STALE_RETRY_S)
