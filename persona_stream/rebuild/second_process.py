"""A second process beside the one that folds users: it folds the items, and every fourth partition of the users.

So both cores are as busy. Frames: four bytes of length, then MessagePack: settings and then work on standard input, an
empty frame at its end, and the changelog records of what was folded on standard output.
"""

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from time import perf_counter
from typing import IO, Any

import msgspec

from agents.emissions import Emissions
from agents.interactions import Interactions
from agents.items import Items
from persona_stream.kafka.writer import Partitioner
from persona_stream.stream.partition import SYSTEM_KEYS, Partition
from persona_stream.stream.slices import KafkaRecord, LogRecord, Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import GenerationError
from persona_stream.vocabulary.messages import ItemEvent
from persona_stream.vocabulary.topics import Topics
from tables import items as items_table
from tables import users as users_table
from tables.items import ItemState
from tables.users import UserState

ItemPartitions = dict[int, Partition[ItemState]]
UserPartitions = dict[int, Partition[UserState]]
Entries = dict[int, list[tuple[bytes, bytes | None]]]
"""By partition, changelog records, the progress last."""

EVERY = 4
"""Folding a user's event costs about three times what its item's does: a quarter of them evens it out."""
_LENGTH_BYTES = 4
_PIPE_BYTES = 1024 * 1024
_SWITCH_S = 0.0005
"""The thread that reads must not wait for 5 ms after each piece that the pipe holds: the sender would wait for it."""


class Work(msgspec.Struct, array_like=True):
    """One frame of work: events of a partition of the users, or item events."""

    partition: int
    events: list[LogRecord]
    item_events: list[ItemEvent]


class Told(msgspec.Struct, array_like=True):
    """What the process tells in the end."""

    items: Entries
    users: Entries
    records: int
    """Item events folded."""
    seconds: float
    """Spent on folding items."""


_encode = msgspec.msgpack.Encoder(enc_hook=str).encode
_decode_work = msgspec.msgpack.Decoder(Work).decode
_decode_told = msgspec.msgpack.Decoder(Told).decode


class IntoItems:
    """Item events folded as they come: each carries its source partition and offset, so an item's value is the same
    whatever the order of partitions."""

    def __init__(self, items: ItemPartitions) -> None:
        self._items = items
        self._partition_of = Partitioner(len(items))
        self._parts: list[list[ItemEvent]] = [[] for _ in items]
        self._by_item: dict[str, list[ItemEvent]] = {}
        self.records = 0
        self.seconds = 0.0

    def fold(self, made: Sequence[ItemEvent]) -> None:
        """Fold what a slice of events gave rise to."""
        started_s = perf_counter()
        by_item = self._by_item
        for event in made:
            part = by_item.get(event.item)
            if part is None:
                part = by_item[event.item] = self._parts[self._partition_of(event.item.encode())]
            part.append(event)
        for number, events in enumerate(self._parts):
            if events:
                Items.fold(events, self._items[number])
                events.clear()
        self.records += len(made)
        self.seconds += perf_counter() - started_s

    def finish(self) -> None:
        """All is folded."""


class IntoProcess:
    """The same in another process, which takes some partitions of the users' events as well."""

    def __init__(self, settings: Settings, users: UserPartitions, items: ItemPartitions) -> None:
        self._users = users
        self._items = items
        self.records = 0
        self.seconds = 0.0
        command = [sys.executable, "-m", "persona_stream.rebuild.second_process"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=_PIPE_BYTES)
        self._send(_encode(settings))

    @staticmethod
    def takes(partition: int) -> bool:
        """Whether it folds the users of a partition."""
        return partition % EVERY == EVERY - 1

    def fold(self, made: list[ItemEvent]) -> None:
        """Hand on what a slice of events gave rise to. Raises GenerationError where the process has ended."""
        if made:
            self._send(_encode(Work(0, [], made)))

    def fold_events(self, partition: int, records: Sequence[KafkaRecord]) -> None:
        """Hand on events of a partition that it takes. Raises GenerationError where the process has ended."""
        events = [LogRecord(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in records]
        self._send(_encode(Work(partition, events, [])))

    def finish(self) -> None:
        """Take the tables over. Raises GenerationError where the process has ended."""
        self._send(b"")
        assert self._process.stdout is not None
        told = _decode_told(_frame(self._process.stdout) or self._fail())
        self._process.wait()
        self.records, self.seconds = told.records, told.seconds
        for number, entries in told.items.items():
            _restore(self._items[number], entries)
        for number, entries in told.users.items():
            _restore(self._users[number], entries)

    def _send(self, payload: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _fail(self) -> bytes:
        raise GenerationError(
            f"the process that folds items ended with {self._process.wait()}.", hint="Is there enough memory?"
        )


def _restore(into: Partition[Any], entries: list[tuple[bytes, bytes | None]]) -> None:
    for key, value in entries:
        into.restore(key, value)
    into.changed.update(key.decode() for key, _ in entries if key not in SYSTEM_KEYS)


def _entries(partitions: dict[int, Partition[Any]]) -> Entries:
    return {n: [(record.key, record.value) for record in part.take_changes()] for n, part in partitions.items()}


def is_worth_it() -> bool:
    """Whether there is a core for another process."""
    return (os.cpu_count() or 1) > 1


def _frame(pipe: IO[bytes]) -> bytes:
    return pipe.read(int.from_bytes(pipe.read(_LENGTH_BYTES), "big"))


def _read_on(frames: "SimpleQueue[bytes]") -> None:
    # In a thread: the sender must not wait until what it sent before is folded.
    while frame := _frame(sys.stdin.buffer):
        frames.put(frame)
    frames.put(b"")


def main() -> None:
    """Fold what comes, then tell."""
    gc.disable()
    sys.setswitchinterval(_SWITCH_S)
    settings = Settings.load(msgspec.msgpack.decode(_frame(sys.stdin.buffer)), env={})
    interactions = Interactions(settings, with_examples=False)
    topics = Topics(settings.namespace)
    users: UserPartitions = {}
    items: ItemPartitions = {number: Partition(items_table.codec) for number in range(settings.partitions)}
    into = IntoItems(items)
    frames: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_on, args=(frames,), daemon=True).start()
    while frame := frames.get():
        work = _decode_work(frame)
        made = work.item_events
        if work.events:
            held = users.setdefault(work.partition, Partition(users_table.codec))
            made = interactions.fold(Slice(topics.events, work.partition, work.events), held, Emissions(topics))
        into.fold(made)
    payload = _encode(Told(_entries(items), _entries(users), into.records, into.seconds))
    sys.stdout.buffer.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)


if __name__ == "__main__":
    main()
