"""What each table's changelog holds, beside what folding its source topic again gives.

The fold is the workers' own, over the same records in the same order up to where the table's progress stands, so every
key must be equal; workers may go on meanwhile.
"""

from collections.abc import Mapping

from models.topic_reader import OnProgress, ignore_progress, read_topic
from persona_stream.audit.derived import UnderivableError, derive_items
from persona_stream.audit.findings import CHANGELOG, Audit, Difference, Value, differing_fields, value_of
from persona_stream.rebuild.snapshot import Held, Snapshot, read_snapshot
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics, topic_specs
from persona_stream.worker.app import AgentSpec
from tables.versions import Version

Folded = Mapping[int, Partition[object]]


async def audit_table(
    settings: Settings, spec: AgentSpec, live: Mapping[str, int], on_progress: OnProgress = ignore_progress
) -> Audit:
    """Fold a table again and compare. `spec`: its agent, made to be after the state alone; `live`: table -> generation.

    `settings.partitions` must be the topics'. Raises as `read_topic` does. Memory: the table twice, as bytes and as
    objects.
    """
    changelog = Topics(settings.namespace).changelog(spec.table, live[spec.table])
    stored = await read_snapshot(settings, changelog, settle_s=0)
    folded = await _fold_source(settings, spec, stored, on_progress)
    audit = Audit(spec.table)
    lost = {number: max(0, _events(part) - folded[number].progress.events) for number, part in stored.items()}
    if _is_compacted(settings, spec.source):
        for partition, part in sorted(stored.items()):
            _compare(spec, partition, part, folded[partition], audit, has_holes=lost[partition] > 0)
        return audit
    if any(lost.values()):
        # Retention: what they did can't be folded again from there.
        try:
            if spec.table != "items":
                raise UnderivableError(f"{sum(lost.values()):,} records that it was folded from are gone")
            stored, folded = await derive_items(settings, spec, live, on_progress)
        except UnderivableError as error:
            audit.failure = error.message
            return audit
    for partition, part in sorted(stored.items()):
        _compare(spec, partition, part, folded[partition], audit)
    return audit


async def _fold_source(settings: Settings, spec: AgentSpec, stored: Snapshot, on_progress: OnProgress) -> Folded:
    """Fold the source up to where each changelog stands."""
    folded: dict[int, Partition[object]] = {partition: Partition(spec.codec) for partition in stored}
    newest: dict[int, int] = {}
    async for records in read_topic(settings, spec.source, on_progress=on_progress):
        partition = records[0].partition
        newest[partition] = records[-1].offset
        known = [r for r in records if partition in stored and r.offset < stored[partition].folded]
        if known:
            spec.fold.process(Slice(spec.source, partition, known), folded[partition])
            folded[partition].changed.clear()
    for partition, part in stored.items():
        if newest.get(partition, -1) < part.folded:
            # Nothing is left to fold: no slice can be on its way, and all that is held must stand.
            part.settle()
    return folded


def _events(held: Held) -> int:
    return held.progress.events if held.progress is not None else 0


def _is_compacted(settings: Settings, topic: str) -> bool:
    return any(spec.name == topic and spec.config.get("cleanup.policy") == "compact" for spec in topic_specs(settings))


def _compare(
    spec: AgentSpec,
    number: int,
    stored: Held,
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
