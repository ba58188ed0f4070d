"""Quix Streams: StreamingDataFrame with RocksDB state and changelog topics.

Choices: one process, at-least-once (its default), the default checkpoint every 5 s and one at the end,
which makes the last event durable (changelog flushed, offsets committed, RocksDB written); the source as
bytes, decoded by msgspec into a typed struct instead of the default JSON dict; state values as JSON by
orjson (Quix's own). W2: ``hopping_window().count().final()``, the cheaper of its two outputs, for users on
the source's key and for items after ``group_by`` (a repartition topic; keys as strings, values cut down to
what a count needs). Results are read back from the changelog topics; a window that opened and closed
between two checkpoints is never written there, so the closed windows of W2 are those that Quix emitted.
"""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import orjson
from quixstreams import Application, State
from quixstreams.models import TopicConfig
from quixstreams.state.rocksdb.windowed.serialization import parse_window_key

from benchmarks import workloads as w
from benchmarks.changelog import latest
from benchmarks.contract import (
    Job,
    Recovered,
    Report,
    Stopwatch,
    WindowResult,
    WindowTotals,
    keyed_result,
    keyed_row,
    window_totals,
)

DISTRIBUTIONS = ("quixstreams", "confluent-kafka", "rocksdict")


def _application(job: Job, processed: "Countdown | None" = None) -> Application:
    return Application(
        broker_address=job.bootstrap,
        consumer_group=job.run_id,
        auto_offset_reset="earliest",
        state_dir=job.state_dir,
        loglevel="WARNING",
        on_message_processed=processed,
    )


def _source(app: Application, job: Job) -> Any:
    config = TopicConfig(job.partitions, 1, extra_config={"retention.ms": "-1", "retention.bytes": "-1"})
    topic = app.topic(job.topic, key_deserializer="str", value_deserializer="bytes", config=config)
    return app.dataframe(topic)


class Countdown:
    """Stops the application after so many messages, of the source and of repartition topics."""

    def __init__(self, messages: int) -> None:
        """``app`` is set once there is one."""
        self.left = messages
        self.app: Application | None = None

    def __call__(self, _topic: str, _partition: int, _offset: int) -> None:
        """Count one processed message."""
        self.left -= 1
        if not self.left and self.app is not None:
            self.app.stop()


def recover(job: Job) -> Recovered:
    """Start on what `run` left, until Quix resumes processing."""
    app = _application(job)
    manager = app._state_manager
    do_recovery = manager.do_recovery
    done = Recovered(0.0, 0)

    def timed() -> None:
        partitions = manager._recovery_manager.partitions.values()
        done.records = sum(held.changelog_highwater for stores in partitions for held in stores.values())
        started_s = perf_counter()
        do_recovery()
        done.elapsed_s = perf_counter() - started_s
        app.stop()

    manager.do_recovery = timed  # type: ignore[method-assign]  # there is no other hook

    def count(raw: bytes, state: State[str, Any]) -> None:
        state.set("s", w.count_event(state.get("s"), w.decode(raw)))

    _source(app, job).update(count, stateful=True)
    app.run()
    return done


def _run_keyed(job: Job, watch: Stopwatch, learner: w.Learner | None) -> None:
    countdown = Countdown(job.events)
    countdown.app = app = _application(job, countdown)

    def count(raw: bytes, state: State[str, Any]) -> None:
        watch.start()
        state.set("s", w.count_event(state.get("s"), w.decode(raw)))

    def featurize(raw: bytes, state: State[str, Any]) -> None:
        watch.start()
        state.set("s", w.featurize(state.get("s") or w.new_user(), w.decode(raw), learner))

    _source(app, job).update(count if job.workload == "w1" else featurize, stateful=True)
    app.run()
    watch.stop()


Closed = list[tuple[str, int, int]]


def _collect(windows: Any) -> Closed:
    """What a stream of final windows emits: ``(key, start_ms, count)``."""
    closed: Closed = []

    def keep(window: dict[str, int], key: str, _timestamp_ms: int, _headers: object) -> None:
        closed.append((key, window["start"], window["value"]))

    windows.update(keep, metadata=True)
    return closed


def _run_windows(job: Job, watch: Stopwatch) -> tuple[Closed, Closed]:
    countdown = Countdown(2 * job.events)
    countdown.app = app = _application(job, countdown)

    def item_of(raw: bytes) -> str:
        watch.start()
        return w.decode(raw).item

    source = _source(app, job)
    users = source.hopping_window(w.WINDOW_MS, w.STEP_MS, w.LATENESS_MS, name="user-windows").count().final()
    items = source.apply(item_of).group_by(
        lambda item: item,
        name="by-item",
        key_serializer="str",
        key_deserializer="str",
        value_serializer="str",
        value_deserializer="str",
    )
    items = items.hopping_window(w.WINDOW_MS, w.STEP_MS, w.MERGED_LATENESS_MS, name="item-windows").count().final()
    closed = _collect(users), _collect(items)
    app.run()
    watch.stop()
    return closed


def _changelog(job: Job, stream: str, store: str) -> str:
    return f"changelog__{job.run_id}--{stream}--{store}"


def _states(job: Job) -> Iterator[tuple[str, int, float, int]]:
    for change in latest(job.bootstrap, _changelog(job, job.topic, "default"), job.partitions):
        user = orjson.loads(change.key.rpartition(b"|")[0])
        yield keyed_row(job.workload, user, orjson.loads(change.value))


def _windows(job: Job, stream: str, store: str, closed: Closed) -> WindowTotals:
    changelog = _changelog(job, stream, f"{store}_hopping_window_{w.WINDOW_MS}_{w.STEP_MS}_count")
    counts = {}
    for change in latest(job.bootstrap, changelog, job.partitions):
        if change.headers["__column_family__"] == b"default":
            key, start_ms, _ = parse_window_key(change.key)
            counts[orjson.loads(key), start_ms] = orjson.loads(change.value)
    counts |= {(key, start_ms): count for key, start_ms, count in closed}
    return window_totals((key, start_ms, count) for (key, start_ms), count in counts.items())


def run(job: Job) -> Report:
    """Fold the job's topic; the result is read back from the changelogs."""
    watch = Stopwatch()
    if job.workload == "w2":
        users, items = _run_windows(job, watch)
        return Report(
            watch.elapsed_s,
            WindowResult(
                _windows(job, job.topic, "user-windows", users),
                _windows(job, f"repartition.{job.topic}.by-item", "item-windows", items),
            ),
        )
    learner = w.new_learner(job.workload)
    _run_keyed(job, watch, learner)
    report = Report(watch.elapsed_s, keyed_result(_states(job)))
    if learner is not None:
        report.learned, report.log_loss = learner.learned, learner.log_loss
    return report
