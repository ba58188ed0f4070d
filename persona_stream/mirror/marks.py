"""How far Redis is: marks kept in Redis itself, written after the values, so that both are lost together.

A mark is the next changelog offset of a partition, with the turn of its table. Marks have an id of their own: where it
is gone, or a mark is older than this process made it, Redis has lost data (a flush, a failover) and must be written
again. They live for a day without a mirror: a deletion stands in a compacted changelog at least that long, so whoever
comes later must compare all keys.
"""

from collections.abc import Mapping
from uuid import uuid4

from aiokafka import TopicPartition

from persona_stream.mirror.layout import LAYOUT, Version
from persona_stream.mirror.link import RedisLink
from persona_stream.mirror.scripts import ADVANCE

MARKS_TTL_MS = 86_400_000
"""Kafka's `delete.retention.ms`."""


class MarksLostError(Exception):
    """Redis does not hold what it had taken."""


class Marks:
    """The marks of one namespace and layout."""

    def __init__(self, namespace: str, link: RedisLink) -> None:
        self._key = f"{namespace}:mirror:{LAYOUT}"
        self._link = link
        self._id = ""
        self._made: dict[str, Version] = {}

    async def load(self) -> dict[str, Version]:
        """The marks that Redis holds, by `table/partition`; none if it holds nothing."""
        _, _, held = await self._link.ask(
            [
                ("HSETNX", self._key, "id", uuid4().hex),
                ("PEXPIRE", self._key, MARKS_TTL_MS),
                ("HGETALL", self._key),
            ]
        )
        # RESP2 and RESP3 tell a hash differently.
        pairs = held if isinstance(held, dict) else dict(zip(held[::2], held[1::2], strict=True))
        self._id = pairs.pop("id")
        self._made = {name: Version.read(text) for name, text in pairs.items()}
        return self._made

    async def advance(self, reached: Mapping[str, Version]) -> None:
        """Note what is in Redis by now. Raises MarksLostError where it no longer holds what was noted before."""
        triples: list[str] = []
        for name, mark in reached.items():
            before = self._made.get(name)
            triples += (name, "" if before is None else str(before), str(mark))
        (answer,) = await self._link.run([ADVANCE.call(self._key, self._id, str(MARKS_TTL_MS), *triples)])
        if answer < 0:
            raise MarksLostError("Redis has lost what was written to it")
        self._made = {**self._made, **reached}

    async def forget(self) -> None:
        """Begin anew."""
        await self._link.ask([("DEL", self._key)])
        await self.load()


def mark_name(table: str, tp: TopicPartition) -> str:
    """The field that holds a partition's mark."""
    return f"{table}/{tp.partition}"
