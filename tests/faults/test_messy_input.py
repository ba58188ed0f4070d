"""What producers send when things go wrong: every record is applied once, or put aside; none is lost."""

import asyncio
import random
import signal
import time
from collections import Counter

import orjson
import pytest
from support.cluster import read_all
from support.disturbed import WITHIN_S, assert_state_is_exact, publish_in_chunks
from support.ledger import Ledger
from support.live import MakeLive, prepared
from support.logs import DAY_MS, HOUR_MS, T0_MS, event, shopping

from persona_stream.kafka.writer import Record

pytestmark = pytest.mark.faults

GOOD = 12_000
RETRIED, LATE, FUTURE, BROKEN = 600, 240, 150, 150
FIRST_LATE_AT = 1_000
"""By then each partition's watermark is more than the allowed lateness past the beginning."""


def _messy(random_: random.Random) -> list[Record]:
    """Shopping in disorder, with retries, events hours late, clocks a day ahead, and bytes that are no event."""
    good = [Record(made["user"].encode(), orjson.dumps(made)) for made in shopping(GOOD, seed=11, users=60, items=40)]
    placed = [(float(at), record) for at, record in enumerate(good)]
    placed += [(at + 30 * random_.random(), good[at]) for at in random_.sample(range(GOOD), RETRIED)]
    for number in range(LATE):
        made = event(f"late{number}", "view", f"u{number % 60}", T0_MS - 2 * HOUR_MS, item="i1")
        placed.append((random_.uniform(FIRST_LATE_AT, GOOD), Record(made["user"].encode(), orjson.dumps(made))))
    tomorrow_ms = time.time_ns() // 1_000_000 + DAY_MS
    for number in range(FUTURE):
        made = event(f"future{number}", "click", f"u{number % 60}", tomorrow_ms, item="i1")
        placed.append((random_.uniform(0, GOOD), Record(made["user"].encode(), orjson.dumps(made))))
    broken = [Record(f"u{number % 60}".encode(), b"no json %d" % number) for number in range(BROKEN)]
    placed += [(random_.uniform(0, GOOD), record) for record in broken]
    return [record for _, record in sorted(placed, key=lambda entry: entry[0])]


async def test_every_record_is_applied_once_or_put_aside_whatever_happens_to_workers(
    make_live: MakeLive, ledger: Ledger
) -> None:
    namespace = await prepared(make_live)
    topics, kafka = namespace.topics, namespace.settings.kafka
    publishing = asyncio.create_task(publish_in_chunks(namespace, _messy(random.Random(11))))
    for topic in (topics.deadletter, topics.late, topics.changelog("users")):
        worker = namespace.start_doomed_worker("SIGKILL", "before", topic)
        code = await asyncio.to_thread(worker.wait, within_s=WITHIN_S)
        assert code == -signal.SIGKILL, worker.log_tail()
        await namespace.kill(worker)
    assert not publishing.done(), "everything was published before the faults ended: they met no load"
    namespace.start_worker()
    await publishing
    await namespace.until_applied()

    await assert_state_is_exact(namespace)
    # Put aside twice, after a kill, is put aside once: the origin is the key.
    aside = {record.key: dict(record.headers)["persona.reason"] for record in await read_all(kafka, topics.deadletter)}
    assert Counter(aside.values()) == {b"future_ts": FUTURE, b"bad_json": BROKEN}
    assert len({record.key for record in await read_all(kafka, topics.late)}) == LATE
    progress = (await namespace.progress("users")).values()
    assert sum(held.events for held in progress) == GOOD + RETRIED + LATE + FUTURE + BROKEN
    assert max(held.watermark_ms for held in progress) < T0_MS + (GOOD + 60) * 60_000, "a wild clock moved time"
    ledger.add("a producer's retry: the same event id at a new offset", RETRIED)
    ledger.add("an event later than the allowed lateness", LATE)
    ledger.add("an event stamped a day ahead of Kafka's clock", FUTURE)
    ledger.add("bytes that are no event", BROKEN)
    ledger.add("the only worker killed (SIGKILL) between two writes of a slice", 3)
