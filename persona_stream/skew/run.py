"""The skew check as a job: round after round, with its own probes and metrics, until SIGTERM or SIGINT."""

import asyncio
import logging
import time
from contextlib import nullcontext, suppress
from datetime import timedelta

import msgspec
import uvloop

from models.topic_reader import ignore_progress
from persona_stream.health import start_health, told_to_stop
from persona_stream.skew import skew_metrics as metrics
from persona_stream.skew.check import NoDecisionsError, check_skew
from persona_stream.skew.reasons import MEANINGS
from persona_stream.skew.report import Report
from persona_stream.skew.sample import Wanted
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.logs import configure_logging
from tables.features.plan import feature_set

OVERLAP_S = 5.0
"""A decision logged while the round before began is looked at by the next one: clocks differ a little."""
MISSED_ROUNDS = 3
"""After so many without a good end, `/healthz` says so."""

logger = logging.getLogger(__name__)


def run_job(settings: Settings, wanted: Wanted, *, every_s: float, since: timedelta | None) -> None:
    """Check until SIGTERM or SIGINT, which drop the round under way: it writes nothing.

    A round looks at what was logged since the one before, or within `since`. `settings.partitions` must be the topics'.
    Raises ConfigError where the port is taken.
    """
    configure_logging(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(Job(settings, wanted, every_s, since)))


class Job:
    """The rounds, and how the last ones went."""

    def __init__(self, settings: Settings, wanted: Wanted, every_s: float, since: timedelta | None) -> None:
        self.settings = settings
        self._wanted = wanted
        self._every_s = every_s
        self._since_s = None if since is None else since.total_seconds()
        self._next_since_s = time.time() - every_s
        self._well_s = time.monotonic()
        self.failure = ""
        """Why the last round failed."""
        # A counter that is not there before its first step would hide that step from `increase()`.
        for feature in feature_set(settings).names:
            metrics.DIFFERENCES.labels(feature)
        for reason in MEANINGS:
            metrics.SKIPPED.labels(reason)

    async def run(self) -> None:
        """Round after round, until cancelled. One that takes longer than `every` is followed by the next at once."""
        while True:
            began_s, began_at_s = time.monotonic(), time.time()
            since_s = began_at_s - self._since_s if self._since_s is not None else self._next_since_s
            if await self._round(int(1000 * since_s)):
                self._next_since_s = began_at_s - OVERLAP_S
            await asyncio.sleep(max(0.0, began_s + self._every_s - time.monotonic()))

    async def _round(self, since_ms: int) -> bool:
        """Whether it ended well; one that failed leaves its decisions to the next."""
        wanted = msgspec.structs.replace(self._wanted, since_ms=since_ms)
        try:
            report = await check_skew(self.settings, wanted, lambda _: nullcontext(ignore_progress))
        except NoDecisionsError:
            logger.info("skew: no decisions were logged since the round before")
            self._ended_well("empty")
            return True
        except Exception as error:
            # Kafka may be away for a while: the next round tries again, and the alert tells if none ends well.
            logger.exception("skew: the round failed")
            metrics.ROUNDS.labels("failed").inc()
            self.failure = f"{type(error).__name__}: {error}"
            return False
        self._tell(report)
        self._ended_well("done")
        return True

    def _ended_well(self, outcome: str) -> None:
        metrics.ROUNDS.labels(outcome).inc()
        metrics.TIMESTAMP.set_to_current_time()
        self._well_s, self.failure = time.monotonic(), ""

    @staticmethod
    def _tell(report: Report) -> None:
        metrics.ROWS.inc(report.rows)
        for reason, count in report.skipped.items():
            metrics.SKIPPED.labels(reason).inc(count)
        for one in report.features:
            metrics.DIFFERENCES.labels(one.feature).inc(one.rows)
            logger.error(
                "skew: %s is not as logged in %d rows of %d decisions; decision %s, item %r: logged %.6g, now %.6g",
                one.feature,
                one.rows,
                one.decisions,
                one.decision,
                one.item,
                one.logged,
                one.recomputed,
            )
        logger.info(
            "skew: %d rows of %d decisions compared, %d skipped, %d features differ",
            report.rows,
            report.compared,
            sum(report.skipped.values()),
            len(report.features),
        )

    def unwell(self) -> str:
        """Why it is not well, empty where it is."""
        idle_s = time.monotonic() - self._well_s
        if idle_s < MISSED_ROUNDS * self._every_s:
            return ""
        return f"no round has ended well for {idle_s:.0f} s{f': {self.failure}' if self.failure else ''}"


async def _run(job: Job) -> None:
    stop = told_to_stop()
    settings = job.settings
    # A Kafka that is away is no reason to start this process again.
    probes = {"/livez": lambda: "", "/healthz": job.unwell}
    health = await start_health(
        settings, settings.skew_port, probes, what="the skew check", setting="PERSONA_SKEW_PORT"
    )
    running, stopping = asyncio.create_task(job.run()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        for task in (running, stopping):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await health.cleanup()
