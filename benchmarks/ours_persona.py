"""persona-stream: its own worker (Faust with batched delivery), with the workloads' folds in place of the product's.

Choices: the app is the product's, built by ``persona_stream.worker.app.build_app``: group assignment, recovery,
changelogs written once per changed key and slice by an idempotent producer with ``acks=all``, offsets committed after.
Every value carries the highest source offset applied to it, so that a redelivery changes nothing; that costs a
comparison an event. W2 keeps one-minute panes as keys of their own and expires them by the watermark; re-keying by item
goes through a topic, one small record an event.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import uvloop
from msgspec import Struct

from agents.emissions import Emissions
from benchmarks import workloads as w
from benchmarks.changelog import latest
from benchmarks.contract import (
    Job,
    KeyedResult,
    Recovered,
    Report,
    Stopwatch,
    WindowResult,
    WindowTotals,
    keyed_result,
    keyed_row,
    window_totals,
    windows_of_panes,
)
from benchmarks.data import create_topic
from persona_stream.stream.partition import SYSTEM_KEYS, Codec, Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary import metrics
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics
from persona_stream.worker.app import AgentSpec, WorkerApp, build_app

DISTRIBUTIONS = ("persona-stream", "faust-streaming", "aiokafka")

RETENTION_MS = 7_200_000
"""Panes older than this behind the watermark expire."""
POLL_S = 0.005

V = TypeVar("V")


class Applied(Struct, Generic[V], array_like=True):
    """A value and the highest source offset that was applied to it."""

    offset: int = -1
    value: V | None = None


class Pane(Struct, array_like=True):
    """Events of one key in one minute; for items, applied offsets go by source partition."""

    applied: dict[int, int] = {}
    count: int = 0


class Moment(Struct, array_like=True):
    """An event re-keyed by item."""

    ts_ms: int
    source_partition: int
    source_offset: int


Keyed = Applied[list[Any]]
Profile = Applied[dict[str, Any]]


def _codec(new: Callable[[], V], kind: Any) -> Codec[V]:
    decoder: msgspec.msgpack.Decoder[V] = msgspec.msgpack.Decoder(kind)
    return Codec(new=new, encode=msgspec.msgpack.Encoder().encode, decode=decoder.decode)


class Seen:
    """The slices that were folded: a run is over when all events are in them, and all of them are applied."""

    def __init__(self, watch: Stopwatch) -> None:
        """Nothing was folded yet."""
        self._watch = watch
        self._slices: list[Slice] = []

    def add(self, part: Slice) -> None:
        """A slice is about to be folded."""
        self._watch.start()
        self._slices.append(part)

    def all_applied(self, records: int) -> bool:
        """Whether ``records`` were folded and have their effects in Kafka."""
        return sum(map(len, self._slices)) >= records and all(part.applied for part in self._slices)


class Counting:
    """W1: count, sum and last time of each user."""

    def __init__(self, topics: Topics, seen: Seen) -> None:
        """Folds slices into a partition of Keyed."""
        self._topics, self._seen = topics, seen

    def process(self, part: Slice, users: Partition[Keyed]) -> Emissions:
        """Fold a slice."""
        self._seen.add(part)
        for record in part:
            event = w.decode(record.value or b"")
            state = users.change(event.user)
            if record.offset > state.offset:
                state.offset = record.offset
                state.value = w.count_event(state.value, event)
        users.progress.advance(part)
        return Emissions(self._topics)


class Featuring:
    """W3: fifteen features of each event, and where asked one step of River."""

    def __init__(self, topics: Topics, seen: Seen, learner: w.Learner | None) -> None:
        """Folds slices into a partition of Profile."""
        self._topics, self._seen, self._learner = topics, seen, learner

    def process(self, part: Slice, users: Partition[Profile]) -> Emissions:
        """Fold a slice."""
        self._seen.add(part)
        for record in part:
            event = w.decode(record.value or b"")
            state = users.change(event.user)
            if record.offset > state.offset:
                state.offset = record.offset
                state.value = w.featurize(state.value or w.new_user(), event, self._learner)
        users.progress.advance(part)
        return Emissions(self._topics)


class Paning:
    """W2: events by key and minute. ``rekey`` hands each event of the log on to its item."""

    def __init__(self, topics: Topics, seen: Seen, *, rekey: bool) -> None:
        """Folds slices into a partition of Pane."""
        self._topics, self._seen, self._rekey = topics, seen, rekey
        self._by_minute: dict[int, dict[int, set[str]]] = {}

    def process(self, part: Slice, panes: Partition[Pane]) -> Emissions:
        """Fold a slice, expire what the watermark has passed."""
        self._seen.add(part)
        out = Emissions(self._topics)
        (self._fold_log if self._rekey else self._fold_moments)(part, panes, out)
        panes.progress.advance(part)
        self._expire(part.partition, panes)
        return out

    def _fold_log(self, part: Slice, panes: Partition[Pane], out: Emissions) -> None:
        encode = msgspec.msgpack.Encoder().encode
        for record in part:
            event = w.decode(record.value or b"")
            self._add(panes, part.partition, event.user, event.ts, part.partition, record.offset)
            moment = Moment(event.ts, part.partition, record.offset)
            out.emit(self._topics.item_events, event.item, encode(moment))

    def _fold_moments(self, part: Slice, panes: Partition[Pane], out: Emissions) -> None:
        decode = msgspec.msgpack.Decoder(Moment).decode
        for record in part:
            moment = decode(record.value or b"")
            item = (record.key or b"").decode()
            self._add(panes, part.partition, item, moment.ts_ms, moment.source_partition, moment.source_offset)

    def _add(self, panes: Partition[Pane], partition: int, key: str, ts_ms: int, source: int, offset: int) -> None:
        minute = ts_ms // w.STEP_MS
        name = f"{key}@{minute}"
        pane = panes.change(name)
        if offset > pane.applied.get(source, -1):
            if not pane.applied:
                self._by_minute.setdefault(partition, {}).setdefault(minute, set()).add(name)
            pane.applied[source] = offset
            pane.count += 1
        panes.progress.watermark_ms = max(panes.progress.watermark_ms, ts_ms)

    def _expire(self, partition: int, panes: Partition[Pane]) -> None:
        oldest = (panes.progress.watermark_ms - RETENTION_MS) // w.STEP_MS
        by_minute = self._by_minute.get(partition, {})
        for minute in [minute for minute in by_minute if minute < oldest]:
            for name in by_minute.pop(minute):
                panes.delete(name)


def run(job: Job) -> Report:
    """Fold the job's topic; the result is read back from the changelogs."""
    settings = settings_of(job)
    topics, watch = Topics(job.run_id), Stopwatch()
    seen, learner = Seen(watch), w.new_learner(job.workload)
    if job.workload == "w1":
        specs = [_counting(job, seen)]
    elif job.workload == "w2":
        pane = _codec(Pane, Pane)
        specs = [
            AgentSpec("users", job.topic, pane, Paning(topics, seen, rekey=True)),
            AgentSpec("items", topics.item_events, pane, Paning(topics, seen, rekey=False)),
        ]
    else:
        specs = [AgentSpec("users", job.topic, _codec(Profile, Profile), Featuring(topics, seen, learner))]
    records = job.events * (2 if job.workload == "w2" else 1)
    uvloop.run(_run(build_app(settings, specs), settings, job, specs, seen, watch, records))
    result = _windows(job, topics) if job.workload == "w2" else _keyed(job, topics)
    if learner is None:
        return Report(watch.elapsed_s, result)
    return Report(watch.elapsed_s, result, learned=learner.learned, log_loss=learner.log_loss)


def recover(job: Job) -> Recovered:
    """Start a worker on what `run` left, until it is ready."""
    settings = settings_of(job)
    uvloop.run(until_recovered(build_app(settings, [_counting(job, Seen(Stopwatch()))])))
    return Recovered(metrics.RECOVERY_SECONDS._value.get(), int(metrics.RECOVERED_RECORDS._value.get()))


async def until_recovered(app: WorkerApp) -> None:
    """Run a worker until its state is read back."""
    (app.settings.home / "worker").mkdir(parents=True, exist_ok=True)
    await app.start()
    await app.tables.recovery.completed.wait()  # type: ignore[attr-defined]  # not in Faust's interface
    await app.stop()


def settings_of(job: Job) -> Settings:
    """The product's settings for a job."""
    place = {"namespace": job.run_id, "partitions": job.partitions, "home": Path(job.state_dir)}
    return Settings.load({"kafka": job.bootstrap, **place}, env={})


def _counting(job: Job, seen: Seen) -> AgentSpec:
    return AgentSpec("users", job.topic, _codec(Keyed, Keyed), Counting(Topics(job.run_id), seen))


async def _run(
    app: WorkerApp,
    settings: Settings,
    job: Job,
    specs: list[AgentSpec],
    seen: Seen,
    watch: Stopwatch,
    records: int,
) -> None:
    topics = Topics(settings.namespace)
    (settings.home / "worker").mkdir(parents=True, exist_ok=True)
    for spec in specs:
        await create_topic(job.bootstrap, topics.changelog(spec.table), job.partitions, {"cleanup.policy": "compact"})
    await create_topic(job.bootstrap, topics.item_events, job.partitions)
    await until_applied(app, seen, watch, records)


async def until_applied(app: WorkerApp, seen: Seen, watch: Stopwatch, records: int) -> None:
    """Run a worker until all is folded and committed."""
    await app.start()
    while not seen.all_applied(records):
        await asyncio.sleep(POLL_S)
    await app.consumer.commit()
    watch.stop()
    await app.stop()


def _keyed(job: Job, topics: Topics) -> KeyedResult:
    decode = msgspec.msgpack.Decoder(Keyed if job.workload == "w1" else Profile).decode
    return keyed_result(
        keyed_row(job.workload, change.key.decode(), decode(change.value).value)
        for change in latest(job.bootstrap, topics.changelog("users"), job.partitions)
        if change.key not in SYSTEM_KEYS and change.value
    )


def _windows(job: Job, topics: Topics) -> WindowResult:
    return WindowResult(*(_window_totals(job, topics.changelog(table)) for table in ("users", "items")))


def _window_totals(job: Job, changelog: str) -> WindowTotals:
    decode = msgspec.msgpack.Decoder(Pane).decode
    cells = []
    for change in latest(job.bootstrap, changelog, job.partitions):
        if change.key not in SYSTEM_KEYS and change.value:
            key, _, minute = change.key.decode().rpartition("@")
            cells.append((key, int(minute) * w.STEP_MS, decode(change.value).count))
    return window_totals(windows_of_panes(cells))
