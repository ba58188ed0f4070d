"""Table `profiles`: what is known of users from elsewhere. Key: user id; written from `profiles.v1`."""

from typing import Any

import msgspec
from msgspec import Struct

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.events import Profile


class ProfileEntry(Struct, array_like=True):
    """The newest traits of one user, by event time."""

    applied: int = -1
    ts_ms: int = -1
    traits: dict[str, Any] = {}


codec = Codec(
    new=ProfileEntry,
    encode=msgspec.msgpack.Encoder().encode,
    decode=msgspec.msgpack.Decoder(ProfileEntry).decode,
)


def apply_profile(entry: ProfileEntry, profile: Profile, ts_ms: int, offset: int) -> bool:
    """Fold one version of a profile. False if it had been applied before, or a newer version is held."""
    if offset <= entry.applied:
        return False
    entry.applied = offset
    if ts_ms < entry.ts_ms:
        return False
    entry.ts_ms = ts_ms
    entry.traits = profile.traits
    return True


def apply_tombstone(entry: ProfileEntry, appended_ms: int, offset: int) -> bool:
    """Fold a deletion, which Kafka stamped at `appended_ms`: the traits go. False if it had been applied before."""
    if offset <= entry.applied:
        return False
    entry.applied = offset
    entry.ts_ms = max(entry.ts_ms, appended_ms)
    entry.traits = {}
    return True
