"""The catalogue and profiles agents: `items.v1` -> table `catalogue`, `profiles.v1` -> table `profiles`."""

from collections.abc import Callable
from typing import TypeVar

from agents.emissions import Emissions
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import KafkaRecord, Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import check_skew, parse_item, parse_profile
from persona_stream.vocabulary.topics import Topics
from tables import catalogue, profiles

V = TypeVar("V")
Apply = Callable[[str, KafkaRecord, Partition[V]], bool]


class Catalogue:
    """Folds slices of `items.v1`: the newest version of each item by event time."""

    def __init__(self, settings: Settings) -> None:
        self._topics = Topics(settings.namespace)
        self._skew_ms = settings.max_future_skew_ms

    def process(self, part: Slice, entries: Partition[catalogue.CatalogueEntry]) -> Emissions:
        """Fold a slice into `entries`."""
        return _fold_versions(part, entries, Emissions(self._topics), self._apply)

    def _apply(self, key: str, record: KafkaRecord, entries: Partition[catalogue.CatalogueEntry]) -> bool:
        if record.value is None:
            return catalogue.apply_tombstone(entries.change(key), record.timestamp, record.offset)
        item = parse_item(record.value)
        ts_ms = _checked(key, item.id, item.ts, record, self._skew_ms)
        return catalogue.apply_item(entries.change(key), item, ts_ms, record.offset)


class Profiles:
    """Folds slices of `profiles.v1`: the newest traits of each user by event time."""

    def __init__(self, settings: Settings) -> None:
        self._topics = Topics(settings.namespace)
        self._skew_ms = settings.max_future_skew_ms

    def process(self, part: Slice, entries: Partition[profiles.ProfileEntry]) -> Emissions:
        """Fold a slice into `entries`."""
        return _fold_versions(part, entries, Emissions(self._topics), self._apply)

    def _apply(self, key: str, record: KafkaRecord, entries: Partition[profiles.ProfileEntry]) -> bool:
        if record.value is None:
            return profiles.apply_tombstone(entries.change(key), record.timestamp, record.offset)
        profile = parse_profile(record.value)
        ts_ms = _checked(key, profile.user, profile.ts, record, self._skew_ms)
        return profiles.apply_profile(entries.change(key), profile, ts_ms, record.offset)


def _fold_versions(part: Slice, entries: Partition[V], out: Emissions, apply: Apply[V]) -> Emissions:
    progress = entries.progress
    for record in part:
        if record.offset <= progress.offset:
            continue
        try:
            if record.key is None:
                raise EventError("missing_key", "the record has no key; it must be the id")
            applied = apply(record.key.decode(), record, entries)
            out.outcomes["applied" if applied else "superseded"] += 1
        except EventError as error:
            out.dead_letter(part, record, error)
        except UnicodeDecodeError:
            out.dead_letter(part, record, EventError("bad_encoding", "the record's key is not UTF-8"))
    progress.advance(part)
    return out


def _checked(key: str, named: str, ts: int | str, record: KafkaRecord, skew_ms: int) -> int:
    if key != named:
        raise EventError("key_mismatch", f"the record's key {key[:40]!r} is not its id {named[:40]!r}")
    check_skew(int(ts), record.timestamp, skew_ms)
    return int(ts)
