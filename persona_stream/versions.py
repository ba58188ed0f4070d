"""Versions of catalogue entries and profiles, applied to a replay in event time."""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from models.topic_reader import read_topic
from persona_stream.in_process import InProcess
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import CatalogueItem, Profile, parse_item, parse_profile
from persona_stream.vocabulary.topics import Topics


class Version(Struct, frozen=True):
    """What an item or a user was from a time on; nothing: deleted."""

    ts_ms: int
    is_item: bool
    key: str
    fields: dict[str, Any]


class Versions:
    """Versions in event-time order. The first of a key stands for the time before it, too: what a product is hardly
    changes, and a catalogue is often newer than the events that are replayed."""

    def __init__(self, versions: Iterable[Version]) -> None:
        self._firsts: dict[tuple[bool, str], Version] = {}
        self._later: list[Version] = []
        for one in sorted(versions, key=lambda one: one.ts_ms):
            if self._firsts.setdefault((one.is_item, one.key), one) is not one:
                self._later.append(one)
        self._next = 0

    def is_due(self, ts_ms: int) -> bool:
        """Whether there are versions of before a time, or at it, that were not applied."""
        return bool(self._firsts) or (self._next < len(self._later) and self._later[self._next].ts_ms <= ts_ms)

    def apply_until(self, ts_ms: int, system: InProcess) -> None:
        """Apply all versions of before a time or at it."""
        firsts, self._firsts = self._firsts, {}
        for one in firsts.values():
            _apply(one, system)
        while self._next < len(self._later) and self._later[self._next].ts_ms <= ts_ms:
            _apply(self._later[self._next], system)
            self._next += 1


def _apply(version: Version, system: InProcess) -> None:
    (system.put_item if version.is_item else system.put_traits)(version.key, version.fields)


def item_version(item: CatalogueItem) -> Version:
    """What an item is from its `ts` on."""
    return Version(int(item.ts), True, item.id, item.attributes)


def profile_version(profile: Profile) -> Version:
    """What a user is from its `ts` on."""
    return Version(int(profile.ts), False, profile.user, profile.traits)


async def read_item_versions(settings: Settings) -> list[Version]:
    """Those that `items.v1` still holds. Raises as `models.topic_reader.read_topic` does."""
    return await _read(settings, Topics(settings.namespace).items, is_item=True)


async def read_profile_versions(settings: Settings) -> list[Version]:
    """Those that `profiles.v1` still holds. Raises as `models.topic_reader.read_topic` does."""
    return await _read(settings, Topics(settings.namespace).profiles, is_item=False)


async def _read(settings: Settings, topic: str, *, is_item: bool) -> list[Version]:
    found: list[Version] = []
    async for records in read_topic(settings, topic):
        for record in records:
            try:
                found.append(_version(record.key or b"", record.value, record.timestamp, is_item=is_item))
            except (EventError, UnicodeDecodeError):
                # The stream has put it to the dead letters.
                continue
    return found


def _version(key: bytes, value: bytes | None, appended_ms: int, *, is_item: bool) -> Version:
    if value is None:
        return Version(appended_ms, is_item, key.decode(), {})
    return item_version(parse_item(value)) if is_item else profile_version(parse_profile(value))
