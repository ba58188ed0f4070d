"""A namespace of its own on the suite's Kafka, with real workers that end with the test, and what its tables hold."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import aiohttp
import msgspec
from msgspec import Struct

from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.generations import read_history
from persona_stream.stream.partition import PROGRESS_KEY, SYSTEM_KEYS, Codec, Progress, decode_progress
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import FIRST_GENERATION, Topics
from persona_stream.worker.app import agent_specs
from support.cluster import Table, bury, committed, end_offsets, members, read_table, until
from support.processes import Process, start_module, start_server, start_worker

WITHIN_S = 90

V = TypeVar("V")


class Live(Struct):
    """One namespace, its workers and its servers."""

    settings: Settings
    folder: Path
    workers: list[Process] = []
    servers: list[Process] = []
    through: str = ""
    """Where its processes reach Kafka, where that is not where the test does."""
    restarts: int = 0
    """How many workers ended by themselves and were started again."""

    @property
    def topics(self) -> Topics:
        """Its topics."""
        return Topics(self.settings.namespace)

    @property
    def group(self) -> str:
        """The workers' consumer group."""
        return f"{self.settings.namespace}-worker"

    def start_worker(self, name: str = "") -> Process:
        """One more worker; with a name, its group knows it again when it comes back."""
        worker = start_worker(self._told(worker_id=name), self._new_log())
        self.workers.append(worker)
        return worker

    def start_jumpy_worker(self) -> Process:
        """One more worker, whose wall clock jumps."""
        worker = start_module("support.jumpy_worker", self._told(), self._new_log())
        self.workers.append(worker)
        return worker

    def start_server(self, port: int, **changed: object) -> Process:
        """One more server, at a port of its own; settings may be changed."""
        server = start_server(self._told(http_port=port, **changed), self.folder / f"server-{len(self.servers)}.log")
        self.servers.append(server)
        return server

    def _told(self, **changed: object) -> Settings:
        """The settings that a process is given."""
        return msgspec.structs.replace(self.settings, kafka=self.through or self.settings.kafka, **changed)

    def _new_log(self) -> Path:
        return self.folder / f"worker-{len(list(self.folder.glob('worker-*')))}.log"

    def start_doomed_worker(self, fate: str, moment: str, topic: str) -> Process:
        """One more worker, that sends itself a signal (or hangs) just `before` or `after` a write to `topic`."""
        worker = start_module("support.doomed_worker", self._told(), self._new_log(), fate, moment, topic)
        self.workers.append(worker)
        return worker

    def start_flipping(self, role: str, *keys: str) -> Process:
        """A worker or a server that corrupts keys (`TABLE/KEY`) in its memory when it is told to."""
        process = start_module("support.flipping", self._told(), self.folder / f"{role}-flipping.log", role, *keys)
        (self.workers if role == "worker" else self.servers).append(process)
        return process

    async def events_committed(self) -> dict[int, int]:
        """Committed offsets of the events topic, by partition."""
        return await committed(self.settings.kafka, self.group, self.topics.events)

    async def livez(self) -> tuple[int, str]:
        """What `/livez` of its worker says: status (0: nobody listens) and text; the settings give it a port."""
        url = f"http://127.0.0.1:{self.settings.worker_port}/livez"
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientConnectorError:
            return 0, ""

    async def until_goes_on(self) -> None:
        """Wait until more events of each partition are committed; a worker that ended with 1 is started again, as a
        supervisor would."""
        before = await self.events_committed()

        async def all_grown() -> bool:
            for worker in [worker for worker in self.workers if worker.exit_code() == 1]:
                self.workers.remove(worker)
                self.restarts += 1
                self.start_worker()
            now = await self.events_committed()
            return all(now.get(p, 0) > before.get(p, 0) for p in range(self.settings.partitions))

        await until(all_grown, within_s=WITHIN_S, what="all partitions folded", check=self._check_workers)

    async def kill(self, worker: Process) -> None:
        """SIGKILL, and no wait for the session timeout: the group hears of the death at once."""
        before = await members(self.settings.kafka, self.group) if self._alone(worker) else []
        worker.kill()
        await bury(self.settings.kafka, self.group, before)

    def _alone(self, worker: Process) -> bool:
        return all(other is worker or other.exit_code() is not None for other in self.workers)

    async def changelog(self, table: str) -> str:
        """The changelog of a table's live generation."""
        return self.topics.changelog(table, (await read_history(self.settings)).live().get(table, FIRST_GENERATION))

    async def progress(self, table: str) -> dict[int, Progress]:
        """How far each partition of a table has come, as its changelog tells."""
        held = await read_table(self.settings.kafka, await self.changelog(table))
        return {p: decode_progress(part[PROGRESS_KEY]) for p, part in held.items() if PROGRESS_KEY in part}

    async def is_applied(self, table: str) -> bool:
        """Whether all of a table's source is in it."""
        source = self._sources()[table]
        ends = await end_offsets(self.settings.kafka, source)
        progress = await self.progress(table)
        return all(not end or (p in progress and progress[p].offset == end - 1) for p, end in ends.items())

    async def until_applied(self, *tables: str, within_s: float = WITHIN_S) -> None:
        """Wait until everything published so far is in these tables (by default the whole way to the learner)."""
        for table in tables or ("users", "items", "impressions", "learner"):
            await until(
                partial(self.is_applied, table),
                within_s=within_s,
                what=f"{self.settings.namespace}: all of {self._sources()[table]} in table {table}",
                check=self._check_workers,
            )

    async def until_committed(self, table: str, *, within_s: float = WITHIN_S) -> None:
        """Wait until the group has committed all of a table's source."""
        source = self._sources()[table]

        async def reached() -> bool:
            ends = await end_offsets(self.settings.kafka, source)
            found = await committed(self.settings.kafka, self.group, source)
            return found == {p: end for p, end in ends.items() if end}

        await until(reached, within_s=within_s, what=f"all of {source} committed", check=self._check_workers)

    async def table(self, name: str) -> Table:
        """What a table holds, by partition and key, as bytes; without the progress."""
        held = await read_table(self.settings.kafka, await self.changelog(name))
        return {
            p: {key: value for key, value in part.items() if key not in SYSTEM_KEYS} for p, part in sorted(held.items())
        }

    def _sources(self) -> Mapping[str, str]:
        return {spec.table: spec.source for spec in agent_specs(self.settings)}

    def _check_workers(self) -> None:
        for worker in self.workers:
            # Those killed on purpose ended with a signal, those drained with 0, or by SIGTERM before they had started.
            assert worker.exit_code() in {None, 0, -9, -15}, worker.log_tail()
        assert any(worker.exit_code() is None for worker in self.workers), "no worker is running"


MakeLive = Callable[[], Live]


@contextmanager
def live(kafka: str, folder: Path, *, partitions: int = 2, through: str = "") -> Iterator[MakeLive]:
    """`make()` gives a new namespace each time; all its processes are killed in the end."""
    made: list[Live] = []

    def make() -> Live:
        home = folder / f"home-{len(made)}"
        home.mkdir()
        settings = Settings(kafka=kafka, namespace=f"w{uuid4().hex[:8]}", partitions=partitions, home=home)
        made.append(Live(settings, home, through=through))
        return made[-1]

    try:
        yield make
    finally:
        for namespace in made:
            for process in (*namespace.workers, *namespace.servers):
                process.kill()


async def prepared(make: MakeLive, **changed: object) -> Live:
    """A new namespace with its topics; settings may be changed."""
    namespace = make()
    namespace.settings = msgspec.structs.replace(namespace.settings, **changed)
    await ensure_topics(namespace.settings)
    return namespace


def decoded(codec: Codec[V], table: Table) -> dict[str, V]:
    """All values of a table, whichever partition holds them."""
    return {key.decode(): codec.decode(value) for part in table.values() for key, value in part.items()}
