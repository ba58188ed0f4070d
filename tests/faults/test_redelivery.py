"""Committed offsets set back and forward while no worker runs: the tables' progress counts, not they."""

import random
from collections import Counter
from itertools import cycle, islice

import pytest
from support.cluster import committed, end_offsets, set_committed
from support.disturbed import assert_state_is_exact, load_for, under_load
from support.ledger import Ledger
from support.live import MakeLive, prepared

pytestmark = pytest.mark.faults


async def test_committed_offsets_set_back_or_forward_change_nothing(
    make_live: MakeLive, fault_cycles: int, ledger: Ledger
) -> None:
    random_ = random.Random(19)
    namespace = await prepared(make_live)
    kafka, group, topics = namespace.settings.kafka, namespace.group, namespace.topics
    moves = list(islice(cycle(["the beginning", "the end", "anywhere"]), max(2, fault_cycles // 4)))
    async with under_load(namespace, load_for(2 * len(moves), seed=19)):
        for move in moves:
            worker = namespace.start_worker()
            await namespace.until_goes_on()
            await namespace.kill(worker)
            for topic in (topics.events, topics.item_events, topics.examples):
                ends = await end_offsets(kafka, topic)
                offsets = {
                    partition: {"the beginning": 0, "the end": end}.get(move, random_.randint(0, end))
                    for partition, end in ends.items()
                }
                # A worker that kept up has committed all that it made, and that is the end; events go on without it.
                may_be_there = move == "the end" and topic != topics.events
                assert may_be_there or await committed(kafka, group, topic) != offsets
                await set_committed(kafka, group, topic, offsets)
        namespace.start_worker()
        await namespace.until_goes_on()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    for move, times in Counter(moves).items():
        ledger.add(f"the group's committed offsets set to {move} while no worker runs", times)
