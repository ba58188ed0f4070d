"""What is written to Redis, and what is not: versions, deletions, time to live."""

import asyncio
import itertools
from typing import Any

import pytest
import redis.asyncio as aioredis
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.logs import HOUR_MS, log_of, shopping, slices
from support.oracle import agent_specs
from support.redis_server import RedisServer
from support.runs import run

from persona_stream.mirror.hashes import Changes, HashWriter
from persona_stream.mirror.layout import PARTS, Version, differing_fields, expected_hashes
from persona_stream.mirror.link import RedisLink
from persona_stream.vocabulary.config import Settings
from tables import catalogue, profiles
from tables.catalogue import CatalogueEntry
from tables.counters import LAST_TS, stack_longs
from tables.features.blocks import RowsBuilder
from tables.features.lookups import nothing_known
from tables.features.plan import plan_of
from tables.profiles import ProfileEntry
from tables.users import UserState
from tables.users import codec as users_codec

GAP_MS = HOUR_MS // 2
PLAN = plan_of(Settings())


def shoppers(count: int = 300) -> dict[str, UserState]:
    spec = agent_specs(Settings())[0]
    state = run(spec.fold, spec.codec, slices(log_of(shopping(count)))).state
    return {user: state.get(user) for user in state}


def encoded(states: dict[str, UserState]) -> dict[str, bytes]:
    return {user: users_codec.encode(state) for user, state in states.items()}


def at(offset: int, values: dict[str, bytes]) -> Changes:
    return {name.encode(): (raw, offset) for name, raw in values.items()}


def profile(name: str) -> bytes:
    return profiles.codec.encode(ProfileEntry(traits={"name": name}))


async def test_features_are_those_that_serving_answers_with(writer: HashWriter, client: "aioredis.Redis") -> None:
    states = shoppers()
    await writer.write("users", 0, at(5, encoded(states)))
    for user, state in states.items():
        held = await client.hgetall(writer.key("user", user))
        as_of_ms = int(stack_longs([state.longs])[0, LAST_TS])
        asked = RowsBuilder(nothing_known(PLAN.needs).attributes, GAP_MS)
        asked.add(user, state, [], as_of_ms)
        served = dict(zip(PLAN.user_names, PLAN.of_users(asked.rows())[0].tolist(), strict=True))
        assert held["last_event_ms"] == str(as_of_ms)
        shown = {name: float(held[name]) for name in PLAN.user_counter_names}
        assert shown == pytest.approx({name: served[name] for name in shown})
        assert int(held["total_click"]) <= sum(int(held[f"total_{kind}"]) for kind in ("view", "click", "purchase"))


async def test_what_is_written_is_what_an_audit_expects(writer: HashWriter, client: "aioredis.Redis") -> None:
    users = encoded(shoppers())
    traits = {"u1": profile("Ann"), "only-known-elsewhere": profile("Bo")}
    await writer.write("users", 0, at(5, users))
    await writer.write("profiles", 0, at(9, traits))
    for user, expected in expected_hashes("user", {"users": users, "profiles": traits}, GAP_MS).items():
        held = await client.hgetall(writer.key("user", user))
        assert differing_fields(expected, held) == []
        assert differing_fields(expected, {**held, "traits": '{"name":"Eve"}'}) == ["traits"]
        assert differing_fields({}, held)


async def test_an_item_tells_whether_it_may_be_shown(writer: HashWriter, client: "aioredis.Redis") -> None:
    entries = {
        "active": CatalogueEntry(attributes={"title": "Mug", "category": ["kitchen"]}, expires_ms=99),
        "hidden": CatalogueEntry(hidden=True),
        "deleted": CatalogueEntry(deleted=True, hidden=True),
    }
    values = {name: catalogue.codec.encode(entry) for name, entry in entries.items()}
    await writer.write("catalogue", 0, at(0, values))
    held = {name: await client.hgetall(writer.key("item", name)) for name in entries}
    assert held["active"] == {
        "attributes": '{"category":["kitchen"],"title":"Mug"}', "status": "active", "expires_ms": "99",
        "catalogue_version": "0:0",
    }  # fmt: skip
    assert [held[name]["status"] for name in entries] == list(entries)
    assert held["hidden"]["expires_ms"] == ""


versions = st.tuples(st.integers(0, 2), st.one_of(st.integers(0, 3), st.integers(2**62, 2**62 + 3)))
_numbers = itertools.count()


@given(st.lists(st.tuples(st.sampled_from(["users", "profiles"]), versions, st.booleans()), min_size=1), st.randoms())
@hypothesis_settings(max_examples=150, deadline=None)
def test_any_order_and_duplication_of_writes_ends_in_the_newest_of_each_table(
    redis: RedisServer, writes: list[tuple[str, tuple[int, int], bool]], random: Any
) -> None:
    """What a version says is fixed by it: a value that names it, or a deletion."""
    deleted = {(table, version): gone for table, version, gone in writes}
    shuffled = [(table, version) for table, version, _ in writes for _ in range(random.randint(1, 3))]
    random.shuffle(shuffled)

    async def held_after() -> dict[str, str]:
        settings = Settings(redis_url=redis.url, namespace=f"h{next(_numbers)}")
        link = RedisLink(settings)
        writer = HashWriter(settings, link)
        for table, (turn, offset) in shuffled:
            raw = None if deleted[table, (turn, offset)] else value_of(table, turn, offset)
            await writer.write(table, turn, {b"u1": (raw, offset)})
        await link.close()
        async with redis.client() as client:
            return await client.hgetall(writer.key("user", "u1"))

    expected: dict[str, str] = {}
    for table in {table for table, _ in shuffled}:
        turn, offset = max(version for name, version in shuffled if name == table)
        expected[f"{table}_version"] = f"{turn}:{offset}"
        if not deleted[table, (turn, offset)]:
            values = {table: {"u1": value_of(table, turn, offset)}}
            expected |= expected_hashes("user", values, GAP_MS)["u1"]
    assert asyncio.run(held_after()) == expected


def value_of(table: str, turn: int, offset: int) -> bytes:
    if table == "profiles":
        return profile(f"{turn} {offset}")
    return users_codec.encode(UserState(segment=f"{turn} {offset}"))


async def test_an_older_write_does_not_bring_deleted_fields_back(writer: HashWriter, client: "aioredis.Redis") -> None:
    key = writer.key("user", "u1")
    await writer.write("users", 0, {b"u1": (users_codec.encode(UserState()), 1)})
    await writer.write("profiles", 0, {b"u1": (None, 8)})
    await writer.write("profiles", 0, {b"u1": (profile("old"), 7)})
    held = await client.hgetall(key)
    assert "traits" not in held
    assert held["profiles_version"] == "0:8"
    assert held["users_version"] == "0:1"


async def test_time_to_live_is_set_and_refreshed_by_each_write(
    settings: Settings, link: RedisLink, client: "aioredis.Redis"
) -> None:
    def living(ttl_ms: int) -> HashWriter:
        changed = Settings(redis_url=settings.redis_url, namespace=settings.namespace, redis_ttl_ms=ttl_ms)
        return HashWriter(changed, link)

    key = living(1).key("user", "u1")
    await living(10_000).write("profiles", 0, {b"u1": (profile("a"), 1)})
    assert 9_000 < await client.pttl(key) <= 10_000
    await living(50_000).write("profiles", 0, {b"u1": (profile("a"), 0)})
    assert await client.pttl(key) <= 10_000, "a write that was refused refreshes nothing"
    await living(50_000).write("profiles", 0, {b"u1": (profile("a"), 2)})
    assert 49_000 < await client.pttl(key) <= 50_000
    await living(0).write("profiles", 0, {b"u1": (profile("a"), 3)})
    assert await client.pttl(key) == -1
    await living(50_000).write("profiles", 0, {b"u1": (None, 4)})
    assert 49_000 < await client.pttl(key) <= 50_000


async def test_the_same_version_is_written_again_and_mends_what_was_damaged(
    writer: HashWriter, client: "aioredis.Redis"
) -> None:
    key, changes = writer.key("user", "u1"), {b"u1": (profile("a"), 1)}
    for damage in (
        lambda: client.hset(key, "traits", "damaged"),
        lambda: client.hset(key, "profiles_version", "nonsense"),
        lambda: client.delete(key),
        lambda: client.set(key, "a string where a hash belongs"),
    ):
        await writer.write("profiles", 0, changes)
        await damage()
        await writer.write("profiles", 0, changes)
        assert await client.hgetall(key) == {"traits": '{"name":"a"}', "profiles_version": "0:1"}


async def test_scripts_that_redis_forgot_are_loaded_again(writer: HashWriter, client: "aioredis.Redis") -> None:
    for offset in range(2):
        await client.script_flush()
        await writer.write("profiles", 0, {b"u1": (profile(str(offset)), offset)})
    assert await client.hget(writer.key("user", "u1"), "traits") == '{"name":"1"}'


def test_no_two_parts_of_a_hash_share_a_field() -> None:
    for kind in ("user", "item"):
        names = [name for part in PARTS if part.kind == kind for name in (*part.fields, part.version_field)]
        assert len(names) == len(set(names))


def test_versions_are_ordered_by_turn_first() -> None:
    assert Version(1, 0) > Version(0, 2**62)
    assert Version(1, 10) > Version(1, 9)
