"""A real mirror process beside a real worker: Redis holds what the tables hold, whatever was done to either."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
import redis.asyncio as aioredis
from support.cluster import until, write_keyed
from support.disturbed import publish_in_chunks, shopping_records
from support.live import Live, MakeLive, prepared
from support.mirrored import differences, until_mirrored
from support.processes import StartMirror
from support.redis_server import RedisServer, hashes

from persona_stream.cli.probe import any_free_port
from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.generations import Change, write_change
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.mirror.layout import Version, key_of
from persona_stream.mirror.run import rebuild
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import changelog_spec

KILLS = 8
WITHIN_S = 60


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may flush and kill."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def client(own_redis: RedisServer) -> AsyncIterator["aioredis.Redis"]:
    async with own_redis.client() as made:
        yield made


@pytest.fixture
async def shop(make_live: MakeLive, own_redis: RedisServer) -> Live:
    """A worker that has folded events, a catalogue and profiles."""
    made = await prepared(make_live, redis_url=own_redis.url, mirror_port=any_free_port())
    made.start_worker()
    await write_keyed(made.settings, made.topics.events, shopping_records(2000, seed=3))
    await write_keyed(made.settings, made.topics.items, [item(f"i{n}") for n in range(20)])
    await write_keyed(made.settings, made.topics.profiles, [profile(f"u{n}", "first") for n in range(20)])
    await made.until_applied("users", "items", "catalogue", "profiles")
    return made


def item(name: str) -> Record:
    made = {"id": name, "ts": 1_700_000_000_000, "attributes": {"title": f"The {name}", "price": 9.5}}
    return Record(name.encode(), msgspec.json.encode(made))


def profile(user: str, name: str) -> Record:
    made = {"user": user, "ts": 1_700_000_000_000, "traits": {"name": name}}
    return Record(user.encode(), msgspec.json.encode(made))


async def ask(settings: Settings, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://127.0.0.1:{settings.mirror_port}{path}") as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientConnectionError:
            return 0, ""


async def until_ready(settings: Settings) -> None:
    async def ready() -> bool:
        return (await ask(settings, "/readyz"))[0] == 200

    await until(ready, within_s=WITHIN_S, what="the mirror is ready")


async def counted(settings: Settings, metric: str) -> float:
    _, text = await ask(settings, "/metrics")
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(metric))


async def test_redis_follows_the_tables(shop: Live, client: "aioredis.Redis", run_mirror: StartMirror) -> None:
    mirror = run_mirror(shop.settings)
    await until_mirrored(shop, client)
    await until_ready(shop.settings)
    await write_keyed(shop.settings, shop.topics.events, shopping_records(3000, seed=4))
    await write_keyed(shop.settings, shop.topics.profiles, [profile("u1", "second"), Record(b"u2", None)])
    await shop.until_applied("users", "items", "profiles")
    await until_mirrored(shop, client)
    held = await hashes(client, shop.settings.namespace, "user")
    assert (held["u1"]["traits"], held["u2"]["traits"]) == ('{"name":"second"}', "{}")
    assert (await ask(shop.settings, "/livez"))[0] == 200

    async def none_left() -> bool:
        return await counted(shop.settings, "persona_mirror_lag_records{") == 0

    await until(none_left, within_s=WITHIN_S, what="lag 0 in the metrics")
    assert mirror.terminate() == 0


async def test_a_mirror_started_again_goes_on_from_its_marks(
    shop: Live, client: "aioredis.Redis", run_mirror: StartMirror
) -> None:
    first = run_mirror(shop.settings)
    await until_mirrored(shop, client)
    await until_ready(shop.settings)
    assert first.terminate() == 0
    assert await client.delete(key_of(shop.settings.namespace, "user", "u1")) == 1
    await write_keyed(shop.settings, shop.topics.profiles, [profile("u2", "new")])
    await shop.until_applied("profiles")
    run_mirror(shop.settings)
    await until_ready(shop.settings)
    assert await counted(shop.settings, "persona_mirror_whole_passes_total") == 0
    assert await counted(shop.settings, "persona_mirror_keys_written_total{") < 10
    # What was lost one by one, without Redis losing all, comes back with its next event or with a rebuild.
    assert [line.split(":")[0] for line in await differences(shop, client)] == ["user u1"]


async def flush(server: RedisServer) -> None:
    async with server.client() as client:
        await client.flushall()


async def start_again_empty(server: RedisServer) -> None:
    server.kill()
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize("lose", [flush, start_again_empty])
async def test_a_redis_that_lost_its_data_is_written_again(
    shop: Live,
    own_redis: RedisServer,
    client: "aioredis.Redis",
    run_mirror: StartMirror,
    lose: Callable[[RedisServer], Awaitable[None]],
) -> None:
    run_mirror(shop.settings)
    await until_mirrored(shop, client)
    await lose(own_redis)
    async with own_redis.client() as afterwards:
        await until_mirrored(shop, afterwards)


async def test_a_rebuild_removes_what_no_table_has_and_mends_the_rest_beside_running_mirrors(
    shop: Live, client: "aioredis.Redis", run_mirror: StartMirror
) -> None:
    name = shop.settings.namespace
    for _ in range(2):
        settings = msgspec.structs.replace(shop.settings, mirror_port=any_free_port())
        run_mirror(settings)
        # They have swept as well by then.
        await until_ready(settings)
    await client.hset(key_of(name, "user", "nobody"), mapping={"segment": "x", "users_version": "0:0"})
    await client.hset(key_of(name, "item", "nothing"), "status", "active")
    await client.set(key_of(name, "item", "odd"), "a string")
    await client.hset(key_of(name, "user", "u30"), "traits", '{"no": "profile"}')
    await client.hset(key_of(name, "user", "u1"), "total_click", "-5")
    await client.hset(key_of(name, "user", "ahead"), mapping={"segment": "x", "users_version": "0:999999"})
    await client.set(f"{name}x:user:other", "another namespace's")
    steps: list[tuple[int, int]] = []
    done = await rebuild(shop.settings, lambda read, total: steps.append((read, total)))
    assert done.removed == 3
    assert steps[-1][0] == steps[-1][1] > 0
    assert done.keys == sum([len(part) for t in ("users", "items", "catalogue", "profiles")
                             for part in (await shop.table(t)).values()])  # fmt: skip
    # Newer than anything read: a mirror that is further than this rebuild may have written it.
    assert [line.split(":")[0] for line in await differences(shop, client)] == ["user ahead"]
    assert await client.exists(f"{name}x:user:other") == 1


async def test_a_changelog_that_was_replaced_is_noticed(
    make_live: MakeLive, shop: Live, client: "aioredis.Redis", run_mirror: StartMirror
) -> None:
    first = run_mirror(shop.settings)
    await until_mirrored(shop, client)
    await until_ready(shop.settings)
    first.terminate()
    # Another log under the same keys, and a shorter one.
    marks = f"{shop.settings.namespace}:mirror:*"
    (key,) = [key async for key in client.scan_iter(marks)]
    await client.hset(key, "users/0", "0:900000")
    await client.hset(key_of(shop.settings.namespace, "user", "u1"), mapping={"users_version": "0:899999"})
    await client.hset(key_of(shop.settings.namespace, "user", "u1"), "segment", "of the other log")
    run_mirror(shop.settings)
    await until_mirrored(shop, client)


async def test_the_generation_that_is_live_is_mirrored_and_a_rollback_as_well(
    shop: Live, client: "aioredis.Redis", run_mirror: StartMirror
) -> None:
    run_mirror(shop.settings)
    await until_mirrored(shop, client)
    await ensure_topics(shop.settings, [changelog_spec(shop.settings, "users", 2)])
    for turn, (why, generation) in enumerate((("rebuild", 2), ("rollback", 1)), start=1):
        await switch(shop, Change(turn, why, {"users": generation}))
        # Only the generation that is left has this user.
        await client.hset(key_of(shop.settings.namespace, "user", "left"), "users_version", f"{turn - 1}:1")
        await shop.until_applied("users")

        async def follows(turn: int = turn) -> bool:
            held = await client.hget(key_of(shop.settings.namespace, "user", "u1"), "users_version")
            return held is not None and Version.read(held).turn == turn

        await until(follows, within_s=WITHIN_S, what=f"turn {turn} in Redis")
        await until_ready(shop.settings)
        await until_mirrored(shop, client)
        assert await client.exists(key_of(shop.settings.namespace, "user", "left")) == 0


async def switch(shop: Live, change: Change) -> None:
    writer = BatchWriter(shop.settings, client_id="test")
    await writer.start()
    await write_change(writer, shop.settings, change)
    await writer.stop()


async def test_mirrors_killed_at_any_moment_leave_redis_equal(
    shop: Live, client: "aioredis.Redis", run_mirror: StartMirror
) -> None:
    load = asyncio.create_task(publish_in_chunks(shop, shopping_records(8000, seed=5)))
    for cycle in range(KILLS):
        mirror = run_mirror(msgspec.structs.replace(shop.settings, mirror_port=0))
        before = (await client.info("stats"))["total_commands_processed"]

        async def writes(before: int = before, least: int = 20 * cycle) -> bool:
            return (await client.info("stats"))["total_commands_processed"] > before + least

        await until(writes, within_s=WITHIN_S, what="the mirror writes", check=mirror.check_alive)
        mirror.kill()
    await load
    await shop.until_applied("users", "items")
    run_mirror(shop.settings)
    await until_mirrored(shop, client)
