"""Every agent with a log that exercises it: what the tests that hold for all of them run over."""

import random
from collections.abc import Callable

import orjson
from hypothesis import strategies as st

from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.config import Settings
from persona_stream.worker.app import AgentSpec, agent_specs
from support.broken import broken_records
from support.logs import APPENDED_MS, DAY_MS, T0_MS, Log, LogRecord, log_of, log_of_records, shopping, slices
from support.runs import Crash, run

# One partition: no user of these logs is in the wrong one.
SETTINGS = Settings(namespace="t", partitions=1)
SHOWN, EXAMPLES = "t.internal.shown", "t.examples.v1"
SPECS: dict[str, AgentSpec] = {spec.table: spec for spec in agent_specs(SETTINGS)}

CUTS = st.lists(st.integers(0, 10_000), max_size=8)
CRASHES = st.dictionaries(
    st.integers(0, 8),
    st.builds(Crash, st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0]), st.integers(0, 200), st.integers(0, 3)),
    max_size=4,
)


def events_log(seed: int, count: int = 60) -> Log:
    """Shopping, late events, and broken records in between."""
    random_ = random.Random(seed)
    log = log_of(shopping(count, seed=seed))
    late = {"id": f"late{seed}", "type": "view", "user": "u1", "item": "i1", "ts": T0_MS - DAY_MS}
    log += log_of([late])
    log += [
        LogRecord(0, broken.value, broken.key)
        for broken in random_.sample(broken_records(APPENDED_MS), 5)
        if broken.reason != "too_large"
    ]
    random_.shuffle(log)
    return renumbered(log)


def item_events_log(seed: int) -> Log:
    """What the interactions agent makes of an events log."""
    return log_of_records(emitted("users", events_log(seed), "t.internal.item-events"))


def shown_log(seed: int) -> Log:
    """What is told of lists: that they were shown and chosen from, and, from two partitions, their rows."""
    log = events_log(seed)
    told = emitted("users", log, SHOWN)
    halves = [emitted("users", log, "t.internal.item-events")[half::2] for half in (0, 1)]
    rows = [emitted("items", log_of_records(half), SHOWN, partition=at) for at, half in enumerate(halves)]
    return log_of_records(interleaved(seed, told, *rows))


def examples_log(seed: int) -> Log:
    """What the items and the impressions agents make of that."""
    of_items = emitted("items", item_events_log(seed), EXAMPLES)
    return log_of_records(interleaved(seed, of_items, emitted("impressions", shown_log(seed), EXAMPLES)))


def interleaved(seed: int, *logs: list[Record]) -> list[Record]:
    """Some logs mixed, the order within each as it was."""
    turns = [at for at, log in enumerate(logs) for _ in log]
    random.Random(seed).shuffle(turns)
    left = [iter(log) for log in logs]
    return [next(left[at]) for at in turns]


def catalogue_log(seed: int) -> Log:
    """Versions out of order, deletions, and a record that is not an item."""
    return _versions(seed, "id", "attributes", "i")


def profiles_log(seed: int) -> Log:
    """The same of profiles."""
    return _versions(seed, "user", "traits", "u")


LOGS: dict[str, Callable[[int], Log]] = {
    "users": events_log,
    "items": item_events_log,
    "impressions": shown_log,
    "learner": examples_log,
    "catalogue": catalogue_log,
    "profiles": profiles_log,
}


def emitted(table: str, log: Log, topic: str, *, partition: int = 0) -> list[Record]:
    """What a table's agent writes to a topic when it folds a log."""
    spec = SPECS[table]
    return run(spec.fold, spec.codec, slices(log, partition=partition)).emitted.get(topic, [])


def _versions(seed: int, key: str, fields: str, letter: str) -> Log:
    random_ = random.Random(seed)
    log: Log = []
    # Of two versions with one event time the later read is held: here each has its own.
    for number, ts_ms in enumerate(random_.sample(range(T0_MS, T0_MS + 1000), 40)):
        name = f"{letter}{random_.randrange(8)}"
        made = {key: name, "ts": ts_ms, fields: {"n": number}}
        value = orjson.dumps(made) if random_.random() > 0.15 else None
        log.append(LogRecord(number, value, name.encode(), timestamp=T0_MS + 1000))
    log.append(LogRecord(0, b'{"ts": 5}', b"broken"))
    random_.shuffle(log)
    return renumbered(log)


def renumbered(log: Log) -> Log:
    """The records at new offsets, with holes, as compaction and transactions leave them."""
    return [
        LogRecord(3 * at, record.value, record.key, record.timestamp, record.headers) for at, record in enumerate(log)
    ]
