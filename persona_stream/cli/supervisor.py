"""The whole system as supervised processes: broker (unless a cluster is configured), worker, server, mirror (if any).

    with embedded_kafka(settings, on_progress) as kafka:
        async with Supervisor(kafka, child_specs(kafka.settings), notify=print) as running:
            await running.run()         # until cancelled, or until something keeps dying

Entering the Supervisor creates the topics, starts the processes and waits until each is ready; leaving it
stops mirror, server and worker, in this order; leaving `embedded_kafka` stops the broker. Nothing outlives this
process, whatever ends it: see `lifeline` and `persona_stream.broker.guard`.
"""

import asyncio
import platform
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from msgspec import Struct
from xxhash import xxh3_64_hexdigest

from persona_stream.broker import EmbeddedBroker, OnProgress
from persona_stream.cli.child import Child, ChildSpec, RestartPolicy
from persona_stream.cli.cluster import create_topics
from persona_stream.cli.embedded import broker_for
from persona_stream.cli.logs import LogFollower, tail
from persona_stream.cli.probe import any_free_port, ask, next_free_port
from persona_stream.cli.running import server_url, settings_env
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import PersonaError

Notify = Callable[[str], None]

_POLL_S = 0.1
_WATCH_S = 0.5


class NotReadyError(PersonaError):
    """A process runs, but did not become ready in time; the message says what it answered last."""

    code = "not-ready"


class Kafka:
    """The cluster that a system uses: `settings` names it, `broker` is its embedded broker if it has one."""

    def __init__(self, settings: Settings, broker: EmbeddedBroker | None) -> None:
        """Both must be there already: see `embedded_kafka`."""
        self.settings = settings
        self.broker = broker

    async def keep_running(self, notify: Notify) -> None:
        """Start the embedded broker again, on the same port, when it dies. Raises BrokerStartError."""
        while self.broker is not None:
            await asyncio.sleep(_WATCH_S)
            if self.broker.is_alive:
                continue
            notify(f"the broker ended; starting it again. Log: {self.broker.log_path}")
            self.broker.stop()
            port = int(self.settings.kafka.rpartition(":")[2])
            # The producers and consumers of every process know this address.
            self.broker = broker_for(self.settings.home, port)
            await asyncio.to_thread(self.broker.start)
            if self.broker.bootstrap != self.settings.kafka:
                raise NotReadyError(
                    f"another program took the broker's address {self.settings.kafka} while it was down.",
                    hint="Start again: data is kept.",
                )


@contextmanager
def embedded_kafka(settings: Settings, on_progress: OnProgress) -> Iterator[Kafka]:
    """The configured cluster, or an embedded broker for as long as the block runs. Raises BrokerStartError.

    Blocks while it downloads and starts: call it from the main thread outside of an event loop, where Ctrl-C
    interrupts it.
    """
    if settings.kafka:
        yield Kafka(settings, None)
        return
    broker = broker_for(settings.home)
    kafka = Kafka(settings, broker)
    try:
        kafka.settings = msgspec.structs.replace(settings, kafka=broker.start(on_progress))
        yield kafka
    finally:
        if kafka.broker is not None:
            kafka.broker.stop()


class Timing(Struct, frozen=True, kw_only=True):
    """How long to wait: for a process to become ready without any progress, and for it to stop."""

    ready_s: float = 90.0
    grace_s: float = 15.0


class Supervisor:
    """Starts the processes of `specs` in their order, keeps them running, stops them in the reverse order.

    `notify` gets lines for the terminal: deaths, restarts, and warnings that the processes log.
    """

    def __init__(
        self,
        kafka: Kafka,
        specs: Sequence[ChildSpec],
        *,
        notify: Notify,
        policy: RestartPolicy | None = None,
        timing: Timing | None = None,
    ) -> None:
        """Nothing runs before the Supervisor is entered."""
        self.kafka = kafka
        self.settings = kafka.settings
        self._notify = notify
        self._timing = timing or Timing()
        logs = self.settings.home / "logs"
        self.children = [
            Child(spec, logs / f"{spec.name}.log", policy=policy or RestartPolicy(), notify=notify) for spec in specs
        ]
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start everything. Raises ConfigError, ChildFailedError or NotReadyError, nothing left running."""
        try:
            await create_topics(self.settings)
            self._start()
            async with aiohttp.ClientSession() as session:
                for child in self.children:
                    await self._or_failure(self._until_ready(child, session))
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        await self.stop()

    async def run(self) -> None:
        """Wait for a failure, for ever if there is none. Raises ChildFailedError or BrokerStartError."""
        await self._or_failure(asyncio.Event().wait())

    async def stop(self) -> None:
        """Stop the processes, last started first; those that don't end within the grace are killed."""
        try:
            for child in reversed(self.children):
                await child.stop(self._timing.grace_s)
        finally:
            # Reached with children alive only where a second interrupt came: then at once.
            for child in self.children:
                child.kill()
            for keeper in self._keepers:
                keeper.cancel()
            await asyncio.gather(*self._keepers, return_exceptions=True)

    def _start(self) -> None:
        # From the present end of each log: made before anything new can be written to it.
        followers = [(child.spec.name, LogFollower(child.log_path)) for child in self.children]
        self._keepers = [asyncio.create_task(child.keep_running(), name=child.spec.name) for child in self.children]
        self._keepers.append(asyncio.create_task(self._report_warnings(followers), name="logs"))
        if self.kafka.broker is not None:
            self._keepers.append(asyncio.create_task(self.kafka.keep_running(self._notify), name="broker"))

    async def _or_failure(self, wanted: Coroutine[Any, Any, Any]) -> None:
        """Await `wanted` unless a keeper fails first: then raise what it raised."""
        task = asyncio.create_task(wanted)
        try:
            await asyncio.wait([task, *self._keepers], return_when=asyncio.FIRST_COMPLETED)
            for keeper in self._keepers:
                if keeper.done():
                    keeper.result()
            await task
        finally:
            task.cancel()

    async def _until_ready(self, child: Child, session: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        answer = await ask(session, child.spec.ready_url)
        deadline_s = loop.time() + self._timing.ready_s
        while answer.status != 200:
            if loop.time() > deadline_s:
                raise NotReadyError(
                    f"the {child.spec.name} was not ready within {self._timing.ready_s:g} s"
                    f" ({child.spec.ready_url} answered {answer.status or 'nothing'} {answer.body or ''}).\n"
                    f"Log: {child.log_path}\n{tail(child.log_path)}\n",
                    hint="`persona-stream doctor` checks what it needs.",
                )
            await asyncio.sleep(_POLL_S)
            previous, answer = answer, await ask(session, child.spec.ready_url)
            if answer.body.get("lag_events") != previous.body.get("lag_events"):
                # It catches up: that may take long after a long pause, and is no reason to give up.
                deadline_s = loop.time() + self._timing.ready_s

    async def _report_warnings(self, followers: list[tuple[str, LogFollower]]) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            for name, follower in followers:
                for line in follower.new_warnings():
                    self._notify(f"{name}: {line}")


def child_specs(settings: Settings) -> list[ChildSpec]:
    """Worker, server and, where a Redis is known, the mirror.

    `settings` must name a cluster and free ports (`with_free_ports`).
    """
    # One name for each folder of state: a worker that has to be started again goes on at once.
    owner = f"up-{platform.node()}-{xxh3_64_hexdigest(str(settings.home).encode())}"
    named = msgspec.structs.replace(settings, worker_id=settings.worker_id or owner)
    specs = [
        _spec("worker", "worker", f"http://127.0.0.1:{settings.worker_port}/readyz", settings_env(named)),
        _spec("server", "serve", f"{server_url(settings)}/readyz?verbose", settings_env(settings)),
    ]
    if settings.redis_url:
        # Not /readyz: nothing waits for Redis.
        mirror_url = f"http://127.0.0.1:{settings.mirror_port}/livez"
        specs.append(_spec("mirror", "mirror", mirror_url, settings_env(settings)))
    return specs


def with_free_ports(settings: Settings, notify: Notify) -> Settings:
    """`settings` with ports that can be listened on; says so where the HTTP port had to change."""
    http_port = next_free_port(settings.http_host, settings.http_port)
    if http_port != settings.http_port:
        notify(f"port {settings.http_port} is taken by another program: the server takes {http_port}")
    return msgspec.structs.replace(
        settings,
        home=Path(settings.home).resolve(),
        http_port=http_port,
        worker_port=settings.worker_port or any_free_port(),
        mirror_port=settings.mirror_port or any_free_port(),
    )


def _spec(name: str, command: str, ready_url: str, env: dict[str, str]) -> ChildSpec:
    return ChildSpec(
        name=name, arguments=("-m", "persona_stream", command, "--supervised"), env=env, ready_url=ready_url
    )
