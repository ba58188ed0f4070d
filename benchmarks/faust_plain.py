"""Plain Faust: agents over streams, tables in memory with changelog topics, as its documentation shows.

Choices: one worker process on uvloop, ``producer_linger_ms=5`` so that changelog writes share requests (the
default of 0 is slower), web server and exactly-once off (the defaults for a library user and for speed), a
codec on msgspec for events, the Cython extensions of the wheel, a larger ``stream_buffer_maxsize``.
W1 and W3: one agent, ``table[key] = ...`` per event. W2: two hopping tables, items after ``group_by`` (a
repartition topic). Topics are created beforehand, see ``_create_topics``. Durable means: producer flushed
(every changelog write acknowledged) and offsets committed. Results are read back from the changelog topics.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import faust
import orjson
import uvloop
from faust.serializers import codecs

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
)
from benchmarks.data import create_topic

DISTRIBUTIONS = ("faust-streaming", "aiokafka")

CODEC = "bench_event"


class EventCodec(codecs.Codec):
    """JSON bytes to :class:`benchmarks.workloads.Event`; never used to write."""

    def _loads(self, s: bytes) -> w.Event:
        return w.decode(s)


def _app(job: Job) -> faust.App:
    codecs.register(CODEC, EventCodec())
    return faust.App(
        job.run_id,
        broker=f"kafka://{job.bootstrap}",
        store="memory://",
        datadir=job.state_dir,
        topic_partitions=job.partitions,
        topic_disable_leader=True,
        producer_linger_ms=5,
        stream_buffer_maxsize=16_384,
        web_enabled=False,
        value_serializer="json",
    )


class Progress:
    """Counts processed events; ``done`` is set by the last one."""

    def __init__(self, events: int) -> None:
        """``events`` steps are expected."""
        self.left = events
        self.done = asyncio.Event()

    def step(self) -> None:
        """One more event was applied."""
        self.left -= 1
        if not self.left:
            self.done.set()


def _keyed_app(job: Job, watch: Stopwatch, progress: Progress, learner: w.Learner | None) -> faust.App:
    app = _app(job)
    topic = app.topic(job.topic, key_serializer="raw", value_serializer=CODEC)
    table: Any = app.Table("state", partitions=job.partitions)

    async def count(stream: Any) -> None:
        async for event in stream:
            watch.start()
            table[event.user] = w.count_event(table.get(event.user), event)
            progress.step()

    async def featurize(stream: Any) -> None:
        async for event in stream:
            watch.start()
            table[event.user] = w.featurize(table.get(event.user) or w.new_user(), event, learner)
            progress.step()

    app.agent(topic)(count if job.workload == "w1" else featurize)
    return app


def _event_seconds(event: Any) -> float:
    seconds: float = event.value.ts / 1000.0
    return seconds


def _hopping(app: faust.App, name: str, partitions: int, lateness_ms: int) -> Any:
    table: Any = app.Table(name, default=int, partitions=partitions)
    expires_s = (w.WINDOW_MS + lateness_ms) / 1000.0
    return table.hopping(w.WINDOW_MS / 1000.0, w.STEP_MS / 1000.0, expires=expires_s).relative_to(_event_seconds)


def _window_app(job: Job, watch: Stopwatch, progress: Progress) -> faust.App:
    app = _app(job)
    topic = app.topic(job.topic, key_serializer="raw", value_serializer=CODEC)
    # named after the run: the name that Faust would choose is the same for every run
    rekeyed = app.topic(
        f"{job.run_id}-by-item",
        key_serializer="raw",
        value_serializer=CODEC,
        partitions=job.partitions,
        internal=True,
    )
    by_user = _hopping(app, "users", job.partitions, w.LATENESS_MS)
    by_item = _hopping(app, "items", job.partitions, w.MERGED_LATENESS_MS)

    async def users(stream: Any) -> None:
        async for event in stream:
            watch.start()
            by_user[event.user] += 1
            progress.step()

    async def items(stream: Any) -> None:
        async for event in stream.group_by(lambda event: event.item, name="item", topic=rekeyed):
            by_item[event.item] += 1
            progress.step()

    app.agent(topic)(users)
    app.agent(topic)(items)
    return app


async def _run(app: faust.App, watch: Stopwatch, progress: Progress) -> None:
    app.finalize()
    await app.start()
    await progress.done.wait()
    await app.producer.flush()
    await app.consumer.commit()
    watch.stop()
    await app.stop()


def _states(job: Job) -> Iterator[tuple[str, int, float, int]]:
    for change in latest(job.bootstrap, f"{job.run_id}-state-changelog", job.partitions):
        yield keyed_row(job.workload, orjson.loads(change.key), orjson.loads(change.value))


def _windows(job: Job, table: str) -> WindowTotals:
    cells = []
    for change in latest(job.bootstrap, f"{job.run_id}-{table}-changelog", job.partitions):
        key, (start_s, _end_s) = orjson.loads(change.key)
        cells.append((key, int(start_s * 1000), orjson.loads(change.value)))
    return window_totals(cells)


async def _create_topics(job: Job) -> None:
    """Create what Faust would create: it may write to a changelog before it knows of its partitions.

    Seen in one of twenty runs: the first write raised PartitionsMismatch ("0 partitions") and the agent that
    was restarted after it never got another event.
    """
    if job.workload == "w2":
        await create_topic(job.bootstrap, f"{job.run_id}-by-item", job.partitions)
    for table in ("users", "items") if job.workload == "w2" else ("state",):
        name = f"{job.run_id}-{table}-changelog"
        await create_topic(job.bootstrap, name, job.partitions, {"cleanup.policy": "compact"})


async def _main(job: Job, watch: Stopwatch, learner: w.Learner | None) -> None:
    await _create_topics(job)
    if job.workload == "w2":
        progress = Progress(2 * job.events)
        await _run(_window_app(job, watch, progress), watch, progress)
    else:
        progress = Progress(job.events)
        await _run(_keyed_app(job, watch, progress, learner), watch, progress)


def run(job: Job) -> Report:
    """Fold the job's topic; the result is read back from the changelogs."""
    watch = Stopwatch()
    learner = w.new_learner(job.workload)
    uvloop.run(_main(job, watch, learner))
    result: KeyedResult | WindowResult
    if job.workload == "w2":
        result = WindowResult(_windows(job, "users"), _windows(job, "items"))
    else:
        result = keyed_result(_states(job))
    report = Report(watch.elapsed_s, result)
    if learner is not None:
        report.learned, report.log_loss = learner.learned, learner.log_loss
    return report
