"""What the tables `catalogue` and `profiles` share: a key holds its newest version, by event time."""

from msgspec import Struct


class Version(Struct, array_like=True):
    """How far a key has come."""

    applied: int = -1
    """Highest offset of the source partition that was applied: a record at or below it changes nothing."""
    ts_ms: int = -1
    """Event time of the version held."""


def take_version(held: Version, ts_ms: int, offset: int) -> bool:
    """Note that a version was read; whether it is to be held. Of two with the same event time, the later read is."""
    if offset <= held.applied:
        return False
    held.applied = offset
    if ts_ms < held.ts_ms:
        return False
    held.ts_ms = ts_ms
    return True
