"""Logs of records as an agent meets them, made by hand or from a seed."""

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import orjson
from msgspec import Struct

from persona_stream.kafka.writer import Partitioner, Record
from persona_stream.stream.slices import Slice

T0_MS = 1_700_000_000_000
APPENDED_MS = T0_MS + 30 * 86_400_000
"""Kafka's timestamp of records whose own is not told: later than any event here."""
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
DISORDER_MS = 10 * MINUTE_MS
"""Events are out of order by up to this much."""


class LogRecord(Struct, frozen=True):
    """A record of a partition."""

    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int = APPENDED_MS
    headers: Sequence[tuple[str, bytes]] = ()


Log = list[LogRecord]


def event(event_id: str, kind: str, user: str, ts_ms: int, **fields: Any) -> dict[str, Any]:
    """An event of the contract."""
    return {"id": event_id, "type": kind, "user": user, "ts": ts_ms, **fields}


def log_of(events: Iterable[dict[str, Any]], *, first_offset: int = 0) -> Log:
    """Events as records keyed by user, one offset apart."""
    return [
        LogRecord(offset, orjson.dumps(made), made["user"].encode())
        for offset, made in enumerate(events, start=first_offset)
    ]


def log_of_records(records: Iterable[Record]) -> Log:
    """What an agent emitted, as the log of the next."""
    return [
        LogRecord(offset, record.value, record.key, headers=record.headers) for offset, record in enumerate(records)
    ]


def slices(log: Log, cuts: Iterable[int] = (), *, topic: str = "t", partition: int = 0) -> list[Slice]:
    """The log cut before each of the positions `cuts`."""
    bounds = [0, *sorted(cut % (len(log) + 1) for cut in cuts), len(log)]
    parts = [log[start:end] for start, end in pairwise(bounds)]
    return [Slice(topic, partition, part) for part in parts if part]


def shopping(
    count: int, *, seed: int = 1, users: int = 12, items: int = 15, disorder_ms: int = DISORDER_MS
) -> list[dict[str, Any]]:
    """Events of a few users with a few items: every type, impressions with decisions, out of order, repeated ids."""
    return list(shop(count, seed=seed, users=users, items=items, disorder_ms=disorder_ms))


def shop(count: int, *, seed: int, users: int, items: int, disorder_ms: int) -> Iterator[dict[str, Any]]:
    """The same, made one by one: a long load would not fit in memory."""
    random_ = random.Random(seed)
    kinds = ["view"] * 4 + ["impression"] * 2 + ["click"] * 3 + ["add_to_cart", "purchase", "rating", "search"]
    made: deque[dict[str, Any]] = deque(maxlen=20)
    for number in range(count):
        kind = random_.choice(kinds)
        ts_ms = T0_MS + number * MINUTE_MS + random_.randrange(disorder_ms)
        user = f"u{random_.randrange(users)}"
        one = event(f"e{number}", kind, user, ts_ms, context={"segment": f"s{random_.randrange(3)}"})
        if kind == "impression":
            one["items"] = [f"i{random_.randrange(items)}" for _ in range(random_.randint(1, 6))]
            if random_.random() < 0.5:
                one["decision_id"] = f"d{number}"
        elif kind != "search":
            one["item"] = f"i{random_.randrange(items)}"
        if kind in {"purchase", "rating"}:
            one["value"] = random_.randrange(1, 5000) / 100
        if made and random_.random() < 0.05:
            one = {**random_.choice(made)}
        made.append(one)
        yield one


def user_in(partition: int, partitions: int, *, after: int = 0) -> str:
    """A user id that belongs to a partition."""
    of = Partitioner(partitions)
    number = after
    while of(f"u{number}".encode()) != partition:
        number += 1
    return f"u{number}"
