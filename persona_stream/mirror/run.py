"""Running the mirror as a process: signals, its small health server, and an exit code that tells."""

import asyncio
import logging

import uvloop
from aiohttp import web

from persona_stream.health import start_health, told_to_stop
from persona_stream.mirror.link import RedisLink
from persona_stream.mirror.marks import MarksLostError
from persona_stream.mirror.mirror import Mirror, OnProgress, Rewritten
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import MirrorError
from persona_stream.vocabulary.logs import configure_logging

PATIENCE_S = 30.0
"""A rebuild gives up on a Redis that takes nothing for so long; the role never does."""

logger = logging.getLogger(__name__)


def run_mirror(settings: Settings) -> None:
    """Mirror until SIGTERM or SIGINT. Raises ConfigError where settings or topics don't fit."""
    configure_logging(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))


async def rebuild(settings: Settings, on_progress: OnProgress) -> Rewritten:
    """Write everything again, remove what no table has. Raises ConfigError, MirrorError and aiokafka's errors."""
    link = RedisLink(settings, patience_s=PATIENCE_S)
    try:
        return await Mirror(settings, link).rebuild(on_progress)
    except MarksLostError:
        raise MirrorError("Redis lost its data while it was written.", hint="Do it again.") from None
    finally:
        await link.close()


async def _run(settings: Settings) -> None:
    stop = told_to_stop()
    link = RedisLink(settings)
    mirror = Mirror(settings, link)
    health = await _start_health(mirror, link, settings)
    mirroring, stopping = asyncio.create_task(mirror.run()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([mirroring, stopping], return_when=asyncio.FIRST_COMPLETED)
        if mirroring.done():
            mirroring.result()
    finally:
        # Anywhere: what is not marked as written is written again.
        mirroring.cancel()
        stopping.cancel()
        await asyncio.gather(mirroring, stopping, return_exceptions=True)
        await link.close()
        await health.cleanup()


async def _start_health(mirror: Mirror, link: RedisLink, settings: Settings) -> web.AppRunner:
    def livez() -> str:
        # A Redis or a Kafka that is away is no reason to start this process again.
        stalled_s = mirror.stalled_s()
        if stalled_s < settings.stall_timeout_ms / 1000:
            return ""
        return f"behind, and nothing was written for {stalled_s:.0f} s"

    def readyz() -> str:
        reasons = [link.error and f"Redis: {link.error}", mirror.kafka_error and f"Kafka: {mirror.kafka_error}"]
        if not mirror.has_caught_up:
            reasons.append("Redis does not hold yet what the changelogs held at the start")
        return "\n".join(filter(None, reasons))

    probes = {"/livez": livez, "/readyz": readyz}
    return await start_health(settings, settings.mirror_port, probes, what="the mirror", setting="PERSONA_MIRROR_PORT")
