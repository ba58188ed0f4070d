"""A rebuild folds the log again into a generation of its own, and tells whether it is what is live, key by key."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from support.cluster import read_table, write, write_keyed
from support.disturbed import shopping_records, under_load
from support.live import Live, MakeLive, decoded, prepared

from models.topic_reader import ignore_progress
from persona_stream.kafka.generations import read_history
from persona_stream.kafka.writer import Record
from persona_stream.rebuild.build import OnProgress, Outcome, Rebuild, Wanted
from persona_stream.stream.partition import SYSTEM_KEYS
from persona_stream.vocabulary.topics import TABLES
from persona_stream.worker.app import agent_specs
from tables import users as users_table


@contextmanager
def no_bar(what: str) -> Iterator[OnProgress]:
    yield ignore_progress


async def rebuilt(namespace: Live, **wanted: object) -> Outcome:
    history = await read_history(namespace.settings)
    return await Rebuild(namespace.settings, history, Wanted(**wanted), no_bar).run()


async def with_state(make_live: MakeLive, count: int, **changed: object) -> Live:
    """A namespace whose worker has folded so many events, of every kind of topic."""
    namespace = await prepared(make_live, **changed)
    await write_keyed(namespace.settings, namespace.topics.events, shopping_records(count, seed=5))
    for topic, name, fields in (
        (namespace.topics.items, "id", "attributes"),
        (namespace.topics.profiles, "user", "traits"),
    ):
        made = [{name: f"{name}{n}", "ts": 1_700_000_000_000 + n, fields: {"n": n}} for n in range(50)]
        records = [Record(one[name].encode(), msgspec.json.encode(one)) for one in made]
        await write_keyed(namespace.settings, topic, records)
    namespace.start_worker("only")
    await namespace.until_applied(*TABLES)
    return namespace


async def test_a_rebuild_has_the_digests_of_the_live_tables(make_live: MakeLive) -> None:
    namespace = await with_state(make_live, 3_000)
    outcome = await rebuilt(namespace)
    assert {found.table: (found.differences, found.failure) for found in outcome.comparisons} == {
        table: ([], "") for table in TABLES
    }
    assert all(found.keys for found in outcome.comparisons)
    digests = {found.table: (found.digest, found.live_digest) for found in outcome.comparisons}
    assert all(made == live for table, (made, live) in digests.items() if table != "items")
    for spec in agent_specs(namespace.settings):
        held = await read_table(namespace.settings.kafka, namespace.topics.changelog(spec.table, outcome.built.number))
        table = {p: {k: v for k, v in part.items() if k not in SYSTEM_KEYS} for p, part in held.items()}
        assert decoded(spec.codec, table) == decoded(spec.codec, await namespace.table(spec.table))


async def test_a_rebuild_under_load_is_equal_at_its_point(make_live: MakeLive) -> None:
    namespace = await with_state(make_live, 3_000)
    async with under_load(namespace, shopping_records(30_000, seed=6)):
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
