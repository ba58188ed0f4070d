"""Items folded in a process of their own, beside the one that folds users: item events in, the table out.

Frames: four bytes of length, then MessagePack: lists of item events on standard input, an empty frame at their end, and
the table's changelog records on standard output.
"""

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from time import perf_counter
from typing import IO

import msgspec

from agents.items import Items
from persona_stream.kafka.writer import Partitioner
from persona_stream.stream.partition import SYSTEM_KEYS, Partition
from persona_stream.vocabulary.errors import GenerationError
from persona_stream.vocabulary.messages import ItemEvent
from tables.items import ItemState, codec

ItemPartitions = dict[int, Partition[ItemState]]

_LENGTH_BYTES = 4
_encode = msgspec.msgpack.Encoder().encode
_decode_events = msgspec.msgpack.Decoder(list[ItemEvent]).decode


class Told(msgspec.Struct, array_like=True):
    """What the process tells in the end."""

    partitions: dict[int, list[tuple[bytes, bytes | None]]]
    """Changelog records, the progress last."""
    records: int
    seconds: float
    """Spent on folding."""


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
    """The same in another process: it takes the second core."""

    def __init__(self, items: ItemPartitions) -> None:
        self._items = items
        self.records = 0
        self.seconds = 0.0
        command = [sys.executable, "-m", "persona_stream.rebuild.items_process", str(len(items))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def fold(self, made: Sequence[ItemEvent]) -> None:
        """Hand on what a slice of events gave rise to. Raises GenerationError where the process has ended."""
        if made:
            self._send(_encode(made))

    def finish(self) -> None:
        """Take the table over. Raises GenerationError where the process has ended."""
        self._send(b"")
        assert self._process.stdout is not None
        told = msgspec.msgpack.decode(_frame(self._process.stdout) or self._fail(), type=Told)
        self._process.wait()
        self.records, self.seconds = told.records, told.seconds
        for number, records in told.partitions.items():
            into = self._items[number]
            for key, value in records:
                into.restore(key, value)
            into.changed.update(key.decode() for key, _ in records if key not in SYSTEM_KEYS)

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


def into_items(items: ItemPartitions, *, events: int, apart_from: int) -> IntoItems | IntoProcess:
    """Whatever is the quicker way for so many events: a process takes a second to start."""
    return IntoProcess(items) if events >= apart_from and (os.cpu_count() or 1) > 1 else IntoItems(items)


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
    items: ItemPartitions = {number: Partition(codec) for number in range(int(sys.argv[1]))}
    into = IntoItems(items)
    frames: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_on, args=(frames,), daemon=True).start()
    while frame := frames.get():
        into.fold(_decode_events(frame))
    partitions = {n: [(record.key, record.value) for record in part.take_changes()] for n, part in items.items()}
    payload = _encode(Told(partitions, into.records, into.seconds))
    sys.stdout.buffer.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)


if __name__ == "__main__":
    main()
