"""Table `profiles`: what is known of users from elsewhere. Key: user id; written from `profiles.v1`."""

from typing import Any

import msgspec

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.events import Profile
from tables.versions import Version, take_version


class ProfileEntry(Version, array_like=True):
    """The newest traits of one user, by event time."""

    traits: dict[str, Any] = {}


codec = Codec(
    new=ProfileEntry,
    encode=msgspec.msgpack.Encoder(order="deterministic").encode,
    decode=msgspec.msgpack.Decoder(ProfileEntry).decode,
)


def apply_profile(entry: ProfileEntry, profile: Profile, ts_ms: int, offset: int) -> bool:
    """Fold one version of a profile. False if it had been applied before, or a newer version is held."""
    if not take_version(entry, ts_ms, offset):
        return False
    entry.traits = profile.traits
    return True


def apply_tombstone(entry: ProfileEntry, appended_ms: int, offset: int) -> bool:
    """Fold a deletion, which Kafka stamped at `appended_ms`: the traits go. False if it had been applied before."""
    if not take_version(entry, max(entry.ts_ms, appended_ms), offset):
        return False
    entry.traits = {}
    return True
