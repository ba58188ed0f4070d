"""The order of arrival: within the allowed lateness it does not show in the tables of users and items."""

import random
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.logs import T0_MS, Log, LogRecord, event, log_of, shopping, slices
from support.runs import run
from xxhash import xxh3_64_intdigest

from agents.interactions import Interactions
from agents.items import Items
from persona_stream.kafka.writer import Partitioner, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import ItemEvent, decode_item_event
from tables import items as items_table
from tables import users as users_table
from tables.covisits import NEIGHBOURS_KEPT, WINDOW_MS, sample
from tables.users import HASH_MASK, UserState

PARTITIONS = 3
SETTINGS = Settings(namespace="t", partitions=PARTITIONS)
LATENESS_MS = SETTINGS.allowed_lateness_ms
some = settings(deadline=None, max_examples=30)

Events = list[dict[str, Any]]
Tables = tuple[dict[str, bytes], dict[str, bytes]]


def _baskets(size: int, seed: int) -> Events:
    """Shopping in which many events fall into the same millisecond, and each id comes once."""
    random_ = random.Random(seed)
    made = list({one["id"]: one for one in shopping(size, seed=seed, users=5, items=12)}.values())
    for one in made:
        one["ts"] -= one["ts"] % random_.choice([1, 1, 600_000])
    return made


def _late_by_chance(events: Events, random_: random.Random) -> Events:
    return sorted(events, key=lambda made: made["ts"] + random_.randint(0, LATENESS_MS))


def _folded(events: Events, random_: random.Random, *, cuts: tuple[int, ...] = ()) -> Tables:
    """Users and items as bytes, offsets aside: events in this order, partitions interleaved by chance."""
    partition_of = Partitioner(PARTITIONS)
    logs: dict[int, Events] = defaultdict(list)
    for made in events:
        logs[partition_of(made["user"].encode())].append(made)
    users: dict[str, bytes] = {}
    moved: list[list[Record]] = []
    for partition, part in sorted(logs.items()):
        parts = slices(log_of(part), cuts, partition=partition)
        done = run(Interactions(SETTINGS, with_examples=False), users_table.codec, parts)
        assert set(done.outcomes) <= {"applied", "duplicate"}, done.outcomes
        users |= {key: _without_offset(done.state.get(key)) for key in done.state}
        moved.append(done.emitted.get("t.internal.item-events", []))
    return users, _items(_interleaved(moved, random_))


def _without_offset(state: UserState | None) -> bytes:
    assert state is not None
    state.applied = 0
    return users_table.codec.encode(state)


def _interleaved(logs: list[list[Record]], random_: random.Random) -> Log:
    left = [list(reversed(log)) for log in logs]
    numbers = count()
    log: Log = []
    while alive := [part for part in left if part]:
        record = random_.choice(alive).pop()
        log.append(LogRecord(next(numbers), record.value, record.key))
    return log


def _items(log: Log) -> dict[str, bytes]:
    done = run(Items(SETTINGS, with_examples=False), items_table.codec, slices(log))
    items = {}
    for key in done.state:
        state = done.state.get(key)
        # Where each came from is not what it is: offsets follow the order of arrival.
        state.applied = {}
        items[key] = items_table.codec.encode(state)
    return items


@some
@given(st.integers(0, 10_000), st.integers(1, 150), st.randoms(use_true_random=False))
def test_any_arrival_within_the_lateness_gives_the_same_users_and_items(
    seed: int, size: int, random_: random.Random
) -> None:
    events = _baskets(size, seed)
    in_order = _folded(sorted(events, key=lambda made: made["ts"]), random_)
    assert _folded(_late_by_chance(events, random_), random_, cuts=(7, 19, 40)) == in_order


@some
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_any_interleaving_of_partitions_and_any_repetition_give_the_same_items(
    seed: int, random_: random.Random
) -> None:
    events = _late_by_chance(_baskets(100, seed), random_)
    repeated = list(events)
    for made in random_.sample(events, len(events) // 2):
        at = repeated.index(made)
        in_time = sum(other["ts"] <= made["ts"] + LATENESS_MS for other in repeated)
        repeated.insert(random_.randint(at + 1, max(at + 1, in_time)), made)
    newest_ms, admitted = 0, []
    for made in repeated:
        newest_ms = max(newest_ms, made["ts"])
        if made["ts"] >= newest_ms - LATENESS_MS:
            admitted.append(made)
    assert _folded(admitted, random_) == _folded(events, random_)


def _busy(size: int, seed: int) -> Events:
    """One user, many times a minute, with many items: most of what comes late is in nobody's sample."""
    random_ = random.Random(seed)
    width_ms = random_.choice([WINDOW_MS // 3, WINDOW_MS, 3 * WINDOW_MS])
    return [
        one | {"ts": T0_MS + random_.randrange(width_ms), "user": "busy", "item": f"i{random_.randrange(40)}"}
        for one in _baskets(size, seed)
        if "item" in one
    ]


@some
@given(
    st.sampled_from([_baskets, _busy]),
    st.integers(1, 200),
    st.integers(0, 10_000),
    st.randoms(use_true_random=False),
)
def test_neighbours_of_a_visit_are_what_the_user_was_with_in_the_window_before(
    made_by: Callable[[int, int], Events], size: int, seed: int, random_: random.Random
) -> None:
    events = made_by(size, seed)
    expected = _neighbours_by_hand(events)
    told: dict[tuple[str, int, int], set[int]] = defaultdict(set)
    one = Settings(namespace="t", partitions=1)
    parts = slices(log_of(_late_by_chance(events, random_)), (5, 11, 30))
    done = run(Interactions(one, with_examples=False), users_table.codec, parts)
    for record in done.emitted.get("t.internal.item-events", []):
        made: ItemEvent = decode_item_event(record.value or b"")
        near = memoryview(made.neighbours).cast("Q").tolist()
        assert len(near) <= NEIGHBOURS_KEPT
        if near:
            told[made.item, made.ts_ms, made.visitor] |= set(near)
    assert {key: sample(near, key[1]) for key, near in told.items()} == expected


def test_what_comes_late_is_told_to_few_however_busy_the_user_is() -> None:
    random_ = random.Random(4)
    ids = map(str, count())
    in_order = [
        event(next(ids), "view", "busy", T0_MS + 1_000 * at, item=f"i{random_.randrange(200)}") for at in range(500)
    ]
    late = [event(next(ids), "view", "busy", T0_MS + 500 + 1_000 * at, item=f"i{200 + at}") for at in range(0, 400, 8)]
    one = Settings(namespace="t", partitions=1)
    done = run(Interactions(one, with_examples=False), users_table.codec, slices(log_of(in_order + late)))
    told = len(done.emitted["t.internal.item-events"]) - len(in_order) - len(late)
    # 50 came late, each with 100 to 500 visits behind it: of some 15,000 that it could be told to, few sample it.
    assert 0 < told < 50 * 20


def _neighbours_by_hand(events: Events) -> dict[tuple[str, int, int], bytes]:
    visits: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for made in events:
        if made["type"] != "impression" and "item" in made:
            visits[made["user"]].append((made["ts"], made["item"]))
    found = {}
    for user, theirs in visits.items():
        newest_ms = max(ts_ms for ts_ms, _ in theirs)
        for ts_ms, item in theirs:
            # The newest basket may still grow: its items are not told of each other yet.
            until_ms = ts_ms if ts_ms < newest_ms else ts_ms - 1
            near = {
                xxh3_64_intdigest(other.encode())
                for at_ms, other in theirs
                if ts_ms - WINDOW_MS <= at_ms <= until_ms and other != item
            }
            if near:
                found[item, ts_ms, xxh3_64_intdigest(user.encode()) & HASH_MASK] = sample(near, ts_ms)
    return found
