"""A second process beside the one that folds users: it folds the items, and every fourth partition of the users.

So both cores are as busy. Frames: four bytes of length, then MessagePack: settings, the task and then item events on
standard input, an empty frame at their end, and the changelog records of what was folded on standard output.
"""

import asyncio
import gc
import subprocess
import sys
import threading
from queue import Queue
from typing import IO, Any

import msgspec

from models.topic_reader import ignore_progress
from persona_stream.rebuild.folding import Bounds, Folded, IntoItems, fold_users, folded_of
from persona_stream.stream.partition import SYSTEM_KEYS, Partition
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import GenerationError
from persona_stream.vocabulary.messages import ItemEvent
from persona_stream.worker.app import agent_specs

EVERY = 4
"""Folding a user's event costs about three times what its item's does: a quarter of them evens it out."""
FRAMES_AHEAD = 64
"""How far the sender may be ahead."""
_LENGTH_BYTES = 4
_PIPE_BYTES = 1024 * 1024
_SWITCH_S = 0.0005
"""The thread that reads must not wait for 5 ms after each piece that the pipe holds: the sender would wait for it."""


class Task(msgspec.Struct, array_like=True):
    """Which users to fold."""

    ends: dict[int, int]
    """Partition -> offset up to before which its events are folded."""
    until_ms: int


class Told(msgspec.Struct, array_like=True):
    """What was folded of one table."""

    entries: dict[int, list[tuple[bytes, bytes | None]]]
    """By partition, changelog records, the progress last."""
    records: int
    seconds: float


_encode = msgspec.msgpack.Encoder(enc_hook=str).encode
_decode_task = msgspec.msgpack.Decoder(Task).decode
_decode_made = msgspec.msgpack.Decoder(list[ItemEvent]).decode
_decode_told = msgspec.msgpack.Decoder(tuple[Told, Told]).decode


class SecondProcess:
    """Folds what it is handed into the items, and the users of the partitions that it takes, in another process."""

    def __init__(self, settings: Settings, users: Folded, items: Folded, ends: Bounds, until_ms: int) -> None:
        self._users = users
        self._items = items
        command = [sys.executable, "-m", "persona_stream.rebuild.second_process"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=_PIPE_BYTES)
        self._send(_encode(settings))
        self._send(_encode(Task({number: end for number, end in ends.items() if self.takes(number)}, until_ms)))

    @staticmethod
    def takes(partition: int) -> bool:
        """Whether it folds the users of a partition."""
        return partition % EVERY == EVERY - 1

    def fold(self, made: list[ItemEvent]) -> None:
        """Hand on what a slice of events gave rise to. Raises GenerationError where the process has ended."""
        if made:
            self._send(_encode(made))

    def finish(self) -> None:
        """Take the tables over. Raises GenerationError where the process has ended."""
        self._send(b"")
        assert self._process.stdout is not None
        users, items = _decode_told(_frame(self._process.stdout) or self._fail())
        self._process.wait()
        _take_over(self._users, users)
        _take_over(self._items, items)

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


def _take_over(table: Folded, told: Told) -> None:
    for number, entries in told.entries.items():
        part: Partition[Any] = table.partitions[number]
        for key, value in entries:
            part.restore(key, value)
        part.changed.update(key.decode() for key, _ in entries if key not in SYSTEM_KEYS)
    table.records += told.records
    # A table that both processes fold takes as long as this one does.
    table.seconds = max(table.seconds, told.seconds)


def _told(table: Folded, partitions: Bounds | range) -> Told:
    entries = {n: [(r.key, r.value) for r in table.partitions[n].take_changes()] for n in partitions}
    return Told(entries, table.records, table.seconds)


def _frame(pipe: IO[bytes]) -> bytes:
    return pipe.read(int.from_bytes(pipe.read(_LENGTH_BYTES), "big"))


class _Handed:
    """Item events that the other process hands over."""

    def __init__(self, items: Folded) -> None:
        self._into = IntoItems(items)
        self._frames: Queue[bytes] = Queue(FRAMES_AHEAD)
        threading.Thread(target=self._read, daemon=True).start()

    def fold(self, made: list[ItemEvent]) -> None:
        """Fold what this process made, and what was handed over meanwhile."""
        self._into.fold(made)
        while not self._frames.empty():
            frame = self._frames.get()
            if not frame:
                self._frames.put(frame)
                return
            self._into.fold(_decode_made(frame))

    def fold_rest(self) -> None:
        """Fold all that is still to come."""
        while frame := self._frames.get():
            self._into.fold(_decode_made(frame))

    def _read(self) -> None:
        # In a thread: the sender must not wait until what it sent before is folded.
        while frame := _frame(sys.stdin.buffer):
            self._frames.put(frame)
        self._frames.put(b"")


def main() -> None:
    """Fold what comes, then tell."""
    gc.disable()
    sys.setswitchinterval(_SWITCH_S)
    settings = Settings.load(msgspec.msgpack.decode(_frame(sys.stdin.buffer)), env={})
    task = _decode_task(_frame(sys.stdin.buffer))
    specs = {spec.table: spec for spec in agent_specs(settings, with_examples=False)}
    users, items = folded_of(specs["users"], settings), folded_of(specs["items"], settings)
    handed = _Handed(items)
    if task.ends:
        reading = fold_users(
            settings, users, task.ends, until_ms=task.until_ms, on_progress=ignore_progress, hand_on=handed.fold
        )
        asyncio.run(reading)
        users.seconds -= items.seconds
    handed.fold_rest()
    payload = _encode((_told(users, task.ends), _told(items, range(settings.partitions))))
    sys.stdout.buffer.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)


if __name__ == "__main__":
    main()
