"""Table `catalogue`: what items are. Key: item id; written from `items.v1`."""

from typing import Any

import msgspec
from msgspec import Struct

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.events import CatalogueItem


class CatalogueEntry(Struct, array_like=True):
    """The newest version of one item, by event time."""

    applied: int = -1
    ts_ms: int = -1
    attributes: dict[str, Any] = {}
    hidden: bool = False
    expires_ms: int | None = None
    deleted: bool = False
    """A tombstone was read: kept as an entry, so that an older version that comes late stays deleted."""

    def is_restricted(self) -> bool:
        """Whether there is, or will be, a time at which the item may not be shown."""
        return self.hidden or self.deleted or self.expires_ms is not None

    def may_be_shown(self, as_of_ms: int) -> bool:
        """Whether the item is active, present and not expired at a time."""
        return not (self.hidden or self.deleted or (self.expires_ms is not None and self.expires_ms <= as_of_ms))


codec = Codec(
    new=CatalogueEntry,
    encode=msgspec.msgpack.Encoder().encode,
    decode=msgspec.msgpack.Decoder(CatalogueEntry).decode,
)


def apply_item(entry: CatalogueEntry, item: CatalogueItem, ts_ms: int, offset: int) -> bool:
    """Fold one version of an item. False if it had been applied before, or a newer version is held."""
    if offset <= entry.applied:
        return False
    entry.applied = offset
    if ts_ms < entry.ts_ms:
        return False
    entry.ts_ms = ts_ms
    entry.attributes = item.attributes
    entry.hidden = item.status == "hidden"
    entry.expires_ms = item.expires_at if isinstance(item.expires_at, int) else None
    entry.deleted = False
    return True


def apply_tombstone(entry: CatalogueEntry, appended_ms: int, offset: int) -> bool:
    """Fold a deletion, which Kafka stamped at `appended_ms`. False if it had been applied before."""
    if offset <= entry.applied:
        return False
    entry.applied = offset
    entry.ts_ms = max(entry.ts_ms, appended_ms)
    entry.attributes = {}
    entry.deleted = True
    return True
