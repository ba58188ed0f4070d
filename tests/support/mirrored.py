"""Whether Redis holds what the tables hold."""

from functools import partial

import redis.asyncio as aioredis

from persona_stream.mirror.layout import differing_fields, expected_hashes, parts_of
from support.cluster import until
from support.live import Live
from support.redis_server import hashes

WITHIN_S = 60


async def differences(namespace: Live, client: "aioredis.Redis") -> list[str]:
    """What is not in Redis as the tables have it, and what is there and in no table."""
    found: list[str] = []
    for kind in ("user", "item"):
        tables: dict[str, dict[str, bytes]] = {}
        for part in parts_of(kind):
            held = await namespace.table(part.table)
            tables[part.table] = {key.decode(): raw for values in held.values() for key, raw in values.items()}
        expected = expected_hashes(kind, tables, namespace.settings.session_gap_ms)
        held_now = await hashes(client, namespace.settings.namespace, kind)
        for name in sorted(expected.keys() | held_now.keys()):
            fields = differing_fields(expected.get(name, {}), held_now.get(name, {}))
            if fields:
                found.append(f"{kind} {name}: {', '.join(fields)}")
    return found


async def until_mirrored(namespace: Live, client: "aioredis.Redis", *, within_s: float = WITHIN_S) -> None:
    """Wait until Redis holds what the tables hold; nothing may change them meanwhile."""

    async def equal() -> bool:
        return not await differences(namespace, client)

    await until(equal, within_s=within_s, what="Redis equal to the tables", check=partial(_none_ended, namespace))
    assert await hashes(client, namespace.settings.namespace, "user"), "nothing is mirrored"


def _none_ended(namespace: Live) -> None:
    for worker in namespace.workers:
        assert worker.exit_code() is None, worker.log_tail()
