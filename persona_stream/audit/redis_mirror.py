"""What the mirror has written to Redis, beside the changelogs.

Each part of a hash says which changelog record it is of, so it is compared with what the key had there, however far
workers and mirror have come meanwhile. A hash, or a part of one, that is not there is no difference: it expires.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import redis.asyncio as aioredis
from msgspec import Struct
from redis.exceptions import RedisError

from persona_stream.audit.changelog_view import ChangelogView, FollowedPartition, changelog_view
from persona_stream.audit.findings import Audit, Difference, Value
from persona_stream.kafka.generations import read_history
from persona_stream.mirror.layout import (
    LAYOUT,
    PARTS,
    Kind,
    Part,
    Version,
    differing_fields,
    expected_hashes,
    key_of,
    parts_of,
)
from persona_stream.mirror.reader import Live, live_tables
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import MirrorError
from persona_stream.vocabulary.topics import Topics

REDIS = "redis"
SCAN_KEYS = 500
BEHIND_S = 30.0
"""A mirror that is not as far as the changelogs were within this time is behind."""
LOOK_S = 0.2
KINDS: tuple[Kind, ...] = ("user", "item")

Hash = Mapping[str, str]


class _Read(Struct):
    """A changelog that the mirror shows: how far it was when it was read."""

    part: Part
    live: Live
    view: ChangelogView
    ends: dict[int, int]

    def holder_of(self, key: bytes) -> tuple[int, FollowedPartition] | None:
        """The partition that a key is in, or was."""
        found = (pair for pair in self.view.partitions.items() if pair[1].knows(key))
        return next(found, None)


async def audit_redis(settings: Settings, tables: Collection[str]) -> AsyncIterator[Audit]:
    """One audit for each table that the mirror shows; `failure` says where nothing could be compared."""
    wanted = [part for part in PARTS if part.table in tables]
    if not wanted:
        return
    started_s = time.monotonic()
    audits = {part.table: Audit(part.table, REDIS) for part in wanted}
    client = aioredis.Redis.from_url(settings.redis_url, decode_responses=True, socket_timeout=BEHIND_S)
    try:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(client.aclose)
            await _RedisAudit(settings, client, audits).run(stack)
    except (RedisError, OSError, MirrorError) as error:
        for audit in audits.values():
            audit.failure = f"{error}".rstrip(".")
    for audit in audits.values():
        audit.seconds = time.monotonic() - started_s
        yield audit


class _RedisAudit:
    def __init__(self, settings: Settings, client: "aioredis.Redis", audits: dict[str, Audit]) -> None:
        self._settings = settings
        # Its types don't know that answers are decoded.
        self._client: Any = client
        self._audits = audits
        self._tables: dict[str, _Read] = {}

    async def run(self, stack: AsyncExitStack) -> None:
        """Compare every hash that is there. Raises MirrorError where no mirror has come as far as the changelogs."""
        live = live_tables(await read_history(self._settings))
        topics = Topics(self._settings.namespace)
        # A hash is compared whole, so all tables are read that have a part in it.
        kinds = {part.kind for part in PARTS if part.table in self._audits}
        for part in [part for kind in sorted(kinds) for part in parts_of(kind)]:
            topic = topics.changelog(part.table, live[part.table].generation)
            view = await stack.enter_async_context(changelog_view(self._settings, topic))
            await view.read()
            ends = {number: held.position for number, held in view.partitions.items()}
            self._tables[part.table] = _Read(part, live[part.table], view, ends)
        await self._until_mirrored()
        for kind in sorted(kinds):
            await self._compare_kind(kind)

    async def _until_mirrored(self) -> None:
        """Wait until the mirror is as far as the changelogs were."""
        deadline_s = time.monotonic() + BEHIND_S
        while behind := self._behind(await self._client.hgetall(f"{self._settings.namespace}:mirror:{LAYOUT}")):
            if time.monotonic() > deadline_s:
                raise MirrorError(f"the mirror is behind: {behind}")
            await asyncio.sleep(LOOK_S)

    def _behind(self, marks: Hash) -> str:
        if not marks:
            return "none has written to this Redis"
        for table, read in self._tables.items():
            for number, end in read.ends.items():
                text = marks.get(f"{table}/{number}")
                if end and (text is None or Version.read(text) < Version(read.live.turn, end)):
                    return f"{table}/{number} stands at {text} of {read.live.turn}:{end}"
        return ""

    async def _compare_kind(self, kind: Kind) -> None:
        prefix = key_of(self._settings.namespace, kind, "")
        seen: set[str] = set()
        cursor = 0
        while True:
            cursor, keys = await self._client.scan(cursor, match=f"{prefix}*", count=SCAN_KEYS)
            # A scan may tell a key twice.
            names = list(
                dict.fromkeys(key.removeprefix(prefix) for key in keys if key.removeprefix(prefix) not in seen)
            )
            seen.update(names)
            await self._compare(kind, dict(zip(names, await self._hashes(kind, names), strict=True)))
            if not cursor:
                break
        for part in parts_of(kind):
            partitions = self._tables[part.table].view.partitions.values()
            self._audit(part).forgotten += sum(key.decode() not in seen for held in partitions for key in held.values)

    def _audit(self, part: Part) -> Audit:
        """Of a table that was not asked for nothing is told."""
        return self._audits.get(part.table) or Audit(part.table)

    async def _hashes(self, kind: Kind, names: Sequence[str]) -> list[Hash]:
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(key_of(self._settings.namespace, kind, name))
        return list(await pipeline.execute())

    async def _compare(self, kind: Kind, hashes: Mapping[str, Hash]) -> None:
        tables: dict[str, dict[str, bytes]] = {part.table: {} for part in parts_of(kind)}
        for part in parts_of(kind):
            for name, held in hashes.items():
                raw = await self._value(part, name, held)
                if raw is not None:
                    tables[part.table][name] = raw
        expected = expected_hashes(kind, tables, self._settings.session_gap_ms)
        for name, held in hashes.items():
            fields = set(differing_fields(expected.get(name, {}), held))
            first, *_ = parts_of(kind)
            for part in parts_of(kind):
                self._audit(part).keys += part.version_field in held
                strange = fields.difference(*(each.fields for each in parts_of(kind))) if part is first else set()
                self._note(part, name, held, expected.get(name, {}), sorted(fields & {*part.fields} | strange))

    async def _value(self, part: Part, name: str, held: Hash) -> bytes | None:
        """What the changelog had when a part was written, at its newest before the audit at least."""
        read, text = self._tables[part.table], held.get(part.version_field)
        holder = read.holder_of(name.encode())
        if text is None or holder is None:
            return None
        number, partition = holder
        try:
            version = Version.read(text)
        except ValueError:
            version = Version(0, 0)
        position = read.ends[number]
        if version.turn == read.live.turn and version.offset >= position:
            position = version.offset + 1
            if partition.position < position:
                await read.view.catch_up()
        return partition.value_at(name.encode(), position)

    def _note(self, part: Part, name: str, held: Hash, expected: Hash, fields: Sequence[str]) -> None:
        if not fields:
            return
        found: Value = {field: held.get(field) for field in fields}
        right: Value = {field: expected.get(field) for field in fields}
        holder = self._tables[part.table].holder_of(name.encode())
        number = holder[0] if holder is not None else None
        key = key_of(self._settings.namespace, part.kind, name)
        self._audit(part).add(Difference(part.table, number, key, REDIS, found, right, tuple(fields)))
