"""A small worker for the tests of batched delivery: it counts records by key, and journals every slice it gets.

    python -m support.tally fold|setitem|interrupted

`fold` runs through the worker's own way of applying slices; `setitem` is an agent that writes `table[key] = value`;
`interrupted` is `fold` with a first recovery that only a rebalance ends.
Values that it obeys: `forget` deletes the key, `raise` raises, `hang` never comes back.
"""

import asyncio
import os
import sys
import threading
from collections import Counter
from typing import Any

import faust
import msgspec
import orjson
from faust.types import StreamT

from agents.emissions import Emissions
from persona_stream.kafka.writer import Record
from persona_stream.stream.consumer import SliceSchema
from persona_stream.stream.partition import PROGRESS_KEY, Codec, Partition, Progress, decode_progress
from persona_stream.stream.recovery import ChangelogRecovery
from persona_stream.stream.slices import Slice
from persona_stream.stream.table import ChangelogTable
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.logs import configure_logging
from persona_stream.vocabulary.topics import Topics
from persona_stream.worker.app import AgentSpec, build_app
from persona_stream.worker.run import run_worker
from support.cluster import create_topic, end_offsets, read_last, until, write
from support.processes import Process

COUNT = Codec[int](new=int, encode=msgspec.msgpack.Encoder().encode, decode=msgspec.msgpack.Decoder(int).decode)
TABLE = "tally"
HANGING = "hanging as told"


def source(settings: Settings) -> str:
    """The topic that is counted."""
    return f"{settings.namespace}.numbers"


def journal(settings: Settings) -> str:
    """The topic of slices: `[partition, offsets]`."""
    return f"{settings.namespace}.journal"


def changelog(settings: Settings) -> str:
    """The changelog of the counts."""
    return Topics(settings.namespace).changelog(TABLE)


async def create_topics(settings: Settings) -> None:
    """All three, new."""
    await create_topic(settings.kafka, source(settings), settings.partitions)
    await create_topic(settings.kafka, journal(settings), 1)
    await create_topic(settings.kafka, changelog(settings), settings.partitions, {"cleanup.policy": "compact"})


async def write_versions(settings: Settings, *, keys: int, versions: int, value_bytes: int) -> None:
    """Fill the changelog of partition 0 with values that the tally never touches, and one key, `a`, that it counts."""
    for version in range(versions):
        filler = os.urandom(64) * (value_bytes // 64)
        records = [Record(f"k{number}".encode(), filler) for number in range(keys)]
        progress = Record(PROGRESS_KEY, msgspec.msgpack.encode(Progress(offset=version)))
        await write(settings, changelog(settings), {0: [*records, Record(b"a", COUNT.encode(version + 1)), progress]})
    # All of which is in the table.
    await write(settings, source(settings), {0: [Record(b"a", b"x")] * versions})


async def until_counted(settings: Settings, worker: Process) -> None:
    """Wait until all of partition 0, with one more record, is in the changelog as it must be."""
    await write(settings, source(settings), {0: [Record(b"a", b"x")]})
    end = (await end_offsets(settings.kafka, source(settings)))[0]

    async def counted() -> bool:
        # The last slice's changes.
        last = {record.key: record.value for record in await read_last(settings.kafka, changelog(settings), 10)}
        if PROGRESS_KEY not in last or decode_progress(last[PROGRESS_KEY]).offset < end - 1:
            return False
        assert COUNT.decode(last[b"a"]) == end
        return True

    await until(counted, within_s=60, what="state read back, and one more counted", check=worker.check_alive)


class Tally:
    """The fold."""

    def __init__(self, settings: Settings) -> None:
        self._topics = Topics(settings.namespace)
        self._journal = journal(settings)

    def process(self, part: Slice, counts: Partition[int]) -> Emissions:
        """Count a slice."""
        out = Emissions(self._topics)
        offsets = [record.offset for record in part]
        out.emit(self._journal, str(part.partition), orjson.dumps([part.partition, offsets]))
        for record in part:
            if record.offset <= counts.progress.offset:
                continue
            key = (record.key or b"").decode()
            if record.value == b"forget":
                counts.delete(key)
                continue
            counts.put(key, (counts.get(key) or 0) + 1)
            _obey(record.value)
        counts.progress.advance(part)
        return out


def _obey(value: bytes | None) -> None:
    if value == b"raise":
        raise RuntimeError("told to")
    if value == b"hang":
        print(HANGING, file=sys.stderr, flush=True)
        threading.Event().wait()


def _run_setitem(settings: Settings) -> None:
    app = build_app(settings, specs=[])
    table: ChangelogTable[int] = ChangelogTable(
        app, name=TABLE, codec=COUNT, open_partition=app.open_partition, changelog=changelog(settings)
    )
    app.tables.add(table)

    async def count(stream: StreamT[Slice]) -> None:
        async for part in stream:
            for key, seen in Counter((record.key or b"").decode() for record in part).items():
                table[key] = table.get(key, 0) + seen
                assert key in table
            if any(record.value == b"forget" for record in part):
                del table["gone"]
            table.partition(part.partition).progress.advance(part)
            changes = table.partition(part.partition).take_changes()
            await app.changelogs.append(changelog(settings), part.partition, changes)
            end_offset = app.changelogs.end_offset(changelog(settings), part.partition)
            table.partition(part.partition).acknowledged(changes, end_offset)
            part.applied = True

    app.agent(app.topic(source(settings), schema=SliceSchema()), name="tally")(count)
    faust.Worker(app, loglevel="WARN").execute_from_commandline()


def _hang_in_the_first_recovery() -> None:
    """Partitions are claimed, and nothing of them is read, until a rebalance comes."""
    read = ChangelogRecovery._read

    async def hang(self: ChangelogRecovery, *_: Any) -> None:
        ChangelogRecovery._read = read  # type: ignore[method-assign]  # the fault is put in
        print(HANGING, file=sys.stderr, flush=True)
        await asyncio.Event().wait()

    ChangelogRecovery._read = hang  # type: ignore[method-assign]  # the fault is put in


def main(mode: str) -> Any:
    """Run until stopped."""
    settings = Settings.load()
    configure_logging(settings)
    if mode == "interrupted":
        _hang_in_the_first_recovery()
    if mode == "setitem":
        return _run_setitem(settings)
    return run_worker(settings, [AgentSpec(TABLE, source(settings), COUNT, Tally(settings))])


if __name__ == "__main__":
    main(sys.argv[1])
