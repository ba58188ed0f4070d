"""Stores on disk: who has which folder, what is kept, and what becomes of files that can't be used."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from persona_stream.stream.stores import KEPT_S, Mark, Store, Stores
from persona_stream.vocabulary.errors import StoreError

TOPIC = "t-changelog"
MARK = Mark(7, b"progress", 1, 2)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    opened = Stores(tmp_path, "")
    yield opened
    opened.close()


def _filled(stores: Stores, partition: int = 0) -> Store:
    store = stores.open(TOPIC, partition)
    # Larger than what RocksDB gathers in memory, and nothing that shrinks much: it is in files.
    changes = {b"k%d" % number: os.urandom(4000) for number in range(5000)}
    store.write(changes, MARK)
    store._db.flush()
    return store


def _folder(tmp_path: Path, name: str = "worker-0", partition: int = 0) -> Path:
    return tmp_path / name / TOPIC / str(partition)


def test_what_was_written_is_there_after_a_restart_with_its_mark(tmp_path: Path, stores: Stores) -> None:
    store = stores.open(TOPIC, 0)
    store.write({b"a": b"1", b"b": b"2"}, MARK)
    store.write({b"a": None, b"c": b"3"}, MARK)
    stores.close()
    again = Stores(tmp_path, "").open(TOPIC, 0)
    assert again.mark == MARK
    assert list(again.entries()) == [(b"b", b"2"), (b"c", b"3")]
    assert again.get_many([b"a", b"b"]) == [None, b"2"]


def test_workers_that_share_a_home_have_a_folder_each_and_have_it_again(tmp_path: Path, stores: Stores) -> None:
    first = stores.open(TOPIC, 0)
    second = Stores(tmp_path, "")
    second.open(TOPIC, 0).write({b"a": b"2"}, MARK)
    first.write({b"a": b"1"}, MARK)
    second.close()
    again = Stores(tmp_path, "")
    assert again.open(TOPIC, 0).get(b"a") == b"2"
    named = Stores(tmp_path, "blue")
    assert named.open(TOPIC, 0).mark is None
    assert {path.name for path in tmp_path.iterdir()} == {"worker-0", "worker-1", "blue-0"}
    again.close()
    named.close()


def test_values_without_a_mark_are_not_trusted(tmp_path: Path, stores: Stores) -> None:
    stores.open(TOPIC, 0).write({b"a": b"1"}, None)
    stores.close()
    assert list(Stores(tmp_path, "").open(TOPIC, 0).entries()) == []


@pytest.mark.parametrize("harm", ["truncated", "lost", "headless", "nonsense"])
def test_files_that_cannot_be_opened_are_made_anew(tmp_path: Path, stores: Stores, harm: str) -> None:
    _filled(stores)
    stores.close()
    folder = _folder(tmp_path)
    (file, *_) = folder.glob("*.sst")
    if harm == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif harm == "lost":
        file.unlink()
    elif harm == "headless":
        (folder / "CURRENT").unlink()
    else:
        (folder / "CURRENT").write_text("nonsense")
    again = Stores(tmp_path, "").open(TOPIC, 0)
    assert again.mark is None
    assert list(again.entries()) == []


READINGS: dict[str, Callable[[Store, list[bytes]], object]] = {
    "get": lambda store, keys: [store.get(key) for key in keys],
    "get_many": lambda store, keys: store.get_many(keys),
    "entries": lambda store, _: list(store.entries()),
}


@pytest.mark.parametrize("reading", READINGS)
def test_a_damaged_block_is_an_error_when_it_is_read_and_the_next_start_makes_the_store_anew(
    tmp_path: Path, stores: Stores, reading: str
) -> None:
    _filled(stores)
    stores.close()
    (file, *_) = _folder(tmp_path).glob("*.sst")
    raw = bytearray(file.read_bytes())
    for at in range(100_000, len(raw) - 200_000, 5000):
        raw[at] ^= 0xFF
    file.write_bytes(raw)
    again = Stores(tmp_path, "")
    store = again.open(TOPIC, 0)
    keys = [b"k%d" % number for number in range(5000)]
    with pytest.raises(StoreError, match="can't be read: Corruption") as raised:
        READINGS[reading](store, keys)
    assert "made anew from the changelog" in raised.value.hint
    again.close()
    anew = Stores(tmp_path, "").open(TOPIC, 0)
    assert anew.mark is None
    assert anew.get(b"k1") is None


def test_a_store_that_another_program_has_open_is_an_error_and_stays(tmp_path: Path, stores: Stores) -> None:
    stores.open(TOPIC, 0).write({b"a": b"1"}, MARK)
    stores.close()
    other = Rdict(str(_folder(tmp_path)), Options(raw_mode=True))
    with pytest.raises(StoreError, match="can't be used") as raised:
        stores.open(TOPIC, 0)
    assert "another program" in raised.value.hint
    other.close()
    assert Stores(tmp_path, "x").open(TOPIC, 0).mark is None
    stores.close()
    assert Stores(tmp_path, "").open(TOPIC, 0).get(b"a") == b"1"


def test_a_home_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "stores").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="can't be used"):
        Stores(tmp_path / "stores", "").open(TOPIC, 0)


@contextmanager
def _no_file_beyond(size_bytes: int) -> Iterator[None]:
    """A disk that is full, as a file sees it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_error_and_what_was_written_before_it_stays_whole(tmp_path: Path, stores: Stores) -> None:
    store = stores.open(TOPIC, 0)
    written = 0

    def write_on() -> None:
        nonlocal written
        for number in range(1000):
            store.write({b"k%d" % number: os.urandom(1000), b"last": b"%d" % number}, Mark(number, b"p", 0, number + 1))
            written += 1

    with _no_file_beyond(200_000), pytest.raises(StoreError, match="can't be used") as raised:
        write_on()
    assert "space" in raised.value.hint
    assert written > 100
    stores.close()
    again = Stores(tmp_path, "").open(TOPIC, 0)
    assert again.mark is not None
    assert again.mark.offset >= written - 1
    assert again.get(b"last") == b"%d" % again.mark.offset
    assert sum(1 for _ in again.entries()) == again.mark.keys + 1


def test_stores_that_nobody_used_for_long_are_deleted_at_the_start(tmp_path: Path, stores: Stores) -> None:
    other = Stores(tmp_path, "other")
    for partition in (0, 1):
        stores.open(TOPIC, partition).write({b"a": b"1"}, MARK)
        other.open(TOPIC, partition).write({b"a": b"1"}, MARK)
    stores.close()
    long_ago_s = time.time() - KEPT_S - 1
    for name in ("worker-0", "other-0"):
        for file in _folder(tmp_path, name).iterdir():
            os.utime(file, (long_ago_s, long_ago_s))
    started = Stores(tmp_path, "")
    assert started.open(TOPIC, 1).mark == MARK
    assert not _folder(tmp_path).exists()
    # That of a worker that runs is left alone.
    assert _folder(tmp_path, "other-0").exists()
    started.close()
    other.close()
