"""Workers and generations: which changelogs they fold on, where they read on, and how they change over."""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition
from support.cluster import end_offsets, read_table, until, write_keyed
from support.disturbed import assert_state_is_exact, shopping_records, under_load, until_folding
from support.live import Live, MakeLive, prepared

from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.generations import Change, write_change
from persona_stream.kafka.writer import BatchWriter
from persona_stream.vocabulary.topics import TABLES, changelog_spec

WITHIN_S = 60


async def test_a_worker_reads_on_behind_its_changelog_whatever_is_committed(make_live: MakeLive) -> None:
    namespace = await prepared(make_live)
    await write_keyed(namespace.settings, namespace.topics.events, shopping_records(400, seed=1))
    ends = await end_offsets(namespace.settings.kafka, namespace.topics.events)
    await _commit(namespace, ends)
    namespace.start_worker()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)


async def test_a_worker_starts_anew_on_the_generation_made_live_and_folds_what_that_lacks(make_live: MakeLive) -> None:
    namespace = await prepared(make_live)
    async with under_load(namespace, shopping_records(30_000, seed=2)):
        worker = namespace.start_worker("only")
        await until_folding(namespace, worker)
        specs = [changelog_spec(namespace.settings, table, 2) for table in TABLES]
        await ensure_topics(namespace.settings, specs)
        await _switch(namespace, dict.fromkeys(TABLES, 2))

        async def folding_anew() -> bool:
            return bool(await read_table(namespace.settings.kafka, namespace.topics.changelog("users", 2)))

        await until(folding_anew, within_s=WITHIN_S, what="the new generation written", check=worker.check_alive)
        first = await end_offsets(namespace.settings.kafka, namespace.topics.changelog("users"))
    await namespace.until_applied()
    # Fields of the first generation are left alone, by the same process.
    assert await end_offsets(namespace.settings.kafka, namespace.topics.changelog("users")) == first
    assert worker.exit_code() is None
    await assert_state_is_exact(namespace)


async def test_a_sigterm_while_it_starts_anew_drains_it(make_live: MakeLive) -> None:
    namespace = await prepared(make_live)
    await write_keyed(namespace.settings, namespace.topics.events, shopping_records(500, seed=3))
    worker = namespace.start_worker("only")
    await namespace.until_applied()
    await ensure_topics(namespace.settings, [changelog_spec(namespace.settings, "users", 2)])
    await _switch(namespace, {"users": 2})

    async def has_noticed() -> bool:
        return "starting anew" in worker.log_tail()

    await until(has_noticed, within_s=WITHIN_S, what="the switch noticed", check=worker.check_alive)
    assert await asyncio.to_thread(worker.terminate) == 0, worker.log_tail()


async def _switch(namespace: Live, live: dict[str, int]) -> None:
    writer = BatchWriter(namespace.settings, client_id="test")
    await writer.start()
    try:
        await write_change(writer, namespace.settings, Change(1, "rebuild", live))
    finally:
        await writer.stop()


async def _commit(namespace: Live, ends: dict[int, int]) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=namespace.settings.kafka, group_id=namespace.group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        tps = {TopicPartition(namespace.topics.events, partition): end for partition, end in ends.items()}
        consumer.assign(list(tps))
        await consumer.commit(tps)
    finally:
        await consumer.stop()
