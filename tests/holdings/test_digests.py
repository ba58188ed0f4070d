"""Entries of a holding are read in small steps, and what is told of them does not depend on who tells it."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from persona_stream.holdings.digests import (
    KEYS_AT_ONCE,
    MovedError,
    Stand,
    Step,
    bucket_of,
    digest_text,
    field_digests,
    steps,
    sum_buckets,
)
from persona_stream.stream.partition import DIGEST_MASK, entry_digest
from tables.items import ItemState


class Held:
    """A holding of a test's own; a value takes `seconds` to encode."""

    table, partition, changelog = "t", 0, "t-changelog"

    def __init__(self, values: dict[str, bytes], seconds: float = 0.0) -> None:
        self.values = values
        self.offset: int | None = 0
        self._seconds = seconds

    def stand(self) -> Stand | None:
        return None if self.offset is None else {0: self.offset}

    def kept_digest(self) -> None: ...

    def __len__(self) -> int:
        return len(self.values)

    def keys(self) -> Iterator[str]:
        return iter(list(self.values))

    def encoded(self, key: str) -> bytes | None:
        time.sleep(self._seconds)
        return self.values.get(key)

    def decode(self, raw: bytes) -> object:
        return raw


async def _all(held: Held, wanted: set[int] | None = None) -> list[Step]:
    return [step async for step in steps(held, wanted)]


async def test_a_step_reads_few_keys_where_each_takes_long_and_others_run_in_between() -> None:
    held = Held({f"k{n}": b"v" for n in range(4 * KEYS_AT_ONCE)}, seconds=0.003)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    found = await _all(held)
    task.cancel()
    assert [len(step.entries) for step in found if step.entries] == [KEYS_AT_ONCE] * 4
    assert turns >= len(found)


async def test_what_changes_meanwhile_is_told_as_of_its_step() -> None:
    held = Held({f"k{n}": b"v" for n in range(3 * KEYS_AT_ONCE)}, seconds=0.003)
    seen: dict[str, tuple[int, str]] = {}
    async for step in steps(held):
        seen.update({key: (step.stand[0], digest) for key, digest in step.entries})
        held.offset = (held.offset or 0) + 1
        held.values = {key: b"w" for key in held.values if key != "k23"} | {"new": b"w"}
    assert seen["k0"] == (0, digest_text(entry_digest(b"k0", b"v")))
    assert seen["k20"] == (2, digest_text(entry_digest(b"k20", b"w")))
    assert not {"k23", "new"} & seen.keys()


async def test_a_holding_that_moves_away_is_told_as_that() -> None:
    held = Held({f"k{n}": b"v" for n in range(3 * KEYS_AT_ONCE)}, seconds=0.003)
    found = steps(held)
    await anext(found)
    held.offset = None
    with pytest.raises(MovedError):
        await anext(found)


async def test_buckets_sum_to_the_whole_and_one_can_be_asked_for_alone() -> None:
    held = Held({f"k{n}": b"v%d" % n for n in range(1000)})
    entries = [(key.encode(), entry_digest(key.encode(), raw)) for key, raw in held.values.items()]
    buckets = sum_buckets(entries)
    assert sum(bucket.keys for bucket in buckets) == 1000
    whole = sum(digest for _, digest in entries) & DIGEST_MASK
    assert sum(int(bucket.digest, 16) for bucket in buckets) & DIGEST_MASK == whole
    wanted = bucket_of(b"k7")
    keys = {key for step in await _all(held, {wanted}) for key, _ in step.entries}
    assert "k7" in keys
    assert keys == {key for key in held.values if bucket_of(key.encode()) == wanted}


def test_a_fields_digest_does_not_depend_on_the_order_of_arrival() -> None:
    one = ItemState(applied={0: 1, 1: 2}, visits=[(1, 2, ["a"])])
    other = ItemState(applied={1: 2, 0: 1})
    mine, theirs = field_digests(one), field_digests(other)
    assert {name for name in mine if mine[name] != theirs[name]} == {"visits"}
