"""`audit` of Redis: fields that somebody else wrote are named, and a mirror that goes on is no difference."""

import asyncio
import re
import subprocess
from collections.abc import Callable

from support.cluster import write_keyed
from support.disturbed import item_records, profile_records, shopping_records, under_load
from support.live import MakeLive, prepared
from support.mirrored import until_mirrored
from support.processes import StartMirror
from support.redis_server import RedisServer

from persona_stream.mirror.layout import key_of

Run = Callable[..., "subprocess.CompletedProcess[str]"]
TABLES = ("users", "profiles", "items", "catalogue")


def _rows(done: "subprocess.CompletedProcess[str]") -> dict[str, list[str]]:
    """Of each table in Redis: keys, differ, in motion, forgotten, seconds, verdict."""
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return {cells[0]: cells[2:] for cells in lines if len(cells) > 1 and cells[1] == "redis"}


async def test_fields_that_somebody_else_wrote_are_named(
    make_live: MakeLive, run: Run, redis: RedisServer, run_mirror: StartMirror
) -> None:
    namespace = await prepared(make_live, redis_url=redis.url)
    settings, topics = namespace.settings, namespace.topics

    async def audit(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(run, "audit", *arguments, settings=settings, PERSONA_REDIS_URL=redis.url)

    namespace.start_worker()
    await write_keyed(settings, topics.events, shopping_records(200, seed=1))
    await write_keyed(settings, topics.items, item_records(20))
    await write_keyed(settings, topics.profiles, profile_records(20))
    await namespace.until_applied("users", "items", "learner", "catalogue", "profiles")
    run_mirror(settings)
    async with redis.client() as client, under_load(namespace, shopping_records(60_000, seed=3)):
        await namespace.until_goes_on()
        for _ in range(2):
            clean = await audit("--table", "users", "--table", "items")
            assert clean.returncode == 0, clean.stdout + clean.stderr
            assert {table: cells[1] for table, cells in _rows(clean).items()} == {"users": "0", "items": "0"}
            assert all(int(cells[0]) > 0 for cells in _rows(clean).values())
    await namespace.until_applied("users", "items")
    async with redis.client() as client:
        await until_mirrored(namespace, client)
        clean = await audit()
        assert clean.returncode == 0, clean.stdout + clean.stderr
        assert {table: cells[1] for table, cells in _rows(clean).items()} == dict.fromkeys(TABLES, "0")

        def key(kind: str, name: str) -> str:
            return key_of(settings.namespace, kind, name)  # type: ignore[arg-type]  # as told

        await client.hset(key("user", "u1"), "total_click", "77777")
        await client.hdel(key("user", "u2"), "traits")
        await client.hset(key("item", "i3"), "status", "hidden")
        await client.hset(key("user", "nobody"), "sessions", "1")
        await client.delete(key("item", "i4"))
        planted = await audit()
        assert planted.returncode == 1
        assert [_rows(planted)[table][1] for table in TABLES] == ["2", "1", "0", "1"]
        # A hash that is gone may have expired.
        assert [_rows(planted)[table][3] for table in TABLES] == ["0", "0", "1", "1"]
        named = re.findall(r"^redis: (\w+).*, key '\S+?:(user|item):(\w+)': (\w+)$", planted.stdout, re.MULTILINE)
        assert sorted(named) == [
            ("catalogue", "item", "i3", "status"),
            ("profiles", "user", "u2", "traits"),
            ("users", "user", "nobody", "sessions"),
            ("users", "user", "u1", "total_click"),
        ]
        assert "  held  '77777'\n  in the changelog  '" in planted.stdout
        left_out = await audit("--no-redis")
        assert (left_out.returncode, _rows(left_out)) == (0, {})


async def test_a_redis_that_no_mirror_writes_to_is_told(make_live: MakeLive, run: Run, redis: RedisServer) -> None:
    namespace = await prepared(make_live)
    namespace.start_worker()
    await write_keyed(namespace.settings, namespace.topics.events, shopping_records(10, seed=1))
    await namespace.until_applied("users")
    done = await asyncio.to_thread(run, "audit", "--redis", settings=namespace.settings)
    assert (done.returncode, "no Redis is known" in done.stderr) == (1, True)
    gone = await asyncio.to_thread(run, "audit", settings=namespace.settings, PERSONA_REDIS_URL="redis://127.0.0.1:9/0")
    assert gone.returncode == 1
    assert all(cells[5].startswith("can't be audited: ") for cells in _rows(gone).values())
