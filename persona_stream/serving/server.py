"""The server as a process: it listens first and connects to Kafka behind, answers whatever it can, drains when told."""

import asyncio
import errno
import gc
import signal
import sys
from collections.abc import AsyncIterator

import orjson
import structlog
import uvloop
from aiohttp import web

from persona_stream.holdings.routes import provide
from persona_stream.serving.endpoint import endpoint, router_problems
from persona_stream.serving.http_metrics import Exposition
from persona_stream.serving.kafka_link import STOP_S
from persona_stream.serving.openapi import describe
from persona_stream.serving.routes_answers import ANSWER_ROUTES
from persona_stream.serving.routes_events import EVENT_ROUTES
from persona_stream.serving.routes_ops import DESCRIPTION, EXPOSITION, OPS
from persona_stream.serving.served import ReplicaHoldings
from persona_stream.serving.state import STATE, ServerState
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.logs import configure_logging

MAX_BODY_BYTES = 16 * 1024 * 1024
DRAIN_PATIENCE_S = 4.0
"""How long a load balancer that asks `/readyz` is waited for before the listener closes."""
IN_FLIGHT_S = 5.0
"""How long requests that are being answered may take once the listener is closed."""
LAST_ANSWERS_S = 1.0
"""How long the last answers may take to be sent."""

SWITCH_S = 0.0005
"""Trends are counted in a thread: with Python's 5 ms a request may wait that long for it to let go."""
YOUNG_OBJECTS = 50_000
"""A request makes a few hundred objects and frees nearly all of them itself: collecting after every 700 only costs."""

ROUTES = (*EVENT_ROUTES, *ANSWER_ROUTES)
_OTHER_PORT = "Set PERSONA_HTTP_PORT (or --http-port) to a free port, PERSONA_HTTP_HOST to an address of this machine."
LINK_TASK: web.AppKey[asyncio.Task[None]] = web.AppKey("link_task", asyncio.Task)

_log = structlog.get_logger(__name__)


def run_server(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises ConfigError where it can't listen or topics don't fit."""
    configure_logging(settings)
    gc.set_threshold(YOUNG_OBJECTS)
    sys.setswitchinterval(SWITCH_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


def build_app(settings: Settings) -> web.Application:
    """The application, not yet started. It needs no Kafka to start."""
    state = ServerState(settings)
    app = web.Application(middlewares=[router_problems], client_max_size=MAX_BODY_BYTES)
    app[STATE] = state
    app[EXPOSITION] = Exposition(state)
    app[DESCRIPTION] = orjson.dumps(describe(ROUTES))
    for route in ROUTES:
        app.router.add_route(route.method, route.path, endpoint(state, route))
    for ops in OPS:
        app.router.add_get(ops.path, ops.handler)
    provide(app, ReplicaHoldings(lambda: state.replica), shows_values=settings.audit_values)
    app.cleanup_ctx.append(_services)
    return app


async def _services(app: web.Application) -> AsyncIterator[None]:
    state = app[STATE]
    await state.engine.start()
    await state.decisions.start()
    await state.events.start()
    app[LINK_TASK] = link = asyncio.create_task(state.link.run(), name="kafka-link")
    yield
    link.cancel()
    await asyncio.gather(link, return_exceptions=True)
    await state.events.stop()
    try:
        async with asyncio.timeout(STOP_S):
            await state.decisions.stop()
    except TimeoutError:
        _log.error("decisions were not all logged: Kafka is away")
    await state.link.stop()
    await state.engine.stop()


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app = build_app(settings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=LAST_ANSWERS_S)
    await runner.setup()
    try:
        site = await listen(runner, settings)
        _log.info("listening", host=settings.http_host, port=settings.http_port)
        await _stopped_or_failed(stop, app[LINK_TASK])
        _log.info("draining")
        drain = app[STATE].drain
        await drain.begin(DRAIN_PATIENCE_S)
        await site.stop()
        await drain.finish(IN_FLIGHT_S)
    finally:
        await runner.cleanup()


async def listen(runner: web.AppRunner, settings: Settings) -> web.TCPSite:
    """Listen on the configured address. Raises ConfigError, saying why that can't be."""
    host, port = settings.http_host, settings.http_port
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is in use by another program.", hint=_OTHER_PORT) from None
        raise ConfigError(f"can't listen on {host}:{port}: {error}.", hint=_OTHER_PORT) from None
    return site


async def _stopped_or_failed(stop: asyncio.Event, link: asyncio.Task[None]) -> None:
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, link], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if link.done():
        link.result()
