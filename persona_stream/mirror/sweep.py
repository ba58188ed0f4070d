"""After everything was read once: what stands in Redis and in no table goes."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from xxhash import xxh3_64_intdigest

from persona_stream.kafka.writer import Partitioner
from persona_stream.mirror import mirror_metrics
from persona_stream.mirror.hashes import Changes, HashWriter
from persona_stream.mirror.layout import PARTS, Kind, Part, Version, parts_of
from persona_stream.mirror.link import Command, RedisLink
from persona_stream.mirror.scripts import DROPS, Call

SCAN_KEYS = 1000
KINDS: tuple[Kind, ...] = ("user", "item")


class Alive:
    """The keys that tables have, as 64-bit hashes: of two keys in 10 million that share one, an orphan would stay."""

    def __init__(self) -> None:
        self._of_table: dict[str, set[int]] = {part.table: set() for part in PARTS}

    def note(self, table: str, changes: Changes) -> None:
        """Note what a changelog says next."""
        held = self._of_table[table]
        for key, (raw, _) in changes.items():
            (held.discard if raw is None else held.add)(xxh3_64_intdigest(key))

    def __len__(self) -> int:
        """Keys of all tables; a user with a profile counts twice."""
        return sum(map(len, self._of_table.values()))

    def has(self, table: str, name: str) -> bool:
        """Whether a table has a key."""
        return xxh3_64_intdigest(name.encode()) in self._of_table[table]


class Sweep:
    """Removes what no table has, unless it is newer than what was read."""

    def __init__(
        self, hashes: HashWriter, link: RedisLink, partitioner: Partitioner, on_progress: Callable[[], None]
    ) -> None:
        """`on_progress` is called again and again: a sweep of many keys takes long."""
        self._on_progress = on_progress
        self._hashes = hashes
        self._link = link
        self._partition_of = partitioner

    async def orphans(self, alive: Alive, read: Mapping[tuple[str, int], Version]) -> int:
        """Remove what is not alive; `read`: by table and partition, the version up to which all was read.

        Returns how many keys went. Fields of one table alone go as well, where the other has the key.
        """
        removed = 0
        for kind in KINDS:
            async for names in self._scan(kind):
                removed += await self._check(kind, names, alive, read)
        mirror_metrics.REMOVED.inc(removed)
        return removed

    async def everything(self) -> None:
        """Remove all hashes of users and items."""
        for kind in KINDS:
            async for names in self._scan(kind):
                await self._link.ask([("UNLINK", self._hashes.key(kind, name)) for name in names])

    async def _check(
        self, kind: Kind, names: Sequence[str], alive: Alive, read: Mapping[tuple[str, int], Version]
    ) -> int:
        parts = parts_of(kind)
        drops: list[Call] = []
        doubtful: list[tuple[str, Part]] = []
        for name in names:
            missing = [part for part in parts if not alive.has(part.table, name)]
            if len(missing) == len(parts):
                versions = [str(self._read_of(part, name, read)) for part in parts]
                drops.append(DROPS[kind].call(self._hashes.key(kind, name), *versions))
            else:
                doubtful += [(name, part) for part in missing]
        await self._remove_fields(doubtful, read)
        return sum(await self._link.run(drops))

    async def _remove_fields(
        self, doubtful: Sequence[tuple[str, Part]], read: Mapping[tuple[str, int], Version]
    ) -> None:
        ask: list[Command] = [("HEXISTS", self._hashes.key(part.kind, name), part.fields[0]) for name, part in doubtful]
        held = await self._link.ask(ask) if ask else []
        await self._link.run(
            [
                self._hashes.removal(part.table, name, self._read_of(part, name, read))
                for (name, part), exists in zip(doubtful, held, strict=True)
                if exists
            ]
        )

    def _read_of(self, part: Part, name: str, read: Mapping[tuple[str, int], Version]) -> Version:
        return read[part.table, self._partition_of(name.encode())]

    async def _scan(self, kind: Kind) -> AsyncIterator[list[str]]:
        prefix = self._hashes.key(kind, "")
        cursor: str | int = 0
        while True:
            ((cursor, keys),) = await self._link.ask([("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", SCAN_KEYS)])
            self._on_progress()
            if keys:
                yield [key.removeprefix(prefix) for key in keys]
            if int(cursor) == 0:
                return
