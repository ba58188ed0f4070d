"""A rebuild folds the log again into a generation of its own, and tells whether it is what is live, key by key."""

import pytest
from support.cluster import read_table, write
from support.disturbed import under_load
from support.live import MakeLive, decoded
from support.rebuilds import rebuilt, records_after, with_state

from persona_stream.kafka.writer import Record
from persona_stream.rebuild import events
from persona_stream.stream.partition import SYSTEM_KEYS
from persona_stream.vocabulary.topics import TABLES
from persona_stream.worker.app import agent_specs
from tables import users as users_table


@pytest.mark.parametrize("apart_from", [0, 1_000_000], ids=["items in a process of their own", "in one process"])
async def test_a_rebuild_has_the_digests_of_the_live_tables(
    make_live: MakeLive, monkeypatch: pytest.MonkeyPatch, apart_from: int
) -> None:
    monkeypatch.setattr(events, "APART_FROM", apart_from)
    namespace = await with_state(make_live, 3_000)
    outcome = await rebuilt(namespace)
    assert {found.table: (found.differences, found.failure) for found in outcome.comparisons} == {
        table: ([], "") for table in TABLES
    }
    assert all(found.keys for found in outcome.comparisons)
    digests = {found.table: (found.digest, found.live_digest) for found in outcome.comparisons}
    assert all(made == live for made, live in digests.values()), digests
    for spec in agent_specs(namespace.settings):
        held = await read_table(namespace.settings.kafka, namespace.topics.changelog(spec.table, outcome.built.number))
        table = {p: {k: v for k, v in part.items() if k not in SYSTEM_KEYS} for p, part in held.items()}
        assert decoded(spec.codec, table) == decoded(spec.codec, await namespace.table(spec.table))


async def test_each_table_can_be_rebuilt_alone(make_live: MakeLive) -> None:
    namespace = await with_state(make_live, 1_000)
    for table in TABLES:
        outcome = await rebuilt(namespace, tables=(table,))
        (found,) = outcome.comparisons
        assert (found.table, found.differences, found.failure) == (table, [], "")
        assert found.keys > 0
        assert (found.digest, outcome.built.tables) == (found.live_digest, [table])


async def test_a_rebuild_under_load_is_equal_at_its_point(make_live: MakeLive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "APART_FROM", 0)
    namespace = await with_state(make_live, 3_000)
    async with under_load(namespace, records_after(3_000, 30_000)):
        outcome = await rebuilt(namespace)
    assert outcome.may_be_switched, [found for found in outcome.comparisons if found.differing or found.failure]
    assert not any(found.in_motion for found in outcome.comparisons)


async def test_a_key_that_was_corrupted_is_named_with_both_values(make_live: MakeLive) -> None:
    namespace = await with_state(make_live, 500)
    (worker,) = namespace.workers
    assert worker.terminate() == 0
    held = await namespace.table("users")
    partition, key = next((p, key) for p, part in held.items() for key in part)
    state = users_table.codec.decode(held[partition][key])
    state.segment = "planted"
    topic = namespace.topics.changelog("users")
    progress = (await read_table(namespace.settings.kafka, topic))[partition][b"\0progress"]
    planted = [Record(key, users_table.codec.encode(state)), Record(b"\0progress", progress)]
    await write(namespace.settings, topic, {partition: planted})
    outcome = await rebuilt(namespace, tables=("users",))
    (found,) = outcome.comparisons
    assert not outcome.may_be_switched
    assert [(one.partition, one.key.encode()) for one in found.differences] == [(partition, key)]
    (fields,) = [list(one.fields()) for one in found.differences]
    assert [(name, live) for name, live, _ in fields] == [("segment", "planted")]
