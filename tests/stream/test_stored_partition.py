"""A partition on disk is the partition in memory, whatever happens; a store that does not fit is made anew."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.agents import CRASHES, CUTS, LOGS, SPECS
from support.logs import slices
from support.runs import Crash, as_read, digest_and_keys, read_back, restored, run
from support.tally import COUNT

from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import PROGRESS_KEY, Codec, Partition, decode_progress
from persona_stream.stream.stored_partition import StoredPartition
from persona_stream.stream.stores import Stores

KEPT = 2
KEYS = st.sampled_from("abcdefg")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["put", "change", "get", "delete", "in"] * 2 + ["flush", "later", "untold", "unstored", "crash"]
        ),
        KEYS,
        st.integers(0, 9),
    ),
    min_size=5,
    max_size=60,
)
Open = Callable[[Codec[Any]], StoredPartition[Any]]


@contextmanager
def _stores() -> Iterator[Open]:
    with tempfile.TemporaryDirectory() as folder:
        stores = Stores(Path(folder), "")
        yield lambda codec: StoredPartition(codec, stores.open("t-changelog", 0), KEPT)
        stores.close()


@pytest.fixture
def open_partition() -> Iterator[Open]:
    with _stores() as opened:
        yield opened


class Pair:
    """The same partition twice, and the changelog that both write."""

    def __init__(self, open_partition: Open) -> None:
        self._open = open_partition
        self.memory: Partition[int] = Partition(COUNT)
        self.stored = open_partition(COUNT)
        self.log: list[Record] = []
        self._waiting: list[tuple[list[Record], int]] = []

    def act(self, step: str, key: str, value: int) -> None:
        if step == "put":
            self.memory.put(key, value)
            self.stored.put(key, value)
        elif step == "in":
            assert self.memory.encoded(key) == self.stored.encoded(key)
            assert (key in self.memory) == (key in self.stored)
        elif step in {"change", "get", "delete"}:
            assert getattr(self.memory, step)(key) == getattr(self.stored, step)(key)
        else:
            self.end_slice(step, value)

    def end_slice(self, step: str = "flush", value: int = 0) -> None:
        assert len(self.stored) == len(self.memory)
        assert sorted(self.stored) == sorted(self.memory)
        changes, again = self.memory.take_changes(), self.stored.take_changes()
        assert again == changes
        assert max(len(self.stored._values), len(self.stored._digests)) <= KEPT
        self.log += changes[: value % len(changes)] if step == "crash" else changes
        if step in {"unstored", "crash"}:
            self.restart()
            return
        # Kafka may not tell the offset of a batch that was sent twice, and folding runs ahead of writing.
        self._waiting.append((again, len(self.log) if step != "untold" else -1))
        if step != "later":
            self.stored.acknowledged(*self._waiting.pop(0))

    def restart(self) -> None:
        self._waiting.clear()
        for _ in range(2):
            self.stored.close()
            self.memory, self.stored = restored(COUNT, self.log), read_back(self._open(COUNT), self.log)
            held = {key: self.stored.get(key) for key in self.stored}
            assert held == {key: self.memory.get(key) for key in self.memory}
            assert (self.stored.progress.digest, self.stored.progress.keys) == digest_and_keys(self.log)

    def fill(self, *keys: str) -> None:
        for key in keys:
            self.act("put", key, 1)
        self.end_slice()


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_it_tells_the_changelog_what_the_one_in_memory_tells(steps: list[tuple[str, str, int]]) -> None:
    with _stores() as open_partition:
        pair = Pair(open_partition)
        for step in steps:
            pair.act(*step)
        pair.end_slice()
        pair.restart()


@pytest.mark.parametrize("table", SPECS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), cuts=CUTS, crashes=CRASHES)
def test_every_agent_folds_on_disk_as_in_memory(
    table: str, seed: int, cuts: list[int], crashes: dict[int, Crash]
) -> None:
    spec, log = SPECS[table], LOGS[table](seed)
    in_memory = run(spec.fold, spec.codec, slices(log))
    with _stores() as open_partition:
        on_disk = run(spec.fold, spec.codec, slices(log, cuts), crashes, open_partition)
    assert on_disk.table() == in_memory.table()
    assert on_disk.emitted_once() == in_memory.emitted_once()


def test_what_kafka_has_not_acknowledged_is_not_in_the_store(open_partition: Open) -> None:
    pair = Pair(open_partition)
    pair.fill("a")
    pair.stored.put("a", 5)
    pair.stored.delete("b")
    pair.stored.take_changes()
    pair.stored.close()
    again = open_partition(COUNT)
    assert again.get("a") == 1
    assert again.reads_from == len(pair.log) - 1


def test_an_older_acknowledgement_does_not_bring_back_an_older_value(open_partition: Open) -> None:
    pair = Pair(open_partition)
    for value in (1, 2):
        pair.act("put", "a", value)
        pair.act("later", "a", 0)
    pair.act("put", "b", 1)
    pair.act("put", "c", 1)
    # This has "a" forgotten in memory, and its first value written.
    pair.act("flush", "a", 0)
    pair.act("get", "a", 0)
    assert pair.stored.get("a") == 2


def test_a_restart_reads_only_what_the_store_does_not_hold(open_partition: Open) -> None:
    pair = Pair(open_partition)
    pair.fill(*"abcdefg")
    before = len(pair.log)
    pair.memory.put("b", 7)
    pair.log += pair.memory.take_changes()
    pair.stored.close()
    again = open_partition(COUNT)
    assert again.reads_from == before - 1
    read_back(again, pair.log)
    assert again.is_proven
    assert again.get("b") == 7
    assert len(again) == 7


def _compacted_to_nothing(log: list[Record]) -> list[Record]:
    return [Record(b"z", COUNT.encode(9)), Record(PROGRESS_KEY, Partition(COUNT).take_changes()[-1].value)]


def _without_its_end(log: list[Record]) -> list[Record]:
    return log[:-3]


def _another(log: list[Record]) -> list[Record]:
    other: Partition[int] = Partition(COUNT)
    for key in "xyz":
        other.put(key, 3)
    return [*other.take_changes(), *[Record(b"w%d" % n, COUNT.encode(n)) for n in range(20)]]


def _another_that_goes_on(log: list[Record]) -> list[Record]:
    other = restored(COUNT, _another(log))
    other.put("v", 1)
    return [*_another(log), *other.take_changes()]


def _without_a_deletion(log: list[Record]) -> list[Record]:
    """The key "a" was deleted while the store was away, and compaction has dropped all trace of it."""
    later = restored(COUNT, log)
    later.delete("a")
    later.put("c", 8)
    # Offsets are places in the list: what is dropped is replaced by what changes nothing.
    value, progress = later.take_changes()[1:]
    held = [value if record.key in {b"a", b"c", PROGRESS_KEY} else record for record in log]
    return [*held, value, progress]


@pytest.mark.parametrize(
    "changelog",
    [_compacted_to_nothing, _without_its_end, _another, _another_that_goes_on, _without_a_deletion],
)
def test_a_store_that_does_not_go_with_the_changelog_is_made_anew(
    open_partition: Open, changelog: Callable[[list[Record]], list[Record]]
) -> None:
    pair = Pair(open_partition)
    pair.fill("a", "b")
    pair.fill("c", "d")
    log = changelog(pair.log)
    pair.stored.close()
    stored, memory = read_back(open_partition(COUNT), log), restored(COUNT, log)
    assert {key: stored.get(key) for key in stored} == {key: memory.get(key) for key in memory}
    assert stored.progress.keys == len(memory)
    stored.put("b", 2)
    log += stored.take_changes()
    told = decode_progress(log[-1].value or b"")
    assert (told.digest, told.keys) == digest_and_keys(log)


@pytest.mark.parametrize("changelog", [_another, _another_that_goes_on, _without_a_deletion])
def test_a_reading_that_was_cut_off_proves_nothing(
    open_partition: Open, changelog: Callable[[list[Record]], list[Record]]
) -> None:
    pair = Pair(open_partition)
    pair.fill("a", "b")
    pair.fill("c", "d")
    log = [*changelog(pair.log), Record(b"later", COUNT.encode(1))]
    pair.stored.close()
    memory = restored(COUNT, log)
    for cut in range(pair.stored.reads_from + 1, len(log)):
        part = open_partition(COUNT)
        part.forget()
        read_back(part, pair.log)
        part.close()
        part = open_partition(COUNT)
        part.restore_all(as_read(log)[part.reads_from : cut])
        part.close()
        again = read_back(open_partition(COUNT), log)
        assert {key: again.get(key) for key in again} == {key: memory.get(key) for key in memory}
        again.close()


def test_a_first_reading_that_was_cut_off_goes_on_where_progress_was_told_and_else_begins_anew(
    open_partition: Open,
) -> None:
    source: Partition[int] = Partition(COUNT)
    log: list[Record] = []
    for value in range(3):
        for key in "abcde":
            source.put(key, value)
        log += source.take_changes()
    for cut in range(len(log)):
        part = open_partition(COUNT)
        part.forget()
        read_back(part, log[:cut])
        part.close()
        again = open_partition(COUNT)
        assert again.reads_from == max(0, cut // 6 * 6 - 1)
        read_back(again, log)
        assert again.progress == source.progress
        assert {key: again.get(key) for key in again} == dict.fromkeys("abcde", 2)
        again.close()
