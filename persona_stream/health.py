"""The probes and metrics of a process that runs by itself beside workers and servers, and the signals that end it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError

Probe = Callable[[], str]
"""What is wrong; empty if nothing is."""


def told_to_stop() -> asyncio.Event:
    """Set once SIGTERM or SIGINT has come."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def start_health(
    settings: Settings, port: int, probes: Mapping[str, Probe], *, what: str, setting: str
) -> web.AppRunner:
    """Answer probes, by their paths, and `/metrics` at a port, 0: nowhere. `what` of which `setting` names the port.

    Raises ConfigError where the port is not to be had.
    """
    health = web.Application()
    for path, probe in probes.items():
        health.router.add_get(path, _answering(probe))
    health.router.add_get("/metrics", _metrics)
    runner = web.AppRunner(health, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    if port:
        try:
            await web.TCPSite(runner, settings.http_host, port).start()
        except OSError as error:
            raise ConfigError(f"{what} can't listen: {error}.", hint=f"Set {setting}.") from None
    return runner


def _answering(probe: Probe) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        wrong = probe()
        return web.Response(status=503, text=f"{wrong}\n") if wrong else web.Response(text="ok\n")

    return answer


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
