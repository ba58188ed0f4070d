"""Versions of catalogue entries and profiles, applied to a replay in event time."""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from models.topic_reader import read_topic
from persona_stream.in_process import InProcess
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import parse_item, parse_profile
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
        self._later = sorted(versions, key=lambda one: one.ts_ms)
        self._next = 0
        self._firsts_applied = False

    def apply_until(self, ts_ms: int, system: InProcess) -> None:
        """Apply all versions of before a time or at it."""
        if not self._firsts_applied:
            self._firsts_applied = True
            firsts: dict[tuple[bool, str], Version] = {}
            for one in self._later:
                firsts.setdefault((one.is_item, one.key), one)
            for one in firsts.values():
                _apply(one, system)
        while self._next < len(self._later) and self._later[self._next].ts_ms <= ts_ms:
            _apply(self._later[self._next], system)
            self._next += 1


def _apply(version: Version, system: InProcess) -> None:
    (system.put_item if version.is_item else system.put_traits)(version.key, version.fields)


async def read_versions(settings: Settings) -> Versions:
    """Those that `items.v1` and `profiles.v1` still hold. Raises as `models.topic_reader.read_topic` does."""
    topics = Topics(settings.namespace)
    found: list[Version] = []
    for topic, is_item in ((topics.items, True), (topics.profiles, False)):
        async for records in read_topic(settings, topic):
            for record in records:
                try:
                    found.append(_version(record.key or b"", record.value, record.timestamp, is_item=is_item))
                except (EventError, UnicodeDecodeError):
                    # The stream has put it to the dead letters.
                    continue
    return Versions(found)


def _version(key: bytes, value: bytes | None, appended_ms: int, *, is_item: bool) -> Version:
    if value is None:
        return Version(appended_ms, is_item, key.decode(), {})
    if is_item:
        item = parse_item(value)
        return Version(int(item.ts), True, item.id, item.attributes)
    profile = parse_profile(value)
    return Version(int(profile.ts), False, profile.user, profile.traits)
