"""Probes, metrics, the API's description and the first page."""

import time
from collections.abc import Awaitable, Callable
from importlib.resources import files

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST

from persona_stream.holdings.routes import ROUTES as HOLDING_ROUTES
from persona_stream.serving.freshness import TableFreshness
from persona_stream.serving.http_metrics import Exposition
from persona_stream.serving.state import STATE

EXPOSITION = web.AppKey("exposition", Exposition)
DESCRIPTION = web.AppKey("description", bytes)

_PAGE = files("persona_stream.serving").joinpath("page.html").read_bytes()
_PAGE_HEADERS = {
    hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
}
_TEXT = "text/plain"

_encode = msgspec.json.Encoder().encode


class Readiness(Struct):
    """Answer of `/readyz?verbose`: whether this server should be asked, and if not, what it lacks."""

    ready: bool
    missing: list[str]
    lag_events: int
    state_age_ms: int
    model: str
    as_of_ms: int
    """Event time that answers stand at, epoch milliseconds; 0: it goes on. See `persona-stream rebuild --until`."""
    kafka: str
    """`connected`, or why not."""
    tables: dict[str, TableFreshness]
    decisions_dropped: int
    polled_ms_ago: int | None
    """How long ago Kafka was asked how far its topics reach: lags are as of then; null if it never was."""


async def livez(request: web.Request) -> web.Response:
    """The process answers."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """Whether this server should be sent requests."""
    state = request.app[STATE]
    fresh = state.engine.freshness()
    missing = [*fresh.missing, "draining"] if state.drain.draining else fresh.missing
    ready = fresh.ready and not state.drain.draining
    status = 200 if ready else 503
    if "verbose" not in request.query:
        state.drain.probed()
        return web.Response(status=status, text="ok\n" if ready else f"not ready: {', '.join(missing)}\n")
    readiness = Readiness(
        ready=ready,
        missing=missing,
        lag_events=fresh.lag_events,
        state_age_ms=fresh.state_age_ms,
        model=fresh.model,
        as_of_ms=state.replica.as_of_ms,
        kafka="connected" if state.link.writable else state.link.error,
        tables=fresh.tables,
        decisions_dropped=state.decisions.dropped,
        polled_ms_ago=round(1000 * (time.monotonic() - polled_s)) if (polled_s := state.replica.polled_s) else None,
    )
    return web.Response(status=status, body=_encode(readiness), content_type="application/json")


async def metrics(request: web.Request) -> web.Response:
    """What Prometheus reads."""
    return web.Response(body=request.app[EXPOSITION].text(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST})


async def openapi(request: web.Request) -> web.Response:
    """This API's description."""
    return web.Response(body=request.app[DESCRIPTION], content_type="application/json")


async def page(request: web.Request) -> web.Response:
    """The first page: how fresh the state is, and what to try."""
    return web.Response(body=_PAGE, headers=_PAGE_HEADERS)


class OpsRoute(Struct, frozen=True, kw_only=True):
    """A GET route outside `/v1`. `answer` None: text, or JSON of the given `schema_type`."""

    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    name: str
    summary: str
    content_type: str = _TEXT
    schema_type: str = "string"
    answer: type | None = None
    answers: tuple[tuple[int, str], ...] = ((200, "The answer."),)
    """Each status, and what it means."""
    refusals: dict[int, str] = {}
    """Statuses that are told in text."""
    query: dict[str, str] = {}
    """Each parameter, and what it means."""


OPS = (
    OpsRoute(path="/livez", handler=livez, name="livez", summary="Whether the process answers."),
    OpsRoute(
        path="/readyz",
        handler=readyz,
        name="readyz",
        summary="Whether the replica has caught up; with `?verbose` how far it is, as JSON.",
        content_type="application/json",
        answer=Readiness,
        answers=((200, "Ready."), (503, "Not ready: `missing` says why.")),
    ),
    OpsRoute(path="/metrics", handler=metrics, name="metrics", summary="Metrics for Prometheus."),
    OpsRoute(
        path="/openapi.json",
        handler=openapi,
        name="openapi",
        summary="This description.",
        content_type="application/json",
        schema_type="object",
    ),
    *(
        OpsRoute(
            path=route.path,
            handler=route.handler,
            name=route.name,
            summary=route.summary,
            content_type="application/json" if route.answer else "application/x-ndjson",
            answer=route.answer,
            refusals=route.refusals,
            query=route.query,
        )
        for route in HOLDING_ROUTES
    ),
    OpsRoute(path="/", handler=page, name="page", summary="Freshness, and what to try.", content_type="text/html"),
)
