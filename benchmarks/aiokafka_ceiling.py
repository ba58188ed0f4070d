"""Ceiling: aiokafka, Python dicts and a batched changelog. No engine: what this machine and Kafka allow.

No rebalancing, recovery, exactly-once, windows' expiry or late events: an upper bound, not a rival.

Choices: one process on uvloop, manual assignment, ``getmany`` of up to 4,000 records, msgspec
into a typed struct. Each dirty key is written once per batch with ``create_batch``/``send_batch`` (no
per-record future); offsets are committed each second after the changelog was acknowledged. W2 keeps
one-minute panes, five of which are a window, and re-keys by item through a topic of its own, one small
record an event.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from benchmarks import workloads as w
from benchmarks.changelog import latest
from benchmarks.contract import (
    Job,
    KeyedResult,
    Report,
    Stopwatch,
    WindowResult,
    WindowTotals,
    keyed_result,
    keyed_row,
    window_totals,
    windows_of_panes,
)
from benchmarks.data import create_topic, partition_of

DISTRIBUTIONS = ("aiokafka",)

MAX_POLL_RECORDS = 4_000
COMMIT_EVERY_S = 1.0
BATCH_BYTES = 1 << 18

Pane = tuple[str, int]


class Log:
    """The consumer and producer of a run, with batched writes and commits that follow them."""

    def __init__(self, job: Job) -> None:
        """Nothing is connected before :meth:`start`."""
        self.job = job
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=job.bootstrap,
            group_id=job.run_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=1 << 21,
        )
        self.producer = AIOKafkaProducer(bootstrap_servers=job.bootstrap, max_batch_size=BATCH_BYTES)
        self._pending: list[asyncio.Future[object]] = []
        self._committed_s = time.monotonic()

    async def start(self, topics: Iterable[str]) -> None:
        """Connect and take all partitions of ``topics``."""
        await self.producer.start()
        await self.consumer.start()
        self.consumer.assign([TopicPartition(t, p) for t in topics for p in range(self.job.partitions)])

    async def stop(self) -> None:
        """Disconnect."""
        await self.consumer.stop()
        await self.producer.stop()

    async def poll(self) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The next records by partition; empty when none came for a second."""
        found: dict[TopicPartition, list[ConsumerRecord]] = await self.consumer.getmany(
            timeout_ms=1000, max_records=MAX_POLL_RECORDS
        )
        return found

    async def write(self, topic: str, partition: int, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Send ``records`` (key, value) in as few batches as hold them; acknowledged at the next commit."""
        builder = self.producer.create_batch()
        for key, value in records:
            if builder.append(key=key, value=value, timestamp=None) is None:
                self._pending.append(await self.producer.send_batch(builder, topic, partition=partition))
                builder = self.producer.create_batch()
                builder.append(key=key, value=value, timestamp=None)
        if builder.record_count():
            self._pending.append(await self.producer.send_batch(builder, topic, partition=partition))

    async def commit(self, *, force: bool = False) -> None:
        """Each second (or now): wait for all writes, then commit what was read before them."""
        if force or time.monotonic() - self._committed_s > COMMIT_EVERY_S:
            await asyncio.gather(*self._pending)
            self._pending.clear()
            await self.consumer.commit()
            self._committed_s = time.monotonic()


async def _run_keyed(job: Job, watch: Stopwatch, learner: w.Learner | None) -> None:
    changelog = f"{job.run_id}-changelog"
    await create_topic(job.bootstrap, changelog, job.partitions, {"cleanup.policy": "compact"})
    log = Log(job)
    await log.start([job.topic])
    counts: dict[str, w.KeyedState] = {}
    users: dict[str, w.UserState] = {}
    seen = 0
    while seen < job.events:
        for tp, records in (await log.poll()).items():
            watch.start()
            seen += len(records)
            rows = _count(counts, records) if job.workload == "w1" else _featurize(users, records, learner)
            await log.write(changelog, tp.partition, rows)
        await log.commit()
    await log.commit(force=True)
    watch.stop()
    await log.stop()


def _count(counts: dict[str, w.KeyedState], records: list[ConsumerRecord]) -> Iterator[tuple[bytes, bytes]]:
    dirty = set()
    for record in records:
        event = w.decode(record.value)
        counts[event.user] = w.count_event(counts.get(event.user), event)
        dirty.add(event.user)
    for user in dirty:
        yield user.encode(), orjson.dumps(counts[user])


def _featurize(
    users: dict[str, w.UserState], records: list[ConsumerRecord], learner: w.Learner | None
) -> Iterator[tuple[bytes, bytes]]:
    dirty = set()
    for record in records:
        event = w.decode(record.value)
        users[event.user] = w.featurize(users.get(event.user) or w.new_user(), event, learner)
        dirty.add(event.user)
    for user in dirty:
        yield user.encode(), orjson.dumps(users[user])


async def _run_windows(job: Job, watch: Stopwatch) -> None:
    by_item = f"{job.run_id}-by-item"
    changelogs = {job.topic: f"{job.run_id}-user-panes", by_item: f"{job.run_id}-item-panes"}
    await create_topic(job.bootstrap, by_item, job.partitions)
    for name in changelogs.values():
        await create_topic(job.bootstrap, name, job.partitions, {"cleanup.policy": "compact"})
    log = Log(job)
    await log.start(changelogs)
    panes: dict[str, dict[Pane, int]] = {topic: {} for topic in changelogs}
    partition_cache: dict[str, int] = {}
    seen = 0
    while seen < 2 * job.events:
        for tp, records in (await log.poll()).items():
            watch.start()
            seen += len(records)
            if tp.topic == job.topic:
                events = [w.decode(record.value) for record in records]
                dirty = _add_panes(panes[tp.topic], ((event.user, event.ts) for event in events))
                for partition, rows in _rekey(events, partition_cache, job.partitions).items():
                    await log.write(by_item, partition, rows)
            else:
                dirty = _add_panes(panes[by_item], ((r.key.decode(), int(r.value)) for r in records))
            await log.write(changelogs[tp.topic], tp.partition, _pane_rows(panes[tp.topic], dirty))
        await log.commit()
    await log.commit(force=True)
    watch.stop()
    await log.stop()


def _add_panes(panes: dict[Pane, int], rows: Iterable[tuple[str, int]]) -> set[Pane]:
    dirty = set()
    for key, ts_ms in rows:
        pane = (key, ts_ms - ts_ms % w.STEP_MS)
        panes[pane] = panes.get(pane, 0) + 1
        dirty.add(pane)
    return dirty


def _pane_rows(panes: dict[Pane, int], dirty: set[Pane]) -> Iterator[tuple[bytes, bytes]]:
    for pane in dirty:
        yield b"%b@%d" % (pane[0].encode(), pane[1]), b"%d" % panes[pane]


def _rekey(events: list[w.Event], cache: dict[str, int], partitions: int) -> dict[int, list[tuple[bytes, bytes]]]:
    rows: dict[int, list[tuple[bytes, bytes]]] = {}
    for event in events:
        key = event.item.encode()
        partition = cache.get(event.item)
        if partition is None:
            partition = cache[event.item] = partition_of(key, partitions)
        rows.setdefault(partition, []).append((key, b"%d" % event.ts))
    return rows


def _keyed(job: Job) -> KeyedResult:
    changes = latest(job.bootstrap, f"{job.run_id}-changelog", job.partitions)
    return keyed_result(keyed_row(job.workload, change.key.decode(), orjson.loads(change.value)) for change in changes)


def _windows(job: Job, suffix: str) -> WindowTotals:
    cells = []
    for change in latest(job.bootstrap, f"{job.run_id}-{suffix}", job.partitions):
        key, _, pane_ms = change.key.decode().rpartition("@")
        cells.append((key, int(pane_ms), int(change.value)))
    return window_totals(windows_of_panes(cells))


def run(job: Job) -> Report:
    """Fold the job's topic; the result is read back from the changelogs."""
    watch = Stopwatch()
    if job.workload == "w2":
        uvloop.run(_run_windows(job, watch))
        return Report(watch.elapsed_s, WindowResult(_windows(job, "user-panes"), _windows(job, "item-panes")))
    learner = w.new_learner(job.workload)
    uvloop.run(_run_keyed(job, watch, learner))
    report = Report(watch.elapsed_s, _keyed(job))
    if learner is not None:
        report.learned, report.log_loss = learner.learned, learner.log_loss
    return report
