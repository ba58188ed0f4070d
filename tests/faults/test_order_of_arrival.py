"""The same events in another order within the allowed lateness, through workers that are killed: the same tables."""

import asyncio
import random
import signal
from typing import Any

import orjson
import pytest
from support.cluster import read_all, write_keyed
from support.disturbed import WITHIN_S, assert_state_is_exact, items, publish_in_chunks
from support.ledger import Ledger
from support.live import MakeLive, decoded, prepared
from support.logs import shopping
from support.oracle import expected_tables

from persona_stream.kafka.writer import Record
from tables import users as users_table

pytestmark = pytest.mark.faults

EVENTS = 10_000


async def test_events_shuffled_within_the_lateness_leave_the_tables_of_events_in_order(
    make_live: MakeLive, ledger: Ledger
) -> None:
    random_ = random.Random(22)
    shuffled, in_order = await prepared(make_live), await prepared(make_live)
    events = sorted(shopping(EVENTS, seed=22, users=60, items=40), key=lambda made: made["ts"])
    lateness_ms = shuffled.settings.allowed_lateness_ms
    arrivals = sorted(events, key=lambda made: made["ts"] + random_.randint(0, lateness_ms))
    publishing = asyncio.create_task(publish_in_chunks(shuffled, _records(arrivals)))
    for topic in (shuffled.topics.item_events, shuffled.topics.changelog("users")):
        worker = shuffled.start_doomed_worker("SIGKILL", "before", topic)
        assert await asyncio.to_thread(worker.wait, within_s=WITHIN_S) == -signal.SIGKILL, worker.log_tail()
        await shuffled.kill(worker)
    assert not publishing.done(), "everything was published before the faults ended: they met no load"
    shuffled.start_worker()
    await publishing
    await shuffled.until_applied()

    await assert_state_is_exact(shuffled)
    assert await read_all(shuffled.settings.kafka, shuffled.topics.late) == []
    await write_keyed(in_order.settings, in_order.topics.events, _records(events))
    log = await read_all(in_order.settings.kafka, in_order.topics.events)
    users, expected_items = expected_tables(in_order.settings, log)
    held = decoded(users_table.codec, await shuffled.table("users"))
    assert _without_offsets(held) == _without_offsets(decoded(users_table.codec, users))
    assert _without_offsets(await items(shuffled)) == _without_offsets(expected_items)
    ledger.add("events shuffled within the allowed lateness, with kills", EVENTS)


def _records(events: list[dict[str, Any]]) -> list[Record]:
    return [Record(made["user"].encode(), orjson.dumps(made)) for made in events]


def _without_offsets(table: dict[str, Any]) -> dict[str, Any]:
    """Offsets follow the order of the log; all else must not."""
    for value in table.values():
        value.applied = None
    return table
