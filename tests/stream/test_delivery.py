"""Batched delivery on real Kafka: each record once, in order, by the slice; only what was applied is committed."""

from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise

import orjson
from support.cluster import bury, committed, end_offsets, members, read_all, read_table, until, write
from support.processes import Process
from support.tally import COUNT, HANGING, changelog, journal, source

from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import PROGRESS_KEY, SYSTEM_KEYS, decode_progress
from persona_stream.vocabulary.config import Settings

WITHIN_S = 60
StartTally = Callable[..., Process]


def _numbers(count: int, first: int = 0) -> list[Record]:
    return [Record(f"k{number % 7}".encode(), b"x") for number in range(first, first + count)]


def _group(settings: Settings) -> str:
    return f"{settings.namespace}-worker"


async def _publish(settings: Settings, parts: dict[int, list[Record]]) -> None:
    await write(settings, source(settings), parts)


async def _until_committed(settings: Settings, process: Process, offsets: dict[int, int]) -> None:
    async def reached() -> bool:
        return await committed(settings.kafka, _group(settings), source(settings)) == offsets

    await until(reached, within_s=WITHIN_S, what=f"committed offsets {offsets}", check=process.check_alive)


async def _journal(settings: Settings) -> dict[int, list[list[int]]]:
    """The offsets of each slice delivered, by partition, in the order of delivery."""
    delivered: dict[int, list[list[int]]] = {}
    for record in await read_all(settings.kafka, journal(settings)):
        partition, offsets = orjson.loads(record.value)
        delivered.setdefault(partition, []).append(offsets)
    return delivered


async def _counts(settings: Settings) -> dict[int, dict[str, int]]:
    table = await read_table(settings.kafka, changelog(settings))
    return {
        partition: {key.decode(): COUNT.decode(value) for key, value in part.items() if key not in SYSTEM_KEYS}
        for partition, part in table.items()
    }


def _tallied(records: list[Record]) -> dict[str, int]:
    return dict(Counter(record.key.decode() for record in records))


def _hangs(worker: Process) -> Callable[[], Awaitable[bool]]:
    async def told() -> bool:
        return HANGING in worker.log.read_text()

    return told


async def test_every_record_once_in_order_and_a_clean_stop_repeats_none(
    settings: Settings, start_tally: StartTally
) -> None:
    first = {0: _numbers(3000), 1: _numbers(500)}
    await _publish(settings, first)
    worker = start_tally()
    await _until_committed(settings, worker, {0: 3000, 1: 500})
    assert await _counts(settings) == {partition: _tallied(records) for partition, records in first.items()}

    more = {0: _numbers(100)}
    await _publish(settings, more)
    await _until_committed(settings, worker, {0: 3100, 1: 500})
    assert worker.terminate() == 0
    assert await members(settings.kafka, _group(settings)) == []

    last = {0: _numbers(10), 1: _numbers(20)}
    await _publish(settings, last)
    await _until_committed(settings, start_tally(), {0: 3110, 1: 520})
    delivered = await _journal(settings)
    for partition, ends in (await end_offsets(settings.kafka, source(settings))).items():
        # A start may deliver what it then seeks back to once more; nothing is left out or out of order.
        for before, part in pairwise([[-1], *delivered[partition]]):
            assert part == list(range(part[0], part[-1] + 1))
            assert part[0] in {before[-1] + 1, before[0]}
        assert delivered[partition][-1][-1] == ends - 1
    # By the slice: not a delivery a record.
    assert sum(map(len, delivered.values())) < 100
    assert await _counts(settings) == {
        0: _tallied(first[0] + more[0] + last[0]),
        1: _tallied(first[1] + last[1]),
    }


async def test_an_agent_that_raises_ends_the_process_and_nothing_of_its_slice_is_committed(
    settings: Settings, start_tally: StartTally
) -> None:
    await _publish(settings, {0: _numbers(50), 1: _numbers(20)})
    worker = start_tally()
    await _until_committed(settings, worker, {0: 50, 1: 20})
    before = await read_table(settings.kafka, changelog(settings))
    await _publish(settings, {0: [*_numbers(5), Record(b"k1", b"raise"), *_numbers(5)]})
    assert worker.wait(within_s=WITHIN_S) == 1
    assert "told to" in worker.log.read_text()
    assert await committed(settings.kafka, _group(settings), source(settings)) == {0: 50, 1: 20}
    assert await read_table(settings.kafka, changelog(settings)) == before
    assert [part for part in (await _journal(settings))[0] if part[-1] >= 50] == []


async def test_a_process_killed_in_a_slice_has_committed_only_those_before(
    settings: Settings, start_tally: StartTally
) -> None:
    await _publish(settings, {0: _numbers(50)})
    worker = start_tally()
    await _until_committed(settings, worker, {0: 50})
    dead = await members(settings.kafka, _group(settings))
    await _publish(settings, {0: [*_numbers(3), Record(b"k1", b"hang")], 1: _numbers(30)})

    await until(_hangs(worker), within_s=WITHIN_S, what="the worker in the slice", check=worker.check_alive)
    worker.kill()
    table = await read_table(settings.kafka, changelog(settings))
    assert decode_progress(table[0][PROGRESS_KEY]).offset == 49
    assert (await committed(settings.kafka, _group(settings), source(settings)))[0] == 50

    await bury(settings.kafka, _group(settings), dead)
    again = start_tally()
    await until(_hangs(again), within_s=WITHIN_S, what="the same slice again", check=again.check_alive)
