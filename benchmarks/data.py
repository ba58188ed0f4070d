"""The event log that every contender reads: deterministic, Zipf-distributed, event times advancing.

Choices, the same for all: users and items are drawn from Zipf's law with exponent 1 (the busiest user has 9
% of the events, and about 35,000 of the 50,000 users appear in 500,000 events); event time advances by 100
events a second (500,000 events = 83 minutes); an event arrives up to 30 s late, uniformly; each user has a
click propensity of their own, so that the learner has something to learn. A record's Kafka timestamp
(CreateTime) is its event time, which is what the engines' own windows read. Values are JSON of 250 to 350
bytes.

The busiest users are spread so that partitions hold equal shares of the events: an engine that reads them
in turn then meets their event times side by side. Without that, replaying a log makes on-time events late
in every engine whose watermark does not follow the source partition, and its windows could not be compared.
"""

import asyncio
from collections.abc import Iterator

import msgspec
import numpy as np
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError
from aiokafka.partitioner import murmur2

EPOCH_MS = 1_736_121_600_000
"""2025-01-06T00:00:00Z: event times do not depend on the day the benchmark runs."""

MAX_DISORDER_MS = 30_000
BATCH_BYTES = 1 << 19

_TYPES = ("click", "view", "add_to_cart", "purchase", "rating")
_OTHER_SHARES = (0.78, 0.12, 0.05, 0.05)
_DEVICES = ("mobile", "desktop", "tablet", "tv")
_COUNTRIES = ("DE", "FR", "US", "BR", "IN", "JP", "PL", "ES")
_PAGES = ("home", "category", "product", "search", "basket", "wishlist")


Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


class LogSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What log to generate; equal specs give equal bytes."""

    events: int = 500_000
    users: int = 50_000
    items: int = 5_000
    zipf: float = 1.0
    events_per_s: int = 100
    begins_s: int = 0
    """Where event time begins, after the first event of a log that begins at 0."""
    partitions: int = 4
    seed: int = 7


def clicks_among_views(events: int) -> LogSpec:
    """A log of users who come back now and then, 20 events each: 4 in 10 are outcomes."""
    return LogSpec(events=events, users=events // 20, zipf=0.6, events_per_s=5)


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One record to publish: key (user id), value (JSON), event time in ms, partition of the key."""

    key: bytes
    value: bytes
    ts_ms: int
    partition: int


def partition_of(key: bytes, partitions: int) -> int:
    """Kafka's default partition of ``key`` (murmur2), as Java clients and aiokafka choose it."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def _zipf_shares(n: int, exponent: float) -> Floats:
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    shares: Floats = weights / weights.sum()
    return shares


def generate(spec: LogSpec) -> Iterator[LogRecord]:
    """Yield the log's records in publishing order."""
    rng = np.random.default_rng(spec.seed)
    n = spec.events
    shares = _zipf_shares(spec.users, spec.zipf)
    by_rank, partition = _balanced_users(spec, rng, shares)
    users = by_rank[rng.choice(spec.users, n, p=shares)]
    items = rng.permutation(spec.items)[rng.choice(spec.items, n, p=_zipf_shares(spec.items, spec.zipf))]
    propensity = rng.beta(1.2, 4.8, spec.users)
    clicked = rng.random(n) < propensity[users]
    late_ms = rng.integers(0, MAX_DISORDER_MS, n)
    first_ms = EPOCH_MS + 1000 * spec.begins_s + MAX_DISORDER_MS
    ts_ms = first_ms + np.arange(n, dtype=np.int64) * 1000 // spec.events_per_s - late_ms
    amounts = np.round(rng.gamma(2.0, 15.0, n), 2)
    noise = rng.integers(0, 1 << 62, (n, 2))
    kinds = np.where(clicked, 0, 1 + rng.choice(len(_TYPES) - 1, n, p=_OTHER_SHARES))
    columns = (kinds, users, items, ts_ms, amounts, noise)
    for kind, user, item, ts, amount, ids in zip(*(column.tolist() for column in columns), strict=True):
        value = _encode(_TYPES[kind], user, item, ts, amount, ids)
        yield LogRecord(b"u%d" % user, value, ts, partition[user])


def _balanced_users(
    spec: LogSpec, rng: np.random.Generator, shares: Floats
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[int]]:
    """User ids by rank of activity such that partitions get equal shares of events; partition by user id."""
    partition = [partition_of(b"u%d" % user, spec.partitions) for user in range(spec.users)]
    pools: list[list[int]] = [[] for _ in range(spec.partitions)]
    for user in rng.permutation(spec.users).tolist():
        pools[partition[user]].append(user)
    load = [0.0] * spec.partitions
    by_rank = []
    for share in shares.tolist():
        lightest = min((p for p in range(spec.partitions) if pools[p]), key=load.__getitem__)
        load[lightest] += share
        by_rank.append(pools[lightest].pop())
    return np.array(by_rank, dtype=np.int64), partition


def _encode(kind: str, user: int, item: int, ts_ms: int, value: float, noise: list[int]) -> bytes:
    a, b = noise
    return orjson.dumps(
        {
            "id": f"{a:016x}{b:016x}",
            "type": kind,
            "user": f"u{user}",
            "item": f"i{item}",
            "session": f"s{user}-{a & 0xFFFF:04x}",
            "ts": ts_ms,
            "value": value,
            "slot": "home",
            "context": {
                "device": _DEVICES[a & 3],
                "country": _COUNTRIES[b & 7],
                "page": _PAGES[b % 6],
                "locale": "en-GB",
                "app_version": f"5.{a % 40}.{b % 10}",
                "experiment": f"ranker-{a % 3}",
            },
        }
    )


async def create_topic(bootstrap: str, name: str, partitions: int, config: dict[str, str] | None = None) -> bool:
    """Create topic ``name``; False when it is there already. Retention is unlimited unless configured."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        topic = NewTopic(name, partitions, 1, topic_configs={"retention.ms": "-1", **(config or {})})
        response = await admin.create_topics([topic])
    finally:
        await admin.close()
    for _, code, *message in response.topic_errors:
        if code == TopicAlreadyExistsError.errno:
            return False
        if code:
            raise RuntimeError(f"topic {name!r} could not be created on {bootstrap}: error {code} {message}")
    return True


async def publish(bootstrap: str, topic: str, spec: LogSpec) -> list[int]:
    """Create ``topic`` and publish the log of ``spec`` to it. Returns the number of records by partition."""
    if not await create_topic(bootstrap, topic, spec.partitions):
        raise RuntimeError(f"topic {topic!r} exists on {bootstrap}: its log would be doubled, use another name")
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, max_batch_size=BATCH_BYTES, max_request_size=2 * BATCH_BYTES
    )
    await producer.start()
    counts = [0] * spec.partitions
    builders = [producer.create_batch() for _ in range(spec.partitions)]
    pending: list[asyncio.Future[object]] = []
    try:
        for record in generate(spec):
            p = record.partition
            counts[p] += 1
            if builders[p].append(key=record.key, value=record.value, timestamp=record.ts_ms) is None:
                pending.append(await producer.send_batch(builders[p], topic, partition=p))
                builders[p] = producer.create_batch()
                builders[p].append(key=record.key, value=record.value, timestamp=record.ts_ms)
        for p, builder in enumerate(builders):
            if builder.record_count():
                pending.append(await producer.send_batch(builder, topic, partition=p))
        await asyncio.gather(*pending)
    finally:
        await producer.stop()
    return counts
