"""What a worker or a server holds, beside its changelog: by digest first, then key by key where that differs.

Both go on meanwhile, so whatever is compared is compared as of one moment: the process tells where it stood, and the
changelog is taken as it was there. A key that differs is asked for once more before it is named.
"""

import asyncio
from collections.abc import Callable, Iterable

from msgspec import Struct

from persona_stream.audit.changelog_view import ChangelogView, Span
from persona_stream.audit.findings import Audit, Difference, Value, differing_fields, value_of
from persona_stream.audit.holder import Holder
from persona_stream.holdings.digests import (
    Bucket,
    MovedError,
    Stand,
    Step,
    bucket_of,
    by_field,
    digest_text,
    field_digests,
    sum_buckets,
)
from persona_stream.holdings.routes import EntryAnswer, HoldingView
from persona_stream.stream.partition import DIGEST_MASK, entry_digest

TRIES = 5
"""A partition that moves to another worker meanwhile, or is read back, is asked for so often."""
TRY_AGAIN_S = 1.0
NAMED = 200
"""Keys of one holding that are asked for once more and named; what differs beyond is counted."""


class Form(Struct, frozen=True):
    """How a process holds a table's values."""

    project: Callable[[bytes], bytes]
    """A changelog's value -> the same as that process holds it."""
    decode: Callable[[bytes], object]
    """That, with fields."""


class HeldAudit:
    """The audit of one holding of one process."""

    def __init__(self, holder: Holder, holding: HoldingView, form: Form, view: ChangelogView, *, in_source: bool):
        """`view` must be read; `in_source`: whether the process stands in its source rather than in the changelog."""
        self._holder = holder
        self._holding = holding
        self._form = form
        self._view = view
        self._in_source = in_source
        self._found = self._new_audit()

    def _new_audit(self) -> Audit:
        return Audit(self._holding.table, str(self._holder.place), self._holding.partition)

    async def run(self) -> Audit:
        """Compare. Raises HolderError."""
        for _ in range(TRIES):
            self._found = self._new_audit()
            try:
                await self._compare()
            except MovedError:
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            return self._found
        self._found.failure = "it is being read back, moves between workers, or is behind the changelog"
        return self._found

    async def _compare(self) -> None:
        answer = await self._holder.buckets(self._holding)
        first, last = await self._spans(answer.first), await self._spans(answer.last)
        self._found.keys = sum(bucket.keys for bucket in answer.buckets)
        mine = self._buckets(first)
        suspect = {number for number, pair in enumerate(zip(mine, answer.buckets, strict=True)) if pair[0] != pair[1]}
        suspect |= {bucket_of(key) for key in self._changed(first, last)}
        self._forget(first)
        if suspect:
            await self._compare_entries(suspect)
        await self._compare_kept_digest()

    async def _spans(self, stand: Stand) -> dict[int, Span]:
        spans = await self._view.spans(stand, in_source=self._in_source)
        if spans is None:
            raise MovedError
        return spans

    def _buckets(self, spans: dict[int, Span]) -> list[Bucket]:
        return sum_buckets(self._entries(spans))

    def _entries(self, spans: dict[int, Span]) -> Iterable[tuple[bytes, int]]:
        for number, span in spans.items():
            part = self._view.partitions[number]
            for key in part:
                raw = part.value_at(key, span.first)
                if raw is not None:
                    yield key, entry_digest(key, self._form.project(raw))

    def _changed(self, first: dict[int, Span], last: dict[int, Span]) -> Iterable[bytes]:
        for number, span in first.items():
            yield from self._view.partitions[number].changed_in(Span(span.first, last[number].until))

    def _forget(self, spans: dict[int, Span]) -> None:
        for number, span in spans.items():
            self._view.partitions[number].forget_before(span.first)

    async def _compare_entries(self, buckets: set[int]) -> None:
        listed: set[str] = set()
        suspects: set[str] = set()
        first: Stand | None = None
        last: Stand = {}
        async for step in self._holder.entries(self._holding, buckets):
            first = first or step.stand
            last = step.stand
            suspects |= await self._unlike(step)
            listed.update(key for key, _ in step.entries)
        if first is None:
            raise MovedError
        suspects |= self._missing(buckets, listed, await self._spans(first), await self._spans(last))
        for key in sorted(suspects)[:NAMED]:
            await self._confirm(key)
        self._found.differing += max(0, len(suspects) - NAMED)

    async def _unlike(self, step: Step) -> set[str]:
        spans = await self._spans(step.stand)
        return {key for key, digest in step.entries if digest not in self._expected(key, spans)}

    def _expected(self, key: str, spans: dict[int, Span]) -> dict[str | None, bytes | None]:
        """Digest -> value, of each value that the key may have there; None: it may be absent."""
        name = key.encode()
        found: dict[str | None, bytes | None] = {}
        for number, span in spans.items():
            for raw in self._view.partitions[number].values_in(name, span):
                if raw is not None:
                    projected = self._form.project(raw)
                    found[digest_text(entry_digest(name, projected))] = projected
                elif len(spans) == 1:
                    found[None] = None
        return found or {None: None}

    def _missing(self, buckets: set[int], listed: set[str], first: dict[int, Span], last: dict[int, Span]) -> set[str]:
        """Keys that the changelog has had all the while, and that were not listed."""
        return {
            key.decode()
            for number, span in first.items()
            for key in self._view.partitions[number].values
            if bucket_of(key) in buckets
            and key.decode() not in listed
            and self._view.partitions[number].value_at(key, span.first) is not None
            and self._view.partitions[number].value_at(key, last[number].first) is not None
        }

    async def _confirm(self, key: str) -> None:
        answer = await self._holder.entry(self._holding, key)
        expected = self._expected(key, await self._spans(answer.stand))
        # Other bytes may be the same value, of one written by another version.
        same = any(raw and field_digests(self._form.decode(raw)) == answer.fields for raw in expected.values())
        if answer.digest not in expected and not same:
            # The one that it must be; where others would do as well, they differ by a slice that is on its way.
            self._found.add(self._difference(key, answer, next(iter(expected.values()))))

    def _difference(self, key: str, answer: EntryAnswer, expected_raw: bytes | None) -> Difference:
        expected = None if expected_raw is None else self._form.decode(expected_raw)
        held: Value | None = None
        note = ""
        fields: tuple[str, ...] = ()
        if answer.digest is not None and answer.fields is None:
            note = "what is held can't be decoded"
        elif answer.digest is not None and expected is not None:
            fields = _unlike_fields(answer, expected)
            held, note = self._shown(answer)
        return Difference(
            table=self._holding.table,
            partition=self._holding.partition if self._holding.partition is not None else self._partition_of(key),
            key=key,
            holder=str(self._holder.place),
            held=held,
            expected=value_of(expected),
            fields=fields,
            note=note or _absence(answer, expected),
        )

    def _shown(self, answer: EntryAnswer) -> tuple[Value | None, str]:
        if answer.value is None:
            return None, "its values are not shown: PERSONA_AUDIT_VALUES there"
        return by_field(self._form.decode(answer.value)), ""

    def _partition_of(self, key: str) -> int | None:
        name = key.encode()
        return next((number for number, part in self._view.partitions.items() if name in part.values), None)

    async def _compare_kept_digest(self) -> None:
        """The digest kept change by change must be that of the changelog, too."""
        for holding in (await self._holder.holdings()).holdings:
            same = (holding.table, holding.partition) == (self._holding.table, self._holding.partition)
            if not same or holding.digest is None or holding.stand is None:
                continue
            spans = await self._spans(holding.stand)
            expected = digest_text(DIGEST_MASK & sum(digest for _, digest in self._entries(spans)))
            if holding.digest != expected:
                sides: tuple[Value, Value] = {"digest": holding.digest}, {"digest": expected}
                where = (holding.table, holding.partition, "", str(self._holder.place))
                note = "the digest kept change by change is wrong"
                self._found.add(Difference(*where, *sides, differing_fields(*sides), note))


def _unlike_fields(answer: EntryAnswer, expected: object) -> tuple[str, ...]:
    held = answer.fields or {}
    return tuple(name for name, digest in field_digests(expected).items() if held.get(name) != digest)


def _absence(answer: EntryAnswer, expected: object) -> str:
    if answer.digest is None:
        return "missing"
    return "" if expected is not None else "not in the changelog"
