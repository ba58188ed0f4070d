"""Digests of what a process holds, taken in steps so small that it answers and folds meanwhile.

The process goes on while it is asked, so every step tells where it stood: up to which offset all is in what it read.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from persona_stream.stream.partition import DIGEST_MASK, entry_digest

BUCKETS = 256
"""Keys fall into so many buckets by their hash: what differs is narrowed down before keys are named."""
STEP_S = 0.002
"""How long a step may hold the event loop; a pause as long follows."""
KEYS_AT_ONCE = 8
"""Keys between two looks at the clock: a value may have to be encoded, at tens of microseconds each."""

Stand = dict[int, int]
"""Partition -> offset: up to where all is in what was read. See `Holding.stand`."""


class Holding(Protocol):
    """What a process holds of a table, or of one partition of it. Reading it changes nothing."""

    @property
    def table(self) -> str: ...  # noqa: D102  # the words of every answer
    @property
    def partition(self) -> int | None:
        """The one partition held; None: all, not told apart."""

    @property
    def changelog(self) -> str:
        """The topic that it must equal."""

    def stand(self) -> Stand | None:
        """Where it stands now; None while it does not hold what it should (recovery, a rebalance)."""

    def kept_digest(self) -> int | None:
        """The digest as kept change by change, None where none is kept."""

    def __len__(self) -> int:
        """How many keys are held now."""

    def keys(self) -> Iterator[str]:
        """The keys held now; those that come later may be among them."""

    def encoded(self, key: str) -> bytes | None:
        """A key's value as bytes, None where it is not held; equal values give equal bytes."""

    def decode(self, raw: bytes) -> object:
        """The value whose bytes these are."""


class Holdings(Protocol):
    """Everything that a process holds."""

    @property
    def stands_in(self) -> str:
        """Whose offsets `Holding.stand` tells: `source`, or `changelog` (of the next record to be read)."""

    def all(self) -> Sequence[Holding]:
        """Every holding; of one table they have different partitions."""


class Bucket(Struct, array_like=True):
    """Keys whose hash ends alike."""

    digest: str
    """Of all entries, as `digest_text` writes it."""
    keys: int


class Step(Struct):
    """Entries read at one moment."""

    stand: Stand
    entries: list[tuple[str, str]]
    """Key and digest."""


class MovedError(Exception):
    """What was asked for is no longer held: the partition is another worker's, or is being read back."""


def digest_text(digest: int) -> str:
    """A digest as it stands in JSON, whose numbers do not reach 64 bits."""
    return f"{digest:016x}"


def bucket_of(key: bytes) -> int:
    """The bucket of a key."""
    return xxh3_64_intdigest(key) % BUCKETS


def sum_buckets(entries: Iterable[tuple[bytes, int]]) -> list[Bucket]:
    """The buckets of entries: keys and digests."""
    digests, keys = [0] * BUCKETS, [0] * BUCKETS
    for key, digest in entries:
        bucket = bucket_of(key)
        digests[bucket] += digest
        keys[bucket] += 1
    return [Bucket(digest_text(digest & DIGEST_MASK), count) for digest, count in zip(digests, keys, strict=True)]


async def steps(holding: Holding, wanted: Collection[int] | None = None) -> AsyncIterator[Step]:
    """Every entry in the wanted buckets (None: all), step by step. Raises MovedError."""
    keys = holding.keys()
    left = True
    while left:
        started_s = perf_counter()
        stand = holding.stand()
        if stand is None:
            raise MovedError
        entries: list[tuple[str, str]] = []
        while left and perf_counter() < started_s + STEP_S:
            left = _take(holding, keys, wanted, entries)
        yield Step(stand, entries)
        await asyncio.sleep(perf_counter() - started_s)


def _take(
    holding: Holding, keys: Iterator[str], wanted: Collection[int] | None, entries: list[tuple[str, str]]
) -> bool:
    """Read the next few keys; False when none is left."""
    for _ in range(KEYS_AT_ONCE):
        key = next(keys, None)
        if key is None:
            return False
        name = key.encode()
        if wanted is None or bucket_of(name) in wanted:
            raw = holding.encoded(key)
            if raw is not None:
                entries.append((key, digest_text(entry_digest(name, raw))))
    return True


_encode = msgspec.msgpack.Encoder().encode


def by_field(value: object) -> dict[str, Any]:
    """A value's fields; one without fields has one, `value`."""
    names: Iterable[str] = getattr(value, "__struct_fields__", ())
    return {name: getattr(value, name) for name in names} or {"value": value}


def field_digests(value: object) -> dict[str, str]:
    """The digest of each field: tells which one differs without showing it."""
    fields = by_field(value).items()
    return {name: digest_text(xxh3_64_intdigest(_encode(_ordered(msgspec.to_builtins(held))))) for name, held in fields}


def _ordered(value: Any) -> Any:
    """Plain data without dicts: two that are equal may differ in their order."""
    if isinstance(value, dict):
        return sorted(([key, _ordered(held)] for key, held in value.items()), key=repr)
    return [_ordered(held) for held in value] if isinstance(value, list | tuple) else value
