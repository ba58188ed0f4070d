"""Running the worker as a process: signals, its small health server, and an exit code that tells."""

import asyncio
import logging
import os
import signal
import sys
from typing import NoReturn, cast

import uvloop
from aiohttp import web
from aiokafka.errors import KafkaError
from faust.tables.manager import TableManager
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from persona_stream.holdings.routes import ROUTES, provide
from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.generations import GenerationLog
from persona_stream.stream.consumer import BatchingConsumer
from persona_stream.stream.garbage import let_state_stay
from persona_stream.stream.table import ChangelogTable
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.logs import configure_logging
from persona_stream.worker.app import AgentSpec, WorkerApp, agent_specs, build_app
from persona_stream.worker.delta_audit import DeltaAudit
from persona_stream.worker.holdings import WorkerHoldings

STOP_TIMEOUT_S = 20.0
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
WATCH_RETRY_S = 1.0
SWITCH_S = 0.0005
"""Faust fetches in a thread of its own: with Python's 5 ms it may wait that long for a fold to let it go on."""

logger = logging.getLogger(__name__)


def run_worker(settings: Settings, specs: list[AgentSpec] | None = None) -> NoReturn:
    """Run until SIGTERM or SIGINT, then drain and exit the process: 1 if the app crashed, else 0.

    `specs`: the agents to run, by default all.
    """
    configure_logging(settings)
    let_state_stay()
    sys.setswitchinterval(SWITCH_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, specs))
    raise AssertionError("the worker exits by itself")


async def _run(settings: Settings, specs: list[AgentSpec] | None) -> NoReturn:
    await ensure_topics(settings)
    (settings.home / "worker").mkdir(parents=True, exist_ok=True)
    generations = GenerationLog(settings)
    await generations.start()
    app = build_app(settings, specs, generations.history.live())
    stop, switched = asyncio.Event(), asyncio.Event()
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Blocked while a process of another generation became this one.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    background = [asyncio.create_task(_watch(generations, switched))]
    holdings = _holdings_of(app)
    health = await _start_health(app, settings, holdings)
    if settings.audit_every_ms and specs is None:
        audit = DeltaAudit(settings, holdings.all, agent_specs(settings, with_examples=False))
        background.append(asyncio.create_task(audit.run()))
    crashed = True
    try:
        crashed = await _serve_until(app, stop, switched)
    except (Exception, asyncio.CancelledError):
        # A process that stayed would keep its health server and do nothing: whatever went wrong, it ends.
        logger.exception("the worker broke")
    for task in background:
        task.cancel()
    await health.cleanup()
    _end(1 if crashed else 0, anew=switched.is_set() and not stop.is_set())


def _end(code: int, *, anew: bool) -> NoReturn:
    """End the process, or become one that starts anew: the same process id, so that no supervisor sees a death."""
    # Faust's consumer runs in a thread that outlives a crash in the middle of its start: nothing is left to wait for.
    sys.stdout.flush()
    sys.stderr.flush()
    if anew:
        # A signal that comes now waits until the new process can drain.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # itself
    os._exit(code)


async def _watch(generations: GenerationLog, switched: asyncio.Event) -> None:
    """Set `switched` once another generation of any table is live."""
    mine = generations.history.live()
    while True:
        try:
            if (await generations.changed()).live() != mine:
                break
        except KafkaError as error:
            logger.warning("generations can't be followed for the moment: %r", error)
            await asyncio.sleep(WATCH_RETRY_S)
    logger.info("another generation of tables is live; starting anew on it")
    switched.set()


async def _serve_until(app: WorkerApp, stop: asyncio.Event, switched: asyncio.Event) -> bool:
    """Run the app until it is to stop, or to start anew, or crashes; True if it crashed."""
    crashed = True
    try:
        await app.start()
        ended = [
            asyncio.ensure_future(app.wait_for_stopped(asyncio.Event().wait())),
            asyncio.ensure_future(stop.wait()),
            asyncio.ensure_future(switched.wait()),
        ]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        crashed = ended[0].done()
        for task in ended:
            task.cancel()
    except Exception:
        logger.exception("the worker could not start")
    return await _failed_to_stop(app) or crashed


async def _failed_to_stop(app: WorkerApp) -> bool:
    """Drain; True if that failed or took too long: what was not finished is delivered again."""
    # Not wait_for: it waits for what it cancels, and Faust, while it stops, may neither end nor be cancelled.
    stopping = asyncio.ensure_future(app.stop())
    await asyncio.wait([stopping], timeout=STOP_TIMEOUT_S)
    if not stopping.done():
        logger.error("the worker did not drain in %s s", STOP_TIMEOUT_S)
        return True
    error = asyncio.CancelledError() if stopping.cancelled() else stopping.exception()
    if error is not None:
        logger.error("the worker did not drain: %r", error)
    return error is not None


def _holdings_of(app: WorkerApp) -> WorkerHoldings:
    recovery = cast(TableManager, app.tables).recovery
    tables = [table for table in app.tables.values() if isinstance(table, ChangelogTable)]
    return WorkerHoldings(tables, lambda: recovery.completed.is_set() and not app.rebalancing)


async def _start_health(app: WorkerApp, settings: Settings, holdings: WorkerHoldings) -> web.AppRunner:
    recovery = cast(TableManager, app.tables).recovery

    async def livez(request: web.Request) -> web.Response:
        # A recovery that does not get on ends the worker by itself.
        consumer = cast(BatchingConsumer, app.consumer) if recovery.completed.is_set() else None
        stalled = consumer.stalled(settings.stall_timeout_ms / 1000) if consumer else ""
        return web.Response(status=503, text=f"{stalled}\n") if stalled else web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        if recovery.completed.is_set() and not app.rebalancing:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="state is being read back from the changelogs\n")

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    health = web.Application()
    health.router.add_get("/livez", livez)
    health.router.add_get("/readyz", readyz)
    health.router.add_get("/metrics", metrics)
    provide(health, holdings, shows_values=settings.audit_values)
    for route in ROUTES:
        health.router.add_get(route.path, route.handler)
    runner = web.AppRunner(health, shutdown_timeout=1.0)
    await runner.setup()
    if settings.worker_port:
        await web.TCPSite(runner, settings.http_host, settings.worker_port).start()
    return runner
