"""A table folded again beside the live one, key by key, both as of the same source offsets."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from persona_stream.rebuild.folding import Folded
from persona_stream.rebuild.snapshot import Held, Snapshot
from persona_stream.stream.partition import DIGEST_MASK, UNKNOWN, Codec, Partition, Progress, entry_digest
from persona_stream.vocabulary.errors import RecoveryError
from tables.versions import Version

NAMED = 20
"""Keys that differ are counted, and so many of them kept with both values."""


class OfAnotherVersion(Struct, frozen=True):
    """Stands for a live value that this version can't read: it is why tables are folded again."""

    why: str


class Difference(Struct, frozen=True):
    """A key whose values are not equal. None: it is absent on that side."""

    table: str
    partition: int
    key: str
    live: object | None
    folded: object | None

    def fields(self) -> Iterator[tuple[str, object, object]]:
        """(field, live, folded) of each field that is not equal."""
        if isinstance(self.live, OfAnotherVersion):
            yield "the whole value", self.live.why, self.folded
            return
        for name in getattr(self.live or self.folded, "__struct_fields__", ()):
            live, folded = getattr(self.live, name, None), getattr(self.folded, name, None)
            if live != folded:
                yield name, live, folded


class Comparison(Struct):
    """What was found of one table."""

    table: str
    digest: int = 0
    """Of what was folded: the sum of all partitions'."""
    live_digest: int = 0
    keys: int = 0
    differing: int = 0
    in_motion: int = 0
    """Keys left out: a slice of theirs was being written."""
    taken_over: int = 0
    """Keys of the live table whose source compaction has removed: they can't be folded again, and were taken over."""
    differences: list[Difference] = []
    failure: str = ""
    """Why the table could not be compared."""


def take_over(held: Held, folded: Partition[Any], codec: Codec[Any]) -> int:
    """Keep what compaction has taken from the source: the live version of a key where that is the newer one.

    Compaction keeps of each key what came last, the fold what is of newest time.
    """
    taken = 0
    for key, raw in held.values.items():
        name, live = key.decode(), codec.decode(raw)
        again = folded.get(name)
        is_newer = isinstance(live, Version) and isinstance(again, Version) and live.ts_ms > again.ts_ms
        if again is None or is_newer:
            folded.put(name, live)
            taken += 1
    return taken


def compare(table: Folded, live: Snapshot) -> Comparison:
    """Compare, by partition and key."""
    found = Comparison(table.spec.table)
    for number, made in sorted(table.written.items()):
        _compare_partition(found, table.spec.codec, number, live[number], made)
        _compare_progress(found, number, live[number].progress, table.partitions[number].progress)
        found.digest = found.digest + table.partitions[number].progress.digest & DIGEST_MASK
        found.live_digest = found.live_digest + _digest_of(live[number]) & DIGEST_MASK
    return found


def _digest_of(held: Held) -> int:
    if held.progress is not None and held.progress.keys != UNKNOWN:
        return held.progress.digest
    return sum(entry_digest(key, raw) for key, raw in held.values.items()) & DIGEST_MASK


def _compare_partition(found: Comparison, codec: Codec[Any], number: int, held: Held, made: dict[bytes, bytes]) -> None:
    found.keys += len(made)
    for key in sorted(made.keys() | held.values.keys()):
        live, folded = held.values.get(key), made.get(key)
        if live == folded:
            continue
        one = _read(codec, live) if live is not None else None
        other = codec.decode(folded) if folded is not None else None
        # Other bytes may be the same value, of a table written by another version.
        if one == other:
            continue
        if key in held.behind:
            found.in_motion += 1
        else:
            _add(found, number, key.decode(), one, other)


def _read(codec: Codec[Any], live: bytes) -> object:
    try:
        return codec.decode(live)
    except RecoveryError as error:
        return OfAnotherVersion(error.message)


def _compare_progress(found: Comparison, number: int, live: Progress | None, folded: Progress) -> None:
    if live is None:
        return
    # How many were counted differs where compaction has removed some, and so may the digests of other bytes.
    plain = {"events": 0, "digest": 0, "keys": 0, "appended_ms": 0}
    one, other = msgspec.structs.replace(live, **plain), msgspec.structs.replace(folded, **plain)
    if one != other:
        _add(found, number, "(progress)", one, other)


def _add(found: Comparison, number: int, key: str, live: object | None, folded: object | None) -> None:
    found.differing += 1
    if len(found.differences) < NAMED:
        found.differences.append(Difference(found.table, number, key, live, folded))
