"""The worker as a user runs it: events in, tables and dead letters out, from producers of any kind."""

import itertools
import random
import time
import zlib
from collections import Counter
from typing import Any, cast

import orjson
from support.broken import Broken, broken_records
from support.cluster import read_all, write, write_keyed
from support.live import MakeLive, decoded, prepared
from support.logs import event

from persona_stream.kafka.writer import Partitioner, Record
from tables import catalogue, profiles
from tables import items as items_table
from tables import users as users_table
from tables.counters import TOTALS, VALUE_MILLI, stack_longs
from tables.items import ItemState
from tables.users import UserState

VALID, BROKEN = 10_000, 500
PARTITIONS = 2


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _valid(count: int, now_ms: int, *, seed: int = 3) -> list[dict[str, Any]]:
    random_ = random.Random(seed)
    return [
        event(
            f"e{n}",
            random_.choice(["view", "click", "purchase", "add_to_cart"]),
            f"u{random_.randrange(300)}",
            now_ms - 600_000 + n * 50,
            item=f"i{random_.randrange(80)}",
            value=random_.randrange(1, 10_000) / 100,
        )
        for n in range(count)
    ]


def _totals(state: UserState | ItemState) -> tuple[int, int]:
    longs = stack_longs([state.longs])[0]
    return int(longs[TOTALS:].sum()), int(longs[VALUE_MILLI])


def _expected(events: list[dict[str, Any]], field: str) -> dict[str, tuple[int, int]]:
    counts = Counter(made[field] for made in events)
    values: Counter[str] = Counter()
    for made in events:
        values[made[field]] += round(made["value"] * 1000)
    return {name: (counts[name], values[name]) for name in counts}


async def test_ten_thousand_events_are_applied_and_five_hundred_broken_ones_put_aside(
    make_live: MakeLive,
) -> None:
    namespace = await prepared(make_live)
    now_ms = _now_ms()
    valid = _valid(VALID, now_ms)
    broken = list(itertools.islice(itertools.cycle(broken_records(now_ms)), BROKEN))
    assert len({one.kind for one in broken}) >= 20
    mixed: list[dict[str, Any] | Broken] = [*valid, *broken]
    random.Random(1).shuffle(mixed)
    parts: dict[int, list[Record]] = {0: [], 1: []}
    partition_of = Partitioner(PARTITIONS)
    for one in mixed:
        if isinstance(one, Broken):
            # Some have no key, which our own writer never does.
            parts[len(parts[0]) % 2].append(Record(cast(bytes, one.key), one.value))
        else:
            key = one["user"].encode()
            parts[partition_of(key)].append(Record(key, orjson.dumps(one)))
    await write(namespace.settings, namespace.topics.events, parts)
    namespace.start_worker()
    await namespace.until_applied()

    users = decoded(users_table.codec, await namespace.table("users"))
    assert {user: _totals(state) for user, state in users.items()} == _expected(valid, "user")
    items = decoded(items_table.codec, await namespace.table("items"))
    assert {item: _totals(state) for item, state in items.items()} == _expected(valid, "item")
    assert sum(progress.events for progress in (await namespace.progress("users")).values()) == VALID + BROKEN

    letters = await read_all(namespace.settings.kafka, namespace.topics.deadletter)
    reasons = Counter(dict(letter.headers)["persona.reason"].decode() for letter in letters)
    assert len(letters) == BROKEN
    assert reasons == Counter(one.reason for one in broken)
    assert Counter(letter.value for letter in letters) == Counter(one.value or b"" for one in broken)
    published = await read_all(namespace.settings.kafka, namespace.topics.events)
    by_origin = {f"{record.topic}/{record.partition}/{record.offset}".encode(): record for record in published}
    for letter in letters:
        assert (by_origin[letter.key].value or b"") == letter.value
    assert await read_all(namespace.settings.kafka, namespace.topics.late) == []


async def test_a_producer_that_hashes_otherwise_gets_its_events_to_the_right_state(
    make_live: MakeLive,
) -> None:
    """As kcat and other librdkafka clients do: crc32 of the key."""
    namespace = await prepared(make_live)
    events = _valid(2000, _now_ms(), seed=5)
    parts: dict[int, list[Record]] = {0: [], 1: []}
    for made in events:
        key = made["user"].encode()
        parts[zlib.crc32(key) % PARTITIONS].append(Record(key, orjson.dumps(made)))
    of_kafka = Partitioner(PARTITIONS)
    misplaced = sum(of_kafka(record.key) != partition for partition, part in parts.items() for record in part)
    assert misplaced > 500
    await write(namespace.settings, namespace.topics.events, parts)
    namespace.start_worker()
    await namespace.until_applied("users")
    # What was sent on is at the end of the topic now, and that is applied as well.
    await namespace.until_applied("users", "items")

    table = await namespace.table("users")
    for partition, part in table.items():
        assert {of_kafka(key) for key in part} <= {partition}
    users = decoded(users_table.codec, table)
    assert {user: _totals(state) for user, state in users.items()} == _expected(events, "user")
    items = decoded(items_table.codec, await namespace.table("items"))
    assert {item: _totals(state) for item, state in items.items()} == _expected(events, "item")
    published = await read_all(namespace.settings.kafka, namespace.topics.events)
    assert len(published) == len(events) + misplaced


async def test_catalogue_and_profiles_hold_the_newest_and_the_late_are_put_aside(
    make_live: MakeLive,
) -> None:
    namespace = await prepared(make_live)
    now_ms = _now_ms()
    settings, topics = namespace.settings, namespace.topics
    versions = [
        Record(b"i1", orjson.dumps({"id": "i1", "ts": now_ms - 1000 + n, "attributes": {"n": n}})) for n in range(5)
    ]
    random.Random(2).shuffle(versions)
    await write_keyed(settings, topics.items, [*versions, Record(b"i2", b"nonsense")])
    profile = orjson.dumps({"user": "u1", "ts": now_ms, "traits": {"a": 1}})
    await write_keyed(settings, topics.profiles, [Record(b"u1", profile)])
    late = event("late", "view", "u1", now_ms - 7_200_000, item="i1")
    first = event("first", "view", "u1", now_ms, item="i1")
    await write_keyed(settings, topics.events, [Record(b"u1", orjson.dumps(made)) for made in (first, late)])
    namespace.start_worker()
    await namespace.until_applied("catalogue", "profiles", "users")

    assert decoded(catalogue.codec, await namespace.table("catalogue"))["i1"].attributes == {"n": 4}
    assert decoded(profiles.codec, await namespace.table("profiles"))["u1"].traits == {"a": 1}
    (aside,) = await read_all(settings.kafka, topics.late)
    assert aside.value == orjson.dumps(late)
    (letter,) = await read_all(settings.kafka, topics.deadletter)
    assert dict(letter.headers)["persona.reason"] == b"bad_json"
