"""What each table's changelog holds, beside what folding its source topic again gives.

The fold is the workers' own, over the same records in the same order up to where the table's progress stands, so every
key must be equal; workers may go on meanwhile.
"""

from collections.abc import Mapping

from aiokafka import ConsumerRecord

from models.topic_reader import OnProgress, ignore_progress, read_topic
from persona_stream.audit.derived import derive_items
from persona_stream.audit.findings import CHANGELOG, Audit, Difference, Value, differing_fields, value_of
from persona_stream.stream.partition import PROGRESS_KEY, SYSTEM_KEYS, Partition, Progress, decode_progress
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics, topic_specs
from persona_stream.worker.app import AgentSpec
from tables.versions import Version

Folded = Mapping[int, Partition[object]]


class _Stored:
    """One partition of a changelog: what stands as of the last progress, and what came behind it."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.progress = Progress()
        self.behind: dict[bytes, bytes | None] = {}
        """Changes after the last progress: of a slice that is being written, or was when a worker died."""

    def apply(self, record: ConsumerRecord) -> None:
        if record.key == PROGRESS_KEY:
            self.settle()
            self.progress = decode_progress(record.value)
        elif record.key not in SYSTEM_KEYS:
            self.behind[record.key] = record.value

    def settle(self) -> None:
        """Take what came behind the last progress for part of it."""
        for key, value in self.behind.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        self.behind = {}


async def audit_table(settings: Settings, spec: AgentSpec, on_progress: OnProgress = ignore_progress) -> Audit:
    """Fold a table again and compare. `spec`: its agent, made to be after the state alone.

    `settings.partitions` must be the topics'. Raises as `read_topic` does. Memory: the table twice, as bytes and as
    objects.
    """
    stored = await _read_changelog(settings, spec)
    folded = await _fold_source(settings, spec, stored, on_progress)
    audit = Audit(spec.table)
    lost = {partition: part.progress.events - folded[partition].progress.events for partition, part in stored.items()}
    if _is_compacted(settings, spec.source):
        for partition, part in sorted(stored.items()):
            _compare(spec, partition, part, folded[partition], audit, has_holes=lost[partition] > 0)
        return audit
    lost_records = sum(lost.values())
    if lost_records and spec.source == Topics(settings.namespace).item_events:
        held = {partition: part.values for partition, part in stored.items()}
        folded, lost_records = await derive_items(settings, spec, held, on_progress)
    if lost_records:
        # Retention: what they did can't be folded again.
        audit.failure = f"{lost_records:,} records that it was folded from are gone"
        return audit
    for partition, part in sorted(stored.items()):
        _compare(spec, partition, part, folded[partition], audit)
    return audit


async def _read_changelog(settings: Settings, spec: AgentSpec) -> dict[int, _Stored]:
    stored: dict[int, _Stored] = {}
    async for records in read_topic(settings, Topics(settings.namespace).changelog(spec.table)):
        part = stored.setdefault(records[0].partition, _Stored())
        for record in records:
            part.apply(record)
    return stored


async def _fold_source(
    settings: Settings, spec: AgentSpec, stored: dict[int, _Stored], on_progress: OnProgress
) -> Folded:
    """Fold the source up to where each changelog stands."""
    folded: dict[int, Partition[object]] = {partition: Partition(spec.codec) for partition in stored}
    newest: dict[int, int] = {}
    async for records in read_topic(settings, spec.source, on_progress=on_progress):
        partition = records[0].partition
        newest[partition] = records[-1].offset
        known = [r for r in records if partition in stored and r.offset <= stored[partition].progress.offset]
        if known:
            spec.fold.process(Slice(spec.source, partition, known), folded[partition])
            folded[partition].changed.clear()
    for partition, part in stored.items():
        if newest.get(partition, -1) <= part.progress.offset:
            # Nothing is left to fold: no slice can be on its way, and all that is held must stand.
            part.settle()
    return folded


def _is_compacted(settings: Settings, topic: str) -> bool:
    return any(spec.name == topic and spec.config.get("cleanup.policy") == "compact" for spec in topic_specs(settings))


def _compare(
    spec: AgentSpec,
    number: int,
    stored: _Stored,
    folded: Partition[object],
    audit: Audit,
    *,
    has_holes: bool = False,
) -> None:
    audit.in_motion += len(stored.behind)
    for key in sorted({*stored.values, *(name.encode() for name in folded)} - stored.behind.keys()):
        name = key.decode()
        raw, value = stored.values.get(key), folded.get(name)
        held = spec.codec.decode(raw) if raw is not None else None
        if has_holes and _is_forgotten(held, value):
            audit.forgotten += 1
            continue
        audit.keys += 1
        # Other bytes may be the same value: a dict's order is that of arrival.
        if held != value:
            audit.add(_difference(spec.table, number, name, value_of(held), value_of(value)))


def _difference(table: str, number: int, key: str, held: Value | None, expected: Value | None) -> Difference:
    note = "missing" if held is None else "no record of its source makes it" if expected is None else ""
    return Difference(table, number, key, CHANGELOG, held, expected, differing_fields(held, expected), note)


def _is_forgotten(held: object, value: object) -> bool:
    """Whether compaction may have taken the version held: it keeps what came last, the fold what is of newest time."""
    if value is None:
        return True
    return isinstance(held, Version) and isinstance(value, Version) and held.ts_ms > value.ts_ms
