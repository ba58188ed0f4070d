"""What the HTTP routes share: the engine, the replica under it, and the way to Kafka."""

import asyncio
import time
from contextlib import suppress

from aiohttp import web

from persona_stream.kafka.writer import BatchWriter
from persona_stream.serving.decisions import DecisionLog
from persona_stream.serving.engine import Engine
from persona_stream.serving.event_queue import EventQueue
from persona_stream.serving.kafka_link import KafkaLink
from persona_stream.serving.live_replica import LiveReplica
from persona_stream.serving.replica import Replica
from persona_stream.serving.turns import Turns
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics

PROBED_WITHIN_S = 30.0
"""A load balancer that asked `/readyz` this lately is waited for when draining."""


class ServerState:
    """Everything a server runs on. Nothing is connected before the application starts."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.writer = BatchWriter(settings, client_id=f"{settings.namespace}-server")
        self.live = LiveReplica(settings, self._answer_from)
        topics = Topics(settings.namespace)
        self.link = KafkaLink(self.live, self.writer, (topics.events, topics.decisions))
        self.decisions = DecisionLog(settings, self.writer, self.link.writer_failed)
        self.engine = Engine(settings, self.live.replica, self.decisions)
        self.turns = Turns(self.engine)
        self.events = EventQueue(self.writer, topics.events, self.link)
        self.drain = Drain()

    @property
    def replica(self) -> Replica:
        """What answers are made from now."""
        return self.live.replica

    def _answer_from(self, replica: Replica) -> None:
        self.engine.answer_from(replica)


class Drain:
    """Whether the server is about to stop, and whether the load balancer has noticed."""

    def __init__(self) -> None:
        self.draining = False
        self.in_flight = 0
        """Requests whose answers are being made."""
        self._noticed = asyncio.Event()
        self._idle = asyncio.Event()
        self._probed_s: float | None = None

    def probed(self) -> None:
        """A load balancer asked whether this server is ready."""
        self._probed_s = time.monotonic()
        if self.draining:
            self._noticed.set()

    def answered(self) -> None:
        """A request is no longer in flight."""
        self.in_flight -= 1
        if self.draining and not self.in_flight:
            self._idle.set()

    async def begin(self, patience_s: float) -> None:
        """Answer `not ready` from now on; returns when whoever used to ask has heard it, or after `patience_s`."""
        self.draining = True
        if self._probed_s is not None and time.monotonic() - self._probed_s < PROBED_WITHIN_S:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._noticed.wait(), patience_s)

    async def finish(self, patience_s: float) -> None:
        """Return when no request is in flight, or after `patience_s`.

        aiohttp itself would no longer read the rest of a body that is on its way.
        """
        if self.in_flight:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), patience_s)


STATE = web.AppKey("state", ServerState)
