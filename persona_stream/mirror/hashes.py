"""Changes of tables written to Redis as hashes, each with its version."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import islice

from persona_stream.mirror import mirror_metrics
from persona_stream.mirror.layout import PART_OF, Kind, Version, key_of
from persona_stream.mirror.link import RedisLink
from persona_stream.mirror.scripts import REMOVALS, WRITES, Call
from persona_stream.vocabulary.config import Settings

BATCH_KEYS = 250
"""Made into rows at once: as many take about eight milliseconds, and probes are answered in between."""

Changes = Mapping[bytes, tuple[bytes | None, int]]
"""Key -> (encoded value, or None where it was deleted; offset in the changelog)."""


class HashWriter:
    """Writes what tables hold; what Redis has newer stays."""

    def __init__(self, settings: Settings, link: RedisLink) -> None:
        self._namespace = settings.namespace
        self._gap_ms = settings.session_gap_ms
        self._ttl_ms = str(settings.redis_ttl_ms)
        self._link = link

    def key(self, kind: Kind, name: str) -> str:
        """The key of a hash."""
        return key_of(self._namespace, kind, name)

    async def write(self, table: str, turn: int, changes: Changes) -> None:
        """Write changes of one table; returns when Redis has them all."""
        left, sending = iter(changes.items()), None
        try:
            while part := dict(islice(left, BATCH_KEYS)):
                calls = self.calls(table, turn, part)
                if sending is not None:
                    await sending
                sending = asyncio.create_task(self._send(table, calls))
                # It goes out now: the next rows are made while Redis works.
                await asyncio.sleep(0)
            if sending is not None:
                await sending
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, table: str, calls: Sequence[Call]) -> None:
        answers = await self._link.run(calls)
        mirror_metrics.WRITTEN.labels(table).inc(sum(answers))
        mirror_metrics.REFUSED.labels(table).inc(len(answers) - sum(answers))

    def calls(self, table: str, turn: int, changes: Changes) -> list[Call]:
        """The calls that write changes of one table."""
        part, write = PART_OF[table], WRITES[table]
        kept = [raw for raw, _ in changes.values() if raw is not None]
        rows = iter(part.rows(kept, self._gap_ms) if kept else ())
        made = []
        for key, (raw, offset) in changes.items():
            name, version = key.decode(), Version(turn, offset)
            if raw is None:
                made.append(self.removal(table, name, version))
            else:
                made.append(write.call(self.key(part.kind, name), str(version), self._ttl_ms, *next(rows)))
        return made

    def removal(self, table: str, name: str, version: Version) -> Call:
        """The call that takes one table's fields out of a hash."""
        return REMOVALS[table].call(self.key(PART_OF[table].kind, name), str(version), self._ttl_ms)
