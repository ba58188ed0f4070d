"""`audit` on real tables: a clean system has nothing to show, and each planted corruption is named."""

import asyncio
import subprocess
from collections.abc import Callable

import orjson
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from support.cluster import admin_of, end_offsets, write, write_keyed
from support.disturbed import item_records, profile_records, shopping_records, under_load
from support.live import Live, MakeLive, prepared

from persona_stream.audit.findings import Audit
from persona_stream.cli.audit_command import not_held
from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.config import Settings
from tables import items, users

Call = Callable[..., "subprocess.CompletedProcess[str]"]
EVENTS = 2_000


async def _folded(make_live: MakeLive) -> Live:
    """A namespace in which all five tables hold something, and its worker has ended."""
    namespace = await prepared(make_live)
    worker = namespace.start_worker()
    topics = namespace.topics
    await write_keyed(namespace.settings, topics.events, shopping_records(EVENTS, seed=1))
    await write_keyed(namespace.settings, topics.items, item_records(20))
    await write_keyed(namespace.settings, topics.profiles, profile_records(20))
    await namespace.until_applied("users", "items", "learner", "catalogue", "profiles")
    assert worker.terminate() == 0
    return namespace


def _rows(done: "subprocess.CompletedProcess[str]") -> dict[str, list[str]]:
    """What the table printed says of each changelog: keys, differ, in motion, forgotten, seconds, verdict."""
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    return {name: cells for name, where, *cells in lines[1:] if where == "changelog"}


def test_a_clean_system_has_no_differences_and_planted_ones_are_named(make_live: MakeLive, call: Call) -> None:
    namespace = asyncio.run(_folded(make_live))
    clean = call("audit", settings=namespace.settings)
    assert clean.returncode == 0
    rows = _rows(clean)
    assert set(rows) == {"users", "items", "impressions", "learner", "catalogue", "profiles"}
    for cells in rows.values():
        assert int(cells[0]) > 0
        assert (cells[1], cells[2], cells[3], cells[5]) == ("0", "0", "0", "equal")

    asyncio.run(_plant(namespace))
    planted = call("audit", settings=namespace.settings)
    assert planted.returncode == 1
    assert {table: cells[1] for table, cells in _rows(planted).items()} == {
        "users": "3",
        "items": "1",
        "impressions": "0",
        "learner": "0",
        "catalogue": "0",
        "profiles": "0",
    }
    assert "key 'u1': sessions_before" in planted.stdout
    assert "held  77777" in planted.stdout
    assert "key 'u2': missing" in planted.stdout
    assert "key 'nobody': no record of its source makes it" in planted.stdout
    assert "key 'i3': longs" in planted.stdout

    told = call("audit", "--json", "--table", "users", settings=namespace.settings)
    (users_audit,) = orjson.loads(told.stdout)["audits"]
    assert (told.returncode, users_audit["differing"], users_audit["holder"]) == (1, 3, "changelog")
    assert {found["key"] for found in users_audit["differences"]} == {"u1", "u2", "nobody"}

    one = call("audit", "--table", "profiles", settings=namespace.settings)
    assert (one.returncode, list(_rows(one))) == (0, ["profiles"])
    unknown = call("audit", "--table", "user", settings=namespace.settings)
    assert unknown.returncode == 1
    assert "there is no table user. The tables: users, items" in unknown.stderr


async def _plant(namespace: Live) -> None:
    topics = namespace.topics
    held = {
        (table, key): (partition, value)
        for table in ("users", "items")
        for partition, part in (await namespace.table(table)).items()
        for key, value in part.items()
    }
    partition, raw = held["users", b"u1"]
    user = users.codec.decode(raw)
    user.sessions_before = 77777
    wrong = [Record(b"u1", users.codec.encode(user)), Record(b"nobody", users.codec.encode(users.UserState()))]
    await write(namespace.settings, topics.changelog("users"), {partition: wrong})
    partition, _ = held["users", b"u2"]
    await write(namespace.settings, topics.changelog("users"), {partition: [Record(b"u2", None)]})
    partition, raw = held["items", b"i3"]
    item = items.codec.decode(raw)
    item.longs[-1] ^= 1
    changed = Record(b"i3", items.codec.encode(item))
    await write(namespace.settings, topics.changelog("items"), {partition: [changed]})


def test_keys_of_a_slice_that_is_not_whole_are_left_out(make_live: MakeLive, call: Call) -> None:
    namespace = asyncio.run(_folded(make_live))
    topic = namespace.topics.events

    async def as_if_killed_in_a_slice() -> None:
        partition, raw = next((p, part[b"u1"]) for p, part in (await namespace.table("users")).items() if b"u1" in part)
        user = users.codec.decode(raw)
        user.applied += 1
        ahead = Record(b"u1", users.codec.encode(user))
        await write(namespace.settings, namespace.topics.changelog("users"), {partition: [ahead]})
        await write(namespace.settings, topic, {partition: shopping_records(1, seed=2)})

    asyncio.run(as_if_killed_in_a_slice())
    done = call("audit", "--table", "users", settings=namespace.settings)
    assert done.returncode == 0
    assert _rows(done)["users"][2] == "1"


def test_workers_may_go_on_meanwhile(make_live: MakeLive, run: Call) -> None:
    async def audited_under_load() -> "list[subprocess.CompletedProcess[str]]":
        namespace = await prepared(make_live)
        async with under_load(namespace, shopping_records(60_000, seed=3)):
            namespace.start_worker()
            await namespace.until_goes_on()
            done = [await asyncio.to_thread(run, "audit", settings=namespace.settings)]
            await _forget_records(namespace, namespace.topics.item_events)
            done.append(await asyncio.to_thread(run, "audit", "--table", "items", settings=namespace.settings))
            await namespace.until_goes_on()
        return done

    whole, derived = asyncio.run(audited_under_load())
    assert whole.returncode == derived.returncode == 0, whole.stdout + derived.stdout
    assert int(_rows(whole)["users"][0]) > 0
    assert int(_rows(derived)["items"][0]) > 0


def test_what_retention_has_taken_of_item_events_is_derived_from_events(make_live: MakeLive, call: Call) -> None:
    namespace = asyncio.run(_folded(make_live))
    asyncio.run(_forget_records(namespace, namespace.topics.item_events))
    done = call("audit", settings=namespace.settings)
    assert done.returncode == 0, done.stdout
    assert _rows(done)["items"][1:4] == ["0", "0", "0"]
    asyncio.run(_plant(namespace))
    assert "key 'i3': longs" in call("audit", "--table", "items", settings=namespace.settings).stdout

    asyncio.run(_forget_records(namespace, namespace.topics.events))
    gone = call("audit", settings=namespace.settings)
    assert gone.returncode == 1
    assert "can't be audited" in _rows(gone)["users"][5]
    assert "can't be audited" in _rows(gone)["items"][5]
    assert _rows(gone)["learner"][5] == "equal"


async def _forget_records(namespace: Live, topic: str) -> None:
    """Retention, brought forward: all of one partition, some of the other."""
    ends = await end_offsets(namespace.settings.kafka, topic)
    async with admin_of(namespace.settings.kafka) as admin:
        for partition, before in ((0, ends[0]), (1, ends[1] // 2)):
            await admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(before_offset=before)})


def test_partitions_that_no_worker_was_asked_for_are_named() -> None:
    asked = [Audit("users", "worker", 0), Audit("users", "worker", 2), Audit("items", "server", None)]
    assert not_held(Settings(partitions=3), asked) == ["users/1"]
