"""Clocks gone wild: those of publishers, of their Kafka clients, and the worker's own."""

import asyncio
import time
from collections import Counter

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from support.cluster import read_all
from support.disturbed import assert_state_is_exact, load_for, publish_in_chunks, shopping_records, under_load
from support.ledger import Ledger
from support.live import Live, MakeLive, prepared
from support.logs import DAY_MS, event

from persona_stream.kafka.writer import Record

pytestmark = pytest.mark.faults

ODD_TIMES = {0: "bad_ts", -1: "bad_ts", "1969-12-31T23:59:59Z": "bad_ts", 1: "late", "1970-01-02T00:00:00Z": "late"}
"""Event time -> where it must end: not after 1970 began is no time; soon after it is one, long ago."""
OF_EACH = 20


async def test_a_worker_whose_clock_jumps_by_two_days_each_second_folds_the_same(
    make_live: MakeLive, ledger: Ledger
) -> None:
    namespace = await prepared(make_live)
    async with under_load(namespace, load_for(10, seed=16)):
        worker = namespace.start_jumpy_worker()
        await namespace.until_goes_on()
        # Ahead and behind, both.
        await asyncio.sleep(2)
        await namespace.until_goes_on()
        await namespace.kill(worker)
        namespace.start_jumpy_worker()
        await namespace.until_goes_on()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    assert namespace.restarts == 0
    ledger.add("a worker whose wall clock jumps by two days each second, killed (SIGKILL)", 1)


async def test_no_time_that_a_publisher_claims_moves_the_watermark_to_where_it_is_not(
    make_live: MakeLive, ledger: Ledger
) -> None:
    namespace = await prepared(make_live)
    topics, kafka = namespace.topics, namespace.settings.kafka
    tomorrow_ms = time.time_ns() // 1_000_000 + DAY_MS
    good = shopping_records(2_000, seed=17)
    odd = [
        event(f"odd{number}-{ts}", "view", f"u{number}", ts, item="i1") for ts in ODD_TIMES for number in range(OF_EACH)
    ]
    namespace.start_worker()
    await publish_in_chunks(namespace, good[:1_000])
    await _publish_from_tomorrow(namespace, tomorrow_ms)
    await publish_in_chunks(namespace, [Record(made["user"].encode(), orjson.dumps(made)) for made in odd])
    await publish_in_chunks(namespace, good[1_000:])
    await namespace.until_applied()

    await assert_state_is_exact(namespace)
    aside = await read_all(kafka, topics.deadletter) + await read_all(kafka, topics.late)
    expected = Counter({"future_ts": OF_EACH})
    for reason in ODD_TIMES.values():
        expected[reason] += OF_EACH
    assert Counter(dict(record.headers)["persona.reason"].decode() for record in aside) == expected
    assert max(record.timestamp for record in await read_all(kafka, topics.events)) < tomorrow_ms
    progress = (await namespace.progress("users")).values()
    assert max(held.watermark_ms for held in progress) < tomorrow_ms - DAY_MS
    ledger.add("an event stamped at or before the beginning of 1970, or soon after it", len(odd))
    ledger.add("a record that its producer stamped a day ahead, as its event", OF_EACH)


async def _publish_from_tomorrow(namespace: Live, tomorrow_ms: int) -> None:
    """Event and record agree on a time that is not yet: believed, it would push the watermark."""
    producer = AIOKafkaProducer(bootstrap_servers=namespace.settings.kafka)
    await producer.start()
    try:
        for number in range(OF_EACH):
            made = event(f"future{number}", "click", f"u{number}", tomorrow_ms, item="i1")
            value, key = orjson.dumps(made), made["user"].encode()
            await producer.send_and_wait(namespace.topics.events, value, key=key, timestamp_ms=tomorrow_ms)
    finally:
        await producer.stop()
