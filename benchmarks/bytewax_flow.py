"""Bytewax: its Kafka source, stateful_batch and event-time windows, recovery (SQLite) enabled.

Choices: one worker in one process (``cli_main``), msgspec into a typed struct, ``stateful_batch`` (the cheapest
stateful operator: the state of a key is fetched once per batch) for W1 and W3, ``count_window`` for W2. The Kafka
connector's batch is 50,000 for W1 and W3 (its documentation calls the default of 1,000 a starting point to tune;
on 500,000 events W1 reached 79,000 a second with it, 63,000 with 10,000), 10,000 for W2 (50,000 was faster, but
read partitions so far apart that on-time events of an item were dropped as late).
Epoch and snapshot interval: the default 10 s, and one at the end of the input, which makes the last event durable.
W2: ``to_system_utc`` returns None as documented for clocks of replayed time (or every key
would be woken in every round to see whether its window closed); re-keying by item is Bytewax's in-memory
exchange between operators. Results are what the operators emit; that each key was snapshot is checked
against the recovery store.
"""

import gc
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax import recovery
from bytewax import run as bytewax_run
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from benchmarks import workloads as w
from benchmarks.contract import (
    Job,
    Report,
    Stopwatch,
    WindowResult,
    WindowTotals,
    keyed_result,
    window_totals,
)

DISTRIBUTIONS = ("bytewax", "confluent-kafka")

BATCH_SIZE = 50_000
WINDOW_BATCH_SIZE = 10_000
ALIGN_TO = datetime(2025, 1, 1, tzinfo=UTC)
ALIGN_TO_MS = int(ALIGN_TO.timestamp() * 1000)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = tuple[str, Any]

# Bytewax's Rust core has stubs without annotations
_recovery: Any = recovery
_cli: Any = bytewax_run


@dataclass
class Collected(StatelessSinkPartition[Row], DynamicSink[Row]):
    """A sink that keeps the batches that it is given; they are looked at after the run."""

    batches: list[list[Row]] = field(default_factory=list)

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> "Collected":
        """One worker: the sink is its own partition."""
        return self

    def write_batch(self, items: list[Row]) -> None:
        """Keep a batch."""
        self.batches.append(items)


class CountLogic(StatefulBatchLogic[w.Event, w.KeyedState, w.KeyedState]):
    """W1: the state of one user."""

    def __init__(self, state: w.KeyedState | None) -> None:
        """``state`` is the recovered one, if any."""
        self.state = state

    def on_batch(self, values: list[w.Event]) -> tuple[Iterable[w.KeyedState], bool]:
        """Fold the events of one batch, emit the state after it."""
        state = self.state
        for event in values:
            state = w.count_event(state, event)
        assert state is not None
        self.state = state
        return (state,), False

    def snapshot(self) -> w.KeyedState:
        """The fold replaces the list, so the current one may be handed out."""
        assert self.state is not None
        return self.state


class FeatureLogic(StatefulBatchLogic[w.Event, tuple[int, float, int], w.UserState]):
    """W3: the state of one user; the learner is the process's."""

    def __init__(self, state: w.UserState | None, learner: w.Learner | None) -> None:
        """``state`` is the recovered one, if any."""
        self.state = w.new_user() if state is None else state
        self.learner = learner

    def on_batch(self, values: list[w.Event]) -> tuple[Iterable[tuple[int, float, int]], bool]:
        """Featurize and fold the events of one batch, emit what the result needs of the state after it."""
        state = self.state
        for event in values:
            w.featurize(state, event, self.learner)
        return ((state["events"], state["feature_sum"], state["last_ts"]),), False

    def snapshot(self) -> w.UserState:
        """A copy, as the fold works in place."""
        return {**self.state, "recent": list(self.state["recent"])}


def _input(flow: Dataflow, job: Job, watch: Stopwatch) -> Any:
    batch_size = WINDOW_BATCH_SIZE if job.workload == "w2" else BATCH_SIZE
    source = KafkaSource([job.bootstrap], [job.topic], tail=False, batch_size=batch_size)

    def parse(batch: list[Any]) -> list[w.Event]:
        watch.start()
        return [w.decode(message.value) for message in batch]

    return op.flat_map_batch("decode", op.input("kafka", flow, source), parse)


def _keyed_flow(job: Job, watch: Stopwatch, learner: w.Learner | None) -> tuple[Dataflow, Collected]:
    flow, sink = Dataflow(job.workload), Collected()
    keyed = op.key_on("user", _input(flow, job, watch), lambda event: event.user)
    if job.workload == "w1":
        states: Any = op.stateful_batch("count", keyed, CountLogic)
    else:
        states = op.stateful_batch("features", keyed, lambda state: FeatureLogic(state, learner))
    op.output("out", states, sink)
    return flow, sink


def _clock(lateness_ms: int) -> Any:
    return win.EventClock(
        lambda event: EPOCH + timedelta(milliseconds=event.ts),
        timedelta(milliseconds=lateness_ms),
        to_system_utc=lambda _: None,
    )


def _window_flow(job: Job, watch: Stopwatch) -> tuple[Dataflow, dict[str, Collected]]:
    flow = Dataflow(job.workload)
    events = _input(flow, job, watch)
    windower = win.SlidingWindower(timedelta(milliseconds=w.WINDOW_MS), timedelta(milliseconds=w.STEP_MS), ALIGN_TO)
    sinks = {"user": Collected(), "item": Collected()}
    for name, lateness_ms in (("user", w.LATENESS_MS), ("item", w.MERGED_LATENESS_MS)):
        counts = win.count_window(name, events, _clock(lateness_ms), windower, attrgetter(name))
        op.output(f"{name}-out", counts.down, sinks[name])
    return flow, sinks


def _run(flow: Dataflow, job: Job, watch: Stopwatch) -> None:
    _recovery.init_db_dir(Path(job.state_dir), 1)
    _cli.cli_main(flow, recovery_config=_recovery.RecoveryConfig(job.state_dir))
    watch.stop()


def _snapshot_keys(job: Job, step: str) -> int:
    # the store is written when the flow has ended; close it for sure before it is read
    gc.collect()
    keys: set[str] = set()
    for path in Path(job.state_dir).glob("*.sqlite3"):
        with sqlite3.connect(path) as store:
            rows = store.execute("SELECT DISTINCT state_key FROM snaps WHERE step_id LIKE ?", (f"%{step}%",))
            keys.update(key for (key,) in rows)
    return len(keys)


def _totals(sink: Collected) -> WindowTotals:
    return window_totals(
        (key, ALIGN_TO_MS + window_id * w.STEP_MS, count) for batch in sink.batches for key, (window_id, count) in batch
    )


def run(job: Job) -> Report:
    """Fold the job's topic until its end."""
    watch = Stopwatch()
    if job.workload == "w2":
        flow, sinks = _window_flow(job, watch)
        _run(flow, job, watch)
        return Report(watch.elapsed_s, WindowResult(_totals(sinks["user"]), _totals(sinks["item"])))
    learner = w.new_learner(job.workload)
    flow, sink = _keyed_flow(job, watch, learner)
    _run(flow, job, watch)
    states = {user: state for batch in sink.batches for user, state in batch}
    durable = _snapshot_keys(job, "count" if job.workload == "w1" else "features")
    if durable != len(states):
        raise RuntimeError(f"the recovery store holds {durable} of {len(states)} users: not durable")
    report = Report(watch.elapsed_s, keyed_result((user, *state) for user, state in states.items()))
    if learner is not None:
        report.learned, report.log_loss = learner.learned, learner.log_loss
    return report
