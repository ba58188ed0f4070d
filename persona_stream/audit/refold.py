"""What each table's changelog holds, beside what folding its source topic again gives.

The fold is the workers' own, over the same records in the same order up to where the table's progress stands, so every
key must be equal; workers may go on meanwhile.
"""

from collections.abc import Iterable, Iterator, Mapping

from aiokafka import ConsumerRecord
from msgspec import Struct

from models.topic_reader import OnProgress, ignore_progress, read_topic
from persona_stream.audit.derived import derive_items
from persona_stream.stream.partition import PROGRESS_KEY, SYSTEM_KEYS, Partition, Progress, decode_progress
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics, topic_specs
from persona_stream.worker.app import AgentSpec
from tables.versions import Version

Value = dict[str, object]
"""A table's value by field."""
Folded = Mapping[int, Partition[object]]


class Difference(Struct, frozen=True):
    """A key whose two values are not equal. None: the key is absent on that side."""

    table: str
    partition: int
    key: str
    stored: Value | None
    folded: Value | None


class TableAudit(Struct):
    """What the audit of one table found."""

    table: str
    source: str
    keys: int = 0
    """Keys that were compared."""
    in_motion: int = 0
    """Keys left out: a slice of theirs was being written."""
    forgotten: int = 0
    """Keys left out: compaction has removed what the source said of them."""
    lost_records: int = 0
    """Source records that were folded once and are gone (retention): what they did can't be folded again, and nothing
    was compared."""
    differences: list[Difference] = []


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


async def audit_table(settings: Settings, spec: AgentSpec, on_progress: OnProgress = ignore_progress) -> TableAudit:
    """Fold a table again and compare. `spec`: its agent, made to be after the state alone.

    `settings.partitions` must be the topics'. Raises as `read_topic` does. Memory: the table twice, as bytes and as
    objects.
    """
    stored = await _read_changelog(settings, spec)
    folded = await _fold_source(settings, spec, stored, on_progress)
    audit = TableAudit(spec.table, spec.source)
    lost = {partition: part.progress.events - folded[partition].progress.events for partition, part in stored.items()}
    if _is_compacted(settings, spec.source):
        for partition, part in sorted(stored.items()):
            _compare(spec, partition, part, folded[partition], audit, has_holes=lost[partition] > 0)
        return audit
    audit.lost_records = sum(lost.values())
    if audit.lost_records and spec.source == Topics(settings.namespace).item_events:
        held = {partition: part.values for partition, part in stored.items()}
        folded, audit.lost_records = await derive_items(settings, spec, held, on_progress)
    if not audit.lost_records:
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
    audit: TableAudit,
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
            audit.differences.append(Difference(spec.table, number, name, _by_field(held), _by_field(value)))


def _is_forgotten(held: object, value: object) -> bool:
    """Whether compaction may have taken the version held: it keeps what came last, the fold what is of newest time."""
    if value is None:
        return True
    return isinstance(held, Version) and isinstance(value, Version) and held.ts_ms > value.ts_ms


def _by_field(value: object) -> Value | None:
    if value is None:
        return None
    fields: Iterable[str] = getattr(value, "__struct_fields__", ())
    return {field: getattr(value, field) for field in fields}


def fields_that_differ(difference: Difference) -> Iterator[tuple[str, object, object]]:
    """(field, stored, folded) for each field that is not equal; nothing where one side lacks the key."""
    if difference.stored is None or difference.folded is None:
        return
    for field, stored in difference.stored.items():
        if stored != difference.folded[field]:
            yield field, stored, difference.folded[field]
