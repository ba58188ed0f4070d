"""Stores on disk: one RocksDB for each partition of a table, in a folder that one worker at a time has.

A store remembers what the changelog tells, up to a mark; one that can't be opened or read is made anew from there.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import cast

import msgspec
from msgspec import Struct
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
)

from persona_stream.vocabulary.errors import StoreError

CACHE_BYTES = 64 * 1024 * 1024
"""Blocks that all stores of a worker keep in memory."""
BUFFER_BYTES = 8 * 1024 * 1024
BUFFERS_BYTES = 64 * 1024 * 1024
"""What one store, and all of a worker, gather in memory before it goes to a file."""
OPEN_FILES = 64
BLOOM_BITS = 10
LOG_FILES = 2
KEPT_S = 7 * 86_400.0
"""A store that nobody wrote to for this long is deleted at the start of a worker."""

MARK_KEY = b"\x00mark"
_SYSTEM = b"\x01"
"""Keys below it are the store's own: no key of a table begins with a NUL."""
_REBUILD = "REBUILD"
"""A file of this name says that a store could not be read."""
_LOCK = "LOCK"
_NOT_THE_STORES_FAULT = ("lock", "No space left", "Permission denied", "Read-only", "Too many open files")

logger = logging.getLogger(__name__)


class Mark(Struct, array_like=True, frozen=True):
    """Up to where a store holds what the changelog tells."""

    offset: int
    """Of the progress record: all before it is in the store."""
    progress: bytes
    """That record's value."""
    digest: int
    keys: int
    """What the store holds: the same as in the progress, unless values from behind it were read back."""


_encode_mark = msgspec.msgpack.Encoder().encode
_decode_mark = msgspec.msgpack.Decoder(Mark).decode


class Stores:
    """The stores of one worker. Workers that share a home take a folder each, the same one when they come back."""

    def __init__(self, folder: Path, worker_id: str) -> None:
        self._folder = folder
        self._name = worker_id or "worker"
        self._mine: tuple[Path, int] | None = None
        self._open: list[Store] = []
        self._cache = Cache(CACHE_BYTES)
        self._buffers = WriteBufferManager(BUFFERS_BYTES, False)

    def open(self, topic: str, partition: int) -> "Store":
        """The store of a changelog's partition, empty where there was none or it can't be used.

        Raises StoreError where the disk does not let us.
        """
        folder = self._take_folder()
        path = folder / topic / str(partition)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(path, error) from error
        self._open = [store for store in self._open if not store.is_closed]
        store = Store(path, self._options())
        self._open.append(store)
        return store

    def close(self) -> None:
        """Close all, and let another worker have the folder."""
        for store in self._open:
            store.close()
        if self._mine is not None:
            os.close(self._mine[1])
            self._mine = None

    def _take_folder(self) -> Path:
        if self._mine is None:
            try:
                self._clean()
                self._mine = next(taken for taken in self._numbered() if taken)
            except OSError as error:
                raise _refused(self._folder, error) from error
        return self._mine[0]

    def _numbered(self) -> Iterator[tuple[Path, int] | None]:
        return (_take(self._folder / f"{self._name}-{number}") for number in count())

    def _clean(self) -> None:
        """Delete stores, of any worker that is not running, that were not written to for long."""
        for folder in self._folder.glob("*-*"):
            taken = _take(folder)
            if taken is None:
                continue
            for path in folder.glob("*/*"):
                if time.time() - _last_used_s(path) > KEPT_S:
                    logger.info("store %s was not used for long and is deleted", path)
                    shutil.rmtree(path)
            os.close(taken[1])

    def _options(self) -> Options:
        table = BlockBasedOptions()
        table.set_block_cache(self._cache)
        table.set_bloom_filter(BLOOM_BITS, False)
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(table)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_write_buffer_size(BUFFER_BYTES)
        options.set_write_buffer_manager(self._buffers)
        options.set_max_open_files(OPEN_FILES)
        options.set_keep_log_file_num(LOG_FILES)
        return options


class Store:
    """One partition's values as the changelog has them, up to `mark`. Raises StoreError where the disk fails."""

    def __init__(self, path: Path, options: Options) -> None:
        self._path = path
        self._options = options
        self._db = self._opened()
        self.is_closed = False
        self.mark: Mark | None = None
        raw = self.get(MARK_KEY)
        if raw is not None:
            self.mark = _decode_mark(raw)
        elif next(self.entries(), None) is not None:
            # A first reading that was cut off: how far it came is not known.
            self.clear()

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        try:
            found: bytes | None = self._db.get(key)
        except Exception as error:
            raise self._unreadable(error) from error
        return found

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, None where there is none."""
        try:
            found = self._db.get(list(keys))
        except Exception as error:
            raise self._unreadable(error) from error
        return cast(list[bytes | None], found)

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their values, in order, as they were when it began."""
        found = self._db.iter()
        try:
            found.seek(_SYSTEM)
            while found.valid():
                yield found.key(), found.value()
                found.next()
            # At a damaged block the iterator just ends.
            found.status()
        except Exception as error:
            raise self._unreadable(error) from error
        finally:
            # It keeps the files open, and a traceback may keep it.
            del found

    def write(self, changes: Mapping[bytes, bytes | None], mark: Mark | None) -> None:
        """Put values (None: delete) and the mark they go with: all or nothing."""
        batch = WriteBatch(raw_mode=True)
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        if mark is not None:
            batch.put(MARK_KEY, _encode_mark(mark))
        try:
            self._db.write(batch)
        except Exception as error:
            if "Corruption" in str(error):
                raise self._unreadable(error) from error
            raise _refused(self._path, error) from error
        self.mark = mark

    def clear(self) -> None:
        """Forget everything."""
        self.close()
        self.is_closed = False
        self._remove()
        self._db = self._opened()
        self.mark = None

    def close(self) -> None:
        """Close the files; they are kept."""
        if self.is_closed:
            return
        self.is_closed = True
        try:
            self._db.close()
        except Exception as error:
            # What could not be put into a file is in RocksDB's own log, or is read back from the changelog.
            logger.warning("store %s was not closed cleanly: %s", self._path, error)

    def _opened(self) -> Rdict:
        if (self._path / _REBUILD).exists():
            self._remove()
        try:
            return Rdict(str(self._path), self._options)
        except Exception as error:
            if any(reason in str(error) for reason in _NOT_THE_STORES_FAULT):
                raise _refused(self._path, error) from error
            logger.warning("store %s can't be opened and is made anew from the changelog: %s", self._path, error)
        self._remove()
        try:
            return Rdict(str(self._path), self._options)
        except Exception as error:
            raise _refused(self._path, error) from error

    def _remove(self) -> None:
        try:
            shutil.rmtree(self._path)
            self._path.mkdir()
        except OSError as error:
            raise _refused(self._path, error) from error

    def _unreadable(self, error: Exception) -> StoreError:
        (self._path / _REBUILD).touch()
        return StoreError(
            f"store {self._path} can't be read: {error}.",
            hint="It is made anew from the changelog when the worker is started again.",
        )


def _refused(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"store {path} can't be used: {error}.",
        hint="Look at the disk's space and rights, and whether another program has the store open.",
    )


def _take(folder: Path) -> tuple[Path, int] | None:
    """Lock a folder until the descriptor is closed or the process ends; None if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return folder, descriptor


def _last_used_s(path: Path) -> float:
    return max((file.stat().st_mtime for file in path.iterdir()), default=0.0)
