"""The order rule of each table: what another order of arrival, and what is told twice, may change of it.

| table | rule |
| --- | --- |
| users | within the allowed lateness, any order |
| items | any interleaving of the partitions that its events come from |
| catalogue, profiles | the newest version by event time, in any order |
| impressions | the order of its log: a list closes when the time of what was told before has passed its window |
| learner | the order of its log: each example is a step from where the one before led |

`tests/agents/test_order.py` holds users and items together to theirs, from events to co-visits.
"""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.agents import LOGS, SETTINGS, SPECS, emitted, renumbered
from support.logs import Log, LogRecord, log_of, log_of_records, shopping, slices
from support.runs import run

from persona_stream.vocabulary.topics import TABLES

few = settings(deadline=None, max_examples=20)
RANDOMS = st.randoms(use_true_random=False)
Arrivals = Callable[[int, random.Random], Log]


def _events(seed: int, random_: random.Random) -> Log:
    events = sorted(shopping(60, seed=seed), key=lambda made: made["ts"])
    return log_of(sorted(events, key=lambda made: made["ts"] + random_.randint(0, SETTINGS.allowed_lateness_ms)))


def _item_events(seed: int, random_: random.Random) -> Log:
    logs = [
        emitted("users", log_of(shopping(40, seed=seed + partition)), "t.internal.item-events", partition=partition)
        for partition in range(3)
    ]
    turns = [partition for partition, log in enumerate(logs) for _ in log]
    random_.shuffle(turns)
    left = [iter(log) for log in logs]
    return log_of_records(next(left[partition]) for partition in turns)


def _shuffled(table: str) -> Arrivals:
    def arrivals(seed: int, random_: random.Random) -> Log:
        log = list(LOGS[table](seed))
        random_.shuffle(log)
        return renumbered(log)

    return arrivals


ANY_ORDER: dict[str, Arrivals] = {
    "users": _events,
    "items": _item_events,
    "catalogue": _shuffled("catalogue"),
    "profiles": _shuffled("profiles"),
}
IN_LOG_ORDER = {"impressions", "learner"}


def test_each_table_has_one_order_rule() -> None:
    assert not ANY_ORDER.keys() & IN_LOG_ORDER
    assert ANY_ORDER.keys() | IN_LOG_ORDER == set(TABLES)


def _values(table: str, log: Log) -> dict[str, bytes]:
    """The table as bytes, offsets aside: where a value came from is not what it is."""
    spec = SPECS[table]
    state = run(spec.fold, spec.codec, slices(log)).state
    values = {}
    for key in state:
        value = state.get(key)
        for place in {"applied", "closed_at", "sources"} & set(value.__struct_fields__):
            setattr(value, place, type(getattr(value, place))())
        values[key] = spec.codec.encode(value)
    return values


@pytest.mark.parametrize("table", ANY_ORDER)
@few
@given(seed=st.integers(0, 1000), first=RANDOMS, second=RANDOMS)
def test_another_order_gives_the_same_bytes(table: str, seed: int, first: random.Random, second: random.Random) -> None:
    assert _values(table, ANY_ORDER[table](seed, first)) == _values(table, ANY_ORDER[table](seed, second))


@pytest.mark.parametrize("table", sorted(IN_LOG_ORDER))
def test_where_the_order_of_the_log_counts_it_does(table: str) -> None:
    log = LOGS[table](1)
    assert _values(table, log) == _values(table, log)
    other = [LogRecord(record.offset, twin.value, twin.key) for record, twin in zip(log, reversed(log), strict=True)]
    assert _values(table, other) != _values(table, log)


@pytest.mark.parametrize("table", SPECS)
@few
@given(seed=st.integers(0, 1000), random_=RANDOMS)
def test_records_told_again_at_new_offsets_change_nothing(table: str, seed: int, random_: random.Random) -> None:
    log = LOGS[table](seed)
    told = list(log)
    for record in random_.sample(log, min(20, len(log))):
        told.insert(random_.randint(told.index(record) + 1, len(told)), record)
    assert _values(table, renumbered(told)) == _values(table, log)
