"""Rebuilds that are not what is live, on purpose or by accident: they are told apart, and never live by themselves."""

import asyncio
import signal
import time

import msgspec
import orjson
from support.cluster import admin_of, read_all, write, write_keyed
from support.disturbed import assert_state_is_exact
from support.live import Live, MakeLive, decoded, prepared
from support.logs import HOUR_MS, T0_MS, event
from support.oracle import expected_tables
from support.questions import get, until_ready
from support.rebuilds import rebuilt, run_rebuild, start_doomed_rebuild, with_state

from persona_stream.cli.probe import any_free_port
from persona_stream.kafka.generations import read_history
from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import PROGRESS_KEY, SYSTEM_KEYS
from persona_stream.vocabulary.events import parse_event
from tables import items as items_table
from tables import users as users_table

UNTIL_MS = T0_MS + 20 * HOUR_MS


async def test_a_changed_fold_is_named_and_not_switched_to_unless_accepted(make_live: MakeLive) -> None:
    namespace = await with_state(make_live, 1_000)
    code, said = await run_rebuild(namespace, session_gap_ms=60_000)
    assert code == 1, said
    assert "users, partition" in said
    assert "sessions" in said
    assert (await read_history(namespace.settings)).live()["users"] == 1
    code, said = await run_rebuild(namespace, "--accept", session_gap_ms=60_000)
    assert code == 0, said
    assert (await read_history(namespace.settings)).live()["users"] == 3


async def test_tables_that_another_version_wrote_are_folded_again_by_this_one(make_live: MakeLive) -> None:
    namespace = await with_state(make_live, 1_000)
    changelog = await namespace.changelog("items")
    newest = {(record.partition, record.key): record for record in await read_all(namespace.settings.kafka, changelog)}
    old: dict[int, list[Record]] = {}
    for (partition, key), record in newest.items():
        if key not in SYSTEM_KEYS:
            applied, longs, panes, *_ = msgspec.msgpack.decode(record.value)
            old.setdefault(partition, []).append(
                Record(key, msgspec.msgpack.encode([applied, longs, panes, [[T0_MS, 7, ["i2"]]], {}]))
            )
    for partition, records in old.items():
        # What stands behind the progress is taken for a slice that is being written.
        records.append(Record(PROGRESS_KEY, newest[partition, PROGRESS_KEY].value))
    await write(namespace.settings, changelog, old)
    items = sum(len(records) - 1 for records in old.values())

    code, said = await run_rebuild(namespace)
    assert code == 1, said
    assert f"{items:,} keys differ" in said
    assert "not written by this version" in said
    code, said = await run_rebuild(namespace, "--accept")
    assert code == 0, said
    await namespace.until_applied()
    await assert_state_is_exact(namespace)


async def test_until_gives_the_state_of_a_time_which_is_served_and_never_live(make_live: MakeLive) -> None:
    namespace = await with_state(make_live, 3_000)
    outcome = await rebuilt(namespace, until_ms=UNTIL_MS)
    events = await read_all(namespace.settings.kafka, namespace.topics.events)
    earlier = [record for record in events if int(parse_event(record.value).ts) < UNTIL_MS]
    assert len(earlier) < len(events) / 2
    users, items = expected_tables(namespace.settings, earlier)
    assert {table.spec.table: table.written for table in outcome.tables}["users"] == users
    written = {table.spec.table: table.written for table in outcome.tables}["items"]
    assert decoded(items_table.codec, written) == items

    code, said = await run_rebuild(namespace, "--until", time.strftime("%FT%TZ", time.gmtime(UNTIL_MS // 1000)))
    assert code == 0, said
    number = max((await read_history(namespace.settings)).built())
    code, said = await run_rebuild(namespace, "--switch", str(number))
    assert code == 1
    assert "can't be live" in said
    port = any_free_port()
    namespace.start_server(port, generation=number)
    await until_ready(namespace, port)
    _, fresh = await get(port, "/readyz?verbose")
    assert fresh["as_of_ms"] == UNTIL_MS
    assert fresh["tables"]["users"]["keys"] == sum(map(len, users.values()))
    assert fresh["tables"]["users"]["watermark_ms"] < UNTIL_MS
    assert (await get(port, "/v1/recommend/u1"))[0] == 200


async def test_late_events_are_folded_by_a_rebuild_with_more_lateness(make_live: MakeLive) -> None:
    namespace = await prepared(make_live)
    now = event("e1", "click", "u1", T0_MS + 48 * HOUR_MS, item="i1")
    late = event("e2", "click", "u1", T0_MS, item="i2")
    await write_keyed(
        namespace.settings, namespace.topics.events, [Record(b"u1", orjson.dumps(made)) for made in (now, late)]
    )
    namespace.start_worker("only")
    await namespace.until_applied()
    code, said = await run_rebuild(
        namespace, "--lateness-ms", str(72 * HOUR_MS), "--table", "users", "--table", "items"
    )
    assert code == 1, said
    code, said = await run_rebuild(namespace, "--lateness-ms", str(72 * HOUR_MS), "--accept")
    assert code == 0, said
    await namespace.until_applied()
    (state,) = decoded(users_table.codec, await namespace.table("users")).values()
    assert {visit[1] for visit in state.visits} == {"i1", "i2"}
    assert decoded(items_table.codec, await namespace.table("items")).keys() == {"i1", "i2"}


async def test_a_rebuild_killed_in_the_middle_changes_nothing_and_the_next_one_cleans_up(make_live: MakeLive) -> None:
    namespace = await with_state(make_live, 1_000)
    doomed = start_doomed_rebuild(namespace)
    assert await asyncio.to_thread(doomed.wait, within_s=60) == -signal.SIGKILL, doomed.log_tail()
    assert (await read_history(namespace.settings)).changes == ()
    code, said = await run_rebuild(namespace)
    assert code == 0, said
    assert (await read_history(namespace.settings)).live()["users"] == 3
    assert await _generations(namespace) == {1, 3}
    await namespace.until_applied()
    await assert_state_is_exact(namespace)

    code, said = await run_rebuild(namespace, "--drop", "3")
    assert code == 1
    assert "is live" in said
    assert (await run_rebuild(namespace, "--rollback"))[0] == 0
    assert (await run_rebuild(namespace, "--drop", "3"))[0] == 0
    assert await _generations(namespace) == {1}
    code, said = await run_rebuild(namespace, "--list")
    assert code == 0
    assert [line.split("\t")[0] for line in said.splitlines()[-1:]] == ["1"]


async def _generations(namespace: Live) -> set[int]:
    async with admin_of(namespace.settings.kafka) as admin:
        topics = await admin.list_topics()
    users = namespace.topics.changelog("users")
    return {int(topic.rpartition("-g")[2]) if topic != users else 1 for topic in topics if topic.startswith(users)}
