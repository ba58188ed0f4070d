"""Workers killed, drained and joined in mid-stream: the tables are what an undisturbed run leaves, exactly."""

import asyncio
import random
import signal
import time
from collections import Counter

import pytest
from support.cluster import bury, committed, members, read_all, until, write_keyed
from support.disturbed import (
    WITHIN_S,
    assert_state_is_exact,
    copy_events,
    items,
    learned,
    load_for,
    shopping_records,
    under_load,
    until_folding,
)
from support.ledger import Ledger
from support.live import Live, MakeLive, prepared

pytestmark = pytest.mark.faults


async def test_kills_in_mid_stream_leave_the_state_of_an_undisturbed_run(
    make_live: MakeLive, fault_cycles: int, ledger: Ledger
) -> None:
    random_ = random.Random(7)
    disturbed, undisturbed = await prepared(make_live), await prepared(make_live)
    async with under_load(disturbed, load_for(fault_cycles, seed=1)):
        points = _points_of_death(disturbed)
        for moment, topic in points:
            worker = disturbed.start_doomed_worker("SIGKILL", moment, topic)
            assert await asyncio.to_thread(worker.wait, within_s=WITHIN_S) == -signal.SIGKILL, worker.log_tail()
            await disturbed.kill(worker)
        for _ in range(fault_cycles - len(points)):
            # Named, the worker need not wait until its group has missed the one before.
            worker = disturbed.start_worker("only")
            await until_folding(disturbed, worker)
            # Anywhere in what follows, be it a fetch, a fold or a write.
            await asyncio.sleep(random_.random())
            worker.kill()
        disturbed.start_worker("only")
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
    ledger.add("the only worker killed (SIGKILL) between two writes of a slice", len(points))
    ledger.add("the only worker killed (SIGKILL) anywhere", fault_cycles - len(points))


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


async def test_sigterm_drains_and_commits_just_what_was_applied(make_live: MakeLive, ledger: Ledger) -> None:
    namespace = await prepared(make_live)
    await write_keyed(namespace.settings, namespace.topics.events, shopping_records(20_000, seed=2))
    worker = namespace.start_worker()

    # Of the first topic alone: the others' slices are being folded and written while it stops.
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
    ledger.add("the only worker drained (SIGTERM) and started again", 1)


async def test_a_worker_joins_and_another_is_killed(make_live: MakeLive, ledger: Ledger) -> None:
    namespace = await prepared(make_live)
    kafka, group = namespace.settings.kafka, namespace.group
    async with under_load(namespace, load_for(10, seed=3)):
        first = namespace.start_worker()
        await until_folding(namespace, first)
        (first_member,) = await members(kafka, group)
        second = namespace.start_worker()

        async def joined() -> bool:
            return len(await members(kafka, group)) == 2

        await until(joined, within_s=WITHIN_S, what="two workers in the group", check=second.check_alive)
        await namespace.until_goes_on()
        first.kill()
        await bury(kafka, group, [first_member])
        await namespace.until_goes_on()
        third = namespace.start_worker()
        await until(joined, within_s=WITHIN_S, what="two workers again", check=third.check_alive)
        await namespace.until_goes_on()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    ledger.add("a worker joined", 2)
    ledger.add("one of two workers killed (SIGKILL)", 1)


SLOTS = 4


async def test_two_to_four_workers_are_killed_paused_drained_and_joined(
    make_live: MakeLive, fault_cycles: int, ledger: Ledger
) -> None:
    random_ = random.Random(8)
    namespace = await prepared(make_live, partitions=4)
    done: Counter[str] = Counter()
    # A rebalance takes a few seconds, so half as many cycles take as long as those of one worker.
    cycles = fault_cycles // 2
    async with under_load(namespace, load_for(4 * cycles, seed=9)):
        crew = {slot: namespace.start_worker(f"slot-{slot}") for slot in range(2)}
        await namespace.until_goes_on()
        for _ in range(cycles):
            slot = random_.choice(list(crew))
            act = random_.choice(["kill", "pause", "join", "drain"])
            if act == "join" and len(crew) < SLOTS:
                free = min(set(range(SLOTS)) - crew.keys())
                crew[free] = namespace.start_worker(f"slot-{free}")
            elif act == "drain" and len(crew) > 2:
                # One that has only just been started has no handler yet, and nothing to drain.
                assert await asyncio.to_thread(crew.pop(slot).terminate) in {0, -signal.SIGTERM}
            elif act == "pause":
                # Shorter than the group waits: it goes on where it was. Longer ones have tests of their own.
                crew[slot].pause()
                await asyncio.sleep(3 * random_.random())
                crew[slot].resume()
            else:
                act = "kill"
                crew[slot].kill()
                crew[slot] = namespace.start_worker(f"slot-{slot}")
            done[act] += 1
            await namespace.until_goes_on()
            assert namespace.restarts == 0
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    ledger.add("one of 2 to 4 workers killed (SIGKILL) and started again", done["kill"])
    ledger.add("one of 2 to 4 workers paused (SIGSTOP) for up to 3 s", done["pause"])
    ledger.add("one of 2 to 4 workers drained (SIGTERM)", done["drain"])
    ledger.add("a worker joined", done["join"])
