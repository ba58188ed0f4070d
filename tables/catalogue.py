"""Table `catalogue`: what items are. Key: item id; written from `items.v1`."""

from typing import Any

import msgspec

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.events import CatalogueItem
from tables.versions import Version, take_version


class CatalogueEntry(Version, array_like=True):
    """The newest version of one item, by event time."""

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
    encode=msgspec.msgpack.Encoder(order="deterministic").encode,
    decode=msgspec.msgpack.Decoder(CatalogueEntry).decode,
)


def apply_item(entry: CatalogueEntry, item: CatalogueItem, ts_ms: int, offset: int) -> bool:
    """Fold one version of an item. False if it had been applied before, or a newer version is held."""
    if not take_version(entry, ts_ms, offset):
        return False
    entry.attributes = item.attributes
    entry.hidden = item.status == "hidden"
    entry.expires_ms = item.expires_at if isinstance(item.expires_at, int) else None
    entry.deleted = False
    return True


def apply_tombstone(entry: CatalogueEntry, appended_ms: int, offset: int) -> bool:
    """Fold a deletion, which Kafka stamped at `appended_ms`. False if it had been applied before."""
    if not take_version(entry, max(entry.ts_ms, appended_ms), offset):
        return False
    entry.attributes = {}
    entry.deleted = True
    return True
