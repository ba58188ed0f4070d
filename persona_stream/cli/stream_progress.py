"""The stream's progress on one line: how many events, how fast they are applied, how far answers lag."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct
from rich.live import Live
from rich.text import Text

from persona_stream.cli.console import err
from persona_stream.cli.probe import ask
from persona_stream.cli.running import server_url
from persona_stream.kafka.reader import free_consumer
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics

_EVERY_S = 1.0
_PLAIN_EVERY_S = 10.0
_QUIET_POLLS = 4
_QUIET_EVERY_S = 0.25
_APART_S = 0.05
"""Two moments this close are told of one poll."""


class StreamState(Struct, frozen=True):
    """The stream at a moment. `lag_events` None: the server does not answer."""

    at_s: float
    published: int
    lag_events: int | None

    @property
    def applied(self) -> int | None:
        """Events that answers know of."""
        return None if self.lag_events is None else self.published - self.lag_events


def describe(now: StreamState, before: StreamState | None) -> str:
    """The line to show.

    >>> describe(StreamState(12.0, 9000, 500), StreamState(10.0, 5000, 500))
    '9,000 events | 2,000 applied/s | lag 500'
    """
    if now.lag_events is None or now.applied is None:
        return f"{now.published:,} events | the server does not answer"
    rate = 0.0
    if before is not None and before.applied is not None and now.at_s > before.at_s:
        rate = max(0.0, (now.applied - before.applied) / (now.at_s - before.at_s))
    return f"{now.published:,} events | {rate:,.0f} applied/s | lag {now.lag_events:,}"


async def follow(settings: Settings) -> None:
    """Show the stream's progress until cancelled: a live line on a terminal, else a line now and then."""
    every_s = _EVERY_S if err.is_terminal else _PLAIN_EVERY_S
    consumer = free_consumer(settings)
    await consumer.start()
    try:
        async with aiohttp.ClientSession() as session:
            with _shown() as show:
                before: StreamState | None = None
                while True:
                    now = await _state(settings, consumer, session)
                    if now is not None:
                        show(describe(now, before))
                        before = now
                    await asyncio.sleep(every_s)
    finally:
        await consumer.stop()


async def until_applied(settings: Settings) -> None:
    """Wait until all that was published is in every table and in the server's replicas; shows progress.

    The server asks for the ends of topics now and then, and one topic's fold feeds the next: only when it has asked
    several times from now on, and each time there was no lag, is there none.
    """
    with _shown() as show:
        async with aiohttp.ClientSession() as session:
            quiet, polled_s = 0, time.monotonic()
            while quiet < _QUIET_POLLS:
                answer = await ask(session, f"{server_url(settings)}/readyz?verbose")
                tables = answer.body.get("tables") or {}
                lags = {name: table["lag_events"] + table["changelog_lag"] for name, table in tables.items()}
                ago_ms = answer.body.get("polled_ms_ago")
                if not lags or any(lags.values()) or ago_ms is None:
                    quiet = 0
                elif (now_s := time.monotonic() - ago_ms / 1000) > polled_s + _APART_S:
                    quiet, polled_s = quiet + 1, now_s
                if err.is_terminal:
                    show("  still to apply: " + ", ".join(f"{name} {lag:,}" for name, lag in lags.items() if lag))
                await asyncio.sleep(_QUIET_EVERY_S)


async def _state(settings: Settings, consumer: AIOKafkaConsumer, session: aiohttp.ClientSession) -> StreamState | None:
    topic = Topics(settings.namespace).events
    try:
        ends = await consumer.end_offsets([TopicPartition(topic, p) for p in range(settings.partitions)])
    except KafkaError:
        # The broker is being restarted; the supervisor says so.
        return None
    answer = await ask(session, f"{server_url(settings)}/readyz?verbose")
    lag = answer.body.get("lag_events")
    return StreamState(time.monotonic(), sum(ends.values()), lag if isinstance(lag, int) else None)


@contextmanager
def _shown() -> Iterator[Callable[[str], None]]:
    if not err.is_terminal:
        yield err.print
        return
    with Live(console=err, refresh_per_second=4, transient=True) as live:
        yield lambda line: live.update(Text(line, style="cyan"))
