"""Workers killed, drained and joined in mid-stream: the tables are what an undisturbed run leaves, exactly."""

import asyncio
import random
import signal
import time
from collections.abc import Callable

import pytest
from support.cluster import bury, committed, members, read_all, until, write_keyed
from support.disturbed import (
    MAX_EVENTS,
    WITHIN_S,
    assert_state_is_exact,
    copy_events,
    items,
    learned,
    shopping_records,
    under_load,
    until_both_fold,
    until_folding,
)
from support.live import Live, prepared

pytestmark = pytest.mark.faults

KILLS_ANYWHERE = 5

MakeLive = Callable[[], Live]


async def test_ten_kills_in_mid_stream_leave_the_state_of_an_undisturbed_run(make_live: MakeLive) -> None:
    random_ = random.Random(7)
    disturbed, undisturbed = await prepared(make_live), await prepared(make_live)
    async with under_load(disturbed, shopping_records(MAX_EVENTS, seed=1)):
        for moment, topic in _points_of_death(disturbed):
            worker = disturbed.start_doomed_worker(signal.SIGKILL, moment, topic)
            assert await asyncio.to_thread(worker.wait, within_s=WITHIN_S) == -signal.SIGKILL, worker.log_tail()
            await disturbed.kill(worker)
        for _ in range(KILLS_ANYWHERE):
            worker = disturbed.start_worker()
            await until_folding(disturbed, worker)
            # Anywhere in what follows, be it a fetch, a fold or a write.
            await asyncio.sleep(0.5 * random_.random())
            await disturbed.kill(worker)
        disturbed.start_worker()
    await disturbed.until_applied()

    await copy_events(disturbed, undisturbed)
    undisturbed.start_worker()
    await undisturbed.until_applied()

    assert await disturbed.table("users") == await undisturbed.table("users")
    assert await items(disturbed) == await items(undisturbed)
    assert await learned(disturbed) == await learned(undisturbed)
    await assert_state_is_exact(disturbed)
    redelivered = len(await read_all(disturbed.settings.kafka, disturbed.topics.item_events)) - len(
        await read_all(undisturbed.settings.kafka, undisturbed.topics.item_events)
    )
    assert redelivered > 0, "no kill fell between emissions and changelog: the test did not test it"


def _points_of_death(namespace: Live) -> list[tuple[str, str]]:
    """Every gap between two writes of a slice: what was written is repeated, what was not is not lost."""
    topics = namespace.topics
    return [
        ("before", topics.item_events),
        ("before", topics.changelog("users")),
        ("after", topics.changelog("users")),
        ("before", topics.changelog("items")),
        ("before", topics.changelog("learner")),
    ]


async def test_sigterm_drains_and_commits_just_what_was_applied(make_live: MakeLive) -> None:
    namespace = await prepared(make_live)
    await write_keyed(namespace.settings, namespace.topics.events, shopping_records(20_000, seed=2))
    worker = namespace.start_worker()
    await until_folding(namespace, worker)
    started_s = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - started_s < 20
    assert await members(namespace.settings.kafka, namespace.group) == []
    for table, source in (
        ("users", namespace.topics.events),
        ("items", namespace.topics.item_events),
        ("learner", namespace.topics.examples),
    ):
        applied = {p: progress.offset + 1 for p, progress in (await namespace.progress(table)).items()}
        assert await committed(namespace.settings.kafka, namespace.group, source) == applied, table
    namespace.start_worker()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)


async def test_a_worker_joins_and_another_is_killed(make_live: MakeLive) -> None:
    namespace = await prepared(make_live)
    kafka, group = namespace.settings.kafka, namespace.group
    async with under_load(namespace, shopping_records(MAX_EVENTS, seed=3)):
        first = namespace.start_worker()
        await until_folding(namespace, first)
        (first_member,) = await members(kafka, group)
        second = namespace.start_worker()

        async def joined() -> bool:
            return len(await members(kafka, group)) == 2

        await until(joined, within_s=WITHIN_S, what="two workers in the group", check=second.check_alive)
        await until_both_fold(namespace, second)
        first.kill()
        await bury(kafka, group, [first_member])
        await until_both_fold(namespace, second)
        third = namespace.start_worker()
        await until(joined, within_s=WITHIN_S, what="two workers again", check=third.check_alive)
        await until_both_fold(namespace, third)
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
