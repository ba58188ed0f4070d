"""Running an agent over slices without Kafka: what it emitted, and what its changelog would hold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import SYSTEM_KEYS, Codec, Partition, entry_digest
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.messages import ShownRows, decode_shown, encode
from persona_stream.worker.app import Fold
from support.logs import Log, LogRecord


class Crash(Struct, frozen=True):
    """How a process dies while it applies a slice, and from where its successor reads again."""

    emitted_share: float
    """Of what the slice gives rise to, the share that Kafka has; below 1, none of the table's changes are there."""
    changes_written: int
    """So many of the table's changes are in the changelog (modulo their number: the progress, the last, never is)."""
    slices_back: int
    """The committed offset lags by so many slices."""


class Run(Struct):
    """Everything an agent wrote."""

    state: Partition[Any]
    emitted: dict[str, list[Record]] = field(default_factory=dict)
    changelog: list[Record] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def table(self) -> dict[bytes, bytes | None]:
        """The changelog, compacted: every key's last bytes, the progress among them."""
        return {record.key: record.value for record in self.changelog}

    def emitted_once(self) -> dict[str, list[tuple[bytes, bytes | None]]]:
        """What was emitted, in order, without what was emitted again."""
        return {topic: list(dict.fromkeys(told)) for topic, told in rows_apart(self.emitted).items()}


def rows_apart(emitted: Mapping[str, Sequence[Record]]) -> dict[str, list[tuple[bytes, bytes | None]]]:
    """What was emitted, by topic as (key, value); rows of lists one by one: a slice tells together what came in it."""
    return {
        topic: [
            (record.key or b"", value)
            for record in records
            for value in (_single_rows(record.value or b"") if topic.endswith("internal.shown") else [record.value])
        ]
        for topic, records in emitted.items()
    }


def _single_rows(raw: bytes) -> list[bytes]:
    told = decode_shown(raw)
    if not isinstance(told, ShownRows):
        return [raw]
    width = len(told.features) // len(told.items)
    return [
        # Of rows that were told together, the offset is the last one's.
        encode(replace(told, source_offset=0, items=[item], features=told.features[width * at : width * (at + 1)]))
        for at, item in enumerate(told.items)
    ]


Open = Callable[[Codec[Any]], Partition[Any]]


def run(
    fold: Fold,
    codec: Codec[Any],
    parts: Sequence[Slice],
    crashes: Mapping[int, Crash] | None = None,
    open_partition: Open = Partition,
) -> Run:
    """Apply slices as the worker does; `crashes` by position of the slice, each happens once."""
    done = Run(open_partition(codec))
    still_to_come = dict(crashes or {})
    at = 0
    while at < len(parts):
        crash = still_to_come.pop(at, None)
        _emit(done, fold, parts[at], crash.emitted_share if crash else 1.0)
        if crash is None:
            changes = done.state.take_changes()
            done.changelog += changes
            done.state.acknowledged(changes, len(done.changelog))
            at += 1
        else:
            _die(done, crash)
            done.state = read_back(open_partition(codec), done.changelog)
            at = max(0, at - crash.slices_back)
    return done


def restored(codec: Codec[Any], changelog: Iterable[Record]) -> Partition[Any]:
    """The partition as another process reads it back."""
    return read_back(Partition(codec), list(changelog))


def read_back(state: Partition[Any], changelog: Sequence[Record]) -> Partition[Any]:
    """Apply what of a changelog the partition does not hold yet, as recovery does; offsets are places in the list."""
    for _ in range(2):
        if state.reads_from >= len(changelog):
            state.forget()
        state.restore_all(as_read(changelog)[state.reads_from :])
        if state.is_proven:
            break
        state.forget()
    return state


def as_read(changelog: Iterable[Record]) -> Log:
    """The records as they are read back."""
    return [LogRecord(at, record.value, record.key) for at, record in enumerate(changelog)]


def digest_and_keys(changelog: Iterable[Record]) -> tuple[int, int]:
    """What the progress must say, summed plainly over the changelog, compacted."""
    table = {record.key: record.value for record in changelog if record.key not in SYSTEM_KEYS}
    entries = [(key, raw) for key, raw in table.items() if raw is not None]
    return sum(entry_digest(key, raw) for key, raw in entries) % 2**64, len(entries)


def _emit(done: Run, fold: Fold, part: Slice, share: float) -> None:
    out = fold.process(part, done.state)
    for topic, records in out.by_topic.items():
        done.emitted.setdefault(topic, []).extend(records[: int(len(records) * share)])
    for total, counted in ((done.outcomes, out.outcomes), (done.reasons, out.dead_by_reason)):
        for name, count in counted.items():
            total[name] = total.get(name, 0) + count


def _die(done: Run, crash: Crash) -> None:
    changes = done.state.take_changes()
    if crash.emitted_share >= 1:
        done.changelog += changes[: crash.changes_written % len(changes)]
    done.state.close()
