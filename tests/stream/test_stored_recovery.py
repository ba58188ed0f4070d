"""Workers with their tables on disk: what a restart reads, and state right whatever became of the files."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rocksdict import Options, Rdict
from support.cluster import committed, members, read_table, until, write
from support.processes import Process
from support.tally import COUNT, changelog, create_topics, source

from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import PROGRESS_KEY, SYSTEM_KEYS, decode_progress, entry_digest
from persona_stream.vocabulary.config import Settings

WITHIN_S = 60
KEYS = 200
STORE = {"store": "rocksdb", "store_values": 10}
StartTally = Callable[..., Process]


def _keys(partition: int) -> list[bytes]:
    return [b"p%d-%d" % (partition, number) for number in range(KEYS)]


async def _count(settings: Settings, worker: Process, times: int) -> None:
    """Have each key of both partitions counted once more, and check everything that the changelog then says."""
    before = await committed(settings.kafka, f"{settings.namespace}-worker", source(settings))
    await write(settings, source(settings), {p: [Record(key, b"x") for key in _keys(p)] for p in (0, 1)})
    ends = {partition: before.get(partition, 0) + KEYS for partition in (0, 1)}

    async def all_committed() -> bool:
        return await committed(settings.kafka, f"{settings.namespace}-worker", source(settings)) == ends

    await until(all_committed, within_s=WITHIN_S, what=f"all counted {times} times", check=worker.check_alive)
    for partition, part in (await read_table(settings.kafka, changelog(settings))).items():
        progress = decode_progress(part[PROGRESS_KEY])
        table = {key: raw for key, raw in part.items() if key not in SYSTEM_KEYS}
        assert table == dict.fromkeys(_keys(partition), COUNT.encode(times))
        digest = sum(entry_digest(key, raw) for key, raw in table.items()) % 2**64
        assert (progress.digest, progress.keys, progress.offset) == (digest, KEYS, ends[partition] - 1)


def _records_read(worker: Process) -> int:
    told = re.findall(r"state read back: ([\d,]+) changelog records", worker.log.read_text())
    return sum(int(number.replace(",", "")) for number in told)


def _stores(settings: Settings, worker: str = "worker-0") -> Path:
    return settings.home / "worker" / "stores" / worker / changelog(settings)


async def test_a_restart_reads_only_the_rest_and_after_a_kill_too(settings: Settings, start_tally: StartTally) -> None:
    worker = start_tally(**STORE)
    await _count(settings, worker, 1)
    assert worker.terminate() == 0
    worker = start_tally(**STORE, worker_id="other")
    await _count(settings, worker, 2)
    # It had no store yet: it has read everything.
    assert _records_read(worker) > 2 * KEYS
    assert worker.terminate() == 0

    worker = start_tally(**STORE)
    await _count(settings, worker, 3)
    # What "other" wrote since: each key again.
    assert 2 * KEYS <= _records_read(worker) <= 2 * KEYS + 20
    worker.kill()
    worker = start_tally(**STORE)
    await _count(settings, worker, 4)
    assert _records_read(worker) <= 20
    assert "made anew" not in worker.log.read_text()


async def test_a_worker_may_change_between_memory_and_disk(settings: Settings, start_tally: StartTally) -> None:
    for times, changed in enumerate([{}, STORE, {}, STORE], start=1):
        worker = start_tally(**changed)
        await _count(settings, worker, times)
        assert worker.terminate() == 0
    assert "made anew" not in worker.log.read_text()
    # What was written while the state was in memory, not what the store already holds of before.
    assert 2 * KEYS <= _records_read(worker) <= 2 * KEYS + 20


def _swapped(stores: Path) -> None:
    stores.joinpath("0").rename(stores / "aside")
    stores.joinpath("1").rename(stores / "0")
    stores.joinpath("aside").rename(stores / "1")


def _truncated(stores: Path) -> None:
    for file in stores.glob("*/*.sst"):
        file.write_bytes(file.read_bytes()[:100])


def _without_log(stores: Path) -> None:
    for file in stores.glob("*/*.log"):
        file.write_bytes(b"")


def _lost(stores: Path) -> None:
    shutil.rmtree(stores)


@pytest.mark.parametrize(
    ("end", "harm"),
    [
        (Process.terminate, _swapped),
        (Process.terminate, _truncated),
        # Killed, it has all in RocksDB's own log.
        (Process.kill, _without_log),
        (Process.terminate, _lost),
    ],
)
async def test_a_store_that_is_foreign_or_damaged_is_made_anew(
    settings: Settings, start_tally: StartTally, end: Callable[[Process], object], harm: Callable[[Path], None]
) -> None:
    worker = start_tally(**STORE)
    await _count(settings, worker, 1)
    end(worker)
    harm(_stores(settings))
    worker = start_tally(**STORE)
    await _count(settings, worker, 2)
    assert _records_read(worker) > 2 * KEYS


async def test_a_store_of_a_log_that_had_more_is_made_anew(settings: Settings, start_tally: StartTally) -> None:
    worker = start_tally(**STORE)
    for times in (1, 2, 3):
        await _count(settings, worker, times)
    ahead = settings.home / "ahead"
    assert worker.terminate() == 0
    shutil.copytree(_stores(settings), ahead)

    shorter = msgspec.structs.replace(settings, namespace=f"{settings.namespace}b")
    await create_topics(shorter)
    worker = start_tally(**STORE, namespace=shorter.namespace)
    await _count(shorter, worker, 1)
    assert worker.terminate() == 0
    shutil.rmtree(_stores(shorter))
    shutil.copytree(ahead, _stores(shorter))
    worker = start_tally(**STORE, namespace=shorter.namespace)
    await _count(shorter, worker, 2)
    assert "a store that is ahead of its changelog is made anew" in worker.log.read_text()


async def test_a_store_that_another_program_has_open_ends_the_worker_with_a_clear_error(
    settings: Settings, start_tally: StartTally
) -> None:
    worker = start_tally(**STORE)
    await _count(settings, worker, 1)
    assert worker.terminate() == 0
    other = Rdict(str(_stores(settings) / "0"), Options(raw_mode=True))
    worker = start_tally(**STORE)
    assert worker.wait(within_s=WITHIN_S) == 1
    assert "can't be used" in worker.log.read_text()
    assert "whether another program has the store open" in worker.log.read_text()
    other.close()
    await _count(settings, start_tally(**STORE), 2)


async def test_workers_of_one_home_share_the_partitions_and_a_lost_one_comes_back(
    settings: Settings, start_tally: StartTally
) -> None:
    group = f"{settings.namespace}-worker"
    first = start_tally(**STORE)
    await _count(settings, first, 1)
    second = start_tally(**STORE)

    async def two_members() -> bool:
        return len(await members(settings.kafka, group)) == 2

    await until(two_members, within_s=WITHIN_S, what="two workers", check=second.check_alive)
    await _count(settings, first, 2)
    assert second.terminate() == 0
    await _count(settings, first, 3)
    first.check_alive()
    assert {path.name for path in _stores(settings).parents[1].iterdir()} == {"worker-0", "worker-1"}
    # The partition that came back was read on from where its store had been left.
    assert "made anew" not in first.log.read_text()
