"""What a replica keeps of each table's values, as bytes: made from what it holds, and from a changelog's value alike.

A replica is laid out for serving: items as columns, without what only their fold needs; catalogue and weights decoded.
An audit compares the two, so both stand here.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from persona_stream.holdings.digests import Stand
from persona_stream.serving.item_columns import ServedItem, served_item
from persona_stream.serving.replica import Replica
from persona_stream.stream.partition import Codec
from tables import catalogue, items, learner, profiles, users

_encode_item = msgspec.msgpack.Encoder(order="deterministic").encode


class Served(Struct, frozen=True):
    """How a replica holds one table."""

    project: Callable[[bytes], bytes]
    """A changelog's value -> what a replica keeps of it."""
    decode: Callable[[bytes], object]
    """That, with fields to compare."""
    keys: Callable[[Replica], list[str]]
    held: Callable[[Replica, str], bytes | None]
    """What a replica has of a key."""


def _project_item(raw: bytes) -> bytes:
    return _encode_item(served_item(items.codec.decode(raw)))


def _held_item(replica: Replica, key: str) -> bytes | None:
    served = replica.items.served(key)
    return None if served is None else _encode_item(served)


def _decoded(codec: Codec[Any], values: Callable[[Replica], dict[str, Any]]) -> Served:
    """A table that a replica holds as objects."""

    def held(replica: Replica, key: str) -> bytes | None:
        value = values(replica).get(key)
        return None if value is None else codec.encode(value)

    return Served(
        project=lambda raw: codec.encode(codec.decode(raw)),
        decode=codec.decode,
        keys=lambda replica: list(values(replica)),
        held=held,
    )


def _encoded(codec: Codec[Any], values: Callable[[Replica], dict[str, bytes]]) -> Served:
    """A table that a replica holds as bytes."""
    return Served(
        project=bytes,
        decode=codec.decode,
        keys=lambda replica: list(values(replica)),
        held=lambda replica, key: values(replica).get(key),
    )


SERVED: dict[str, Served] = {
    "users": _encoded(users.codec, lambda replica: replica.users),
    "items": Served(
        project=_project_item,
        decode=msgspec.msgpack.Decoder(ServedItem).decode,
        keys=lambda replica: replica.items.known(),
        held=_held_item,
    ),
    "catalogue": _decoded(catalogue.codec, lambda replica: replica.catalogue),
    "profiles": _encoded(profiles.codec, lambda replica: replica.profiles),
    "learner": _decoded(learner.codec, lambda replica: replica.models.learner),
}


class ReplicaHolding:
    """One table of a replica; it does not tell partitions apart."""

    partition = None

    def __init__(self, replica: Replica, table: str) -> None:
        self.table = table
        self._replica = replica
        self._served = SERVED[table]

    @property
    def changelog(self) -> str:
        """The topic that the table is read from."""
        return self._replica.changelog(self.table)

    def stand(self) -> Stand | None:
        """By partition, the changelog offset before which all is held."""
        return self._replica.positions(self.table)

    def kept_digest(self) -> None:
        """None is kept: a server's time belongs to its answers."""

    def __len__(self) -> int:
        return self._replica.tables[self.table].keys()

    def keys(self) -> Iterator[str]:
        """The keys held now."""
        return iter(self._served.keys(self._replica))

    def encoded(self, key: str) -> bytes | None:
        """What is served of a key."""
        return self._served.held(self._replica, key)

    def decode(self, raw: bytes) -> object:
        """That, with fields."""
        return self._served.decode(raw)


class ReplicaHoldings:
    """All tables of a replica."""

    stands_in = "changelog"

    def __init__(self, replica: Callable[[], Replica]) -> None:
        """`replica`: that which answers are made from now."""
        self._replica = replica

    def all(self) -> list[ReplicaHolding]:
        """By table."""
        return [ReplicaHolding(self._replica(), table) for table in SERVED]
