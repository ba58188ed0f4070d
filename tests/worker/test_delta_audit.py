"""Background audits of a real worker: nothing under load, until a value goes wrong in its memory: its log names it."""

import re
from typing import Any

import aiohttp
import msgspec
import orjson
import pytest
from support.agents import LOGS, SPECS
from support.cluster import until, write_keyed
from support.disturbed import shopping_records, under_load
from support.flipping import FLIPPED
from support.live import Live, MakeLive, prepared
from support.logs import T0_MS, event

from persona_stream.cli.probe import any_free_port
from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import Partition, copy_progress
from persona_stream.stream.slices import Slice
from persona_stream.worker.delta_audit import refold
from persona_stream.worker.holdings import Taken

WITHIN_S = 60
_SAMPLE = re.compile(r"^persona_audit_(\w+?)(?:_total)?(?:\{\w+=\"(\w+)\"\})? (\S+)$", re.MULTILINE)


async def _metrics(namespace: Live) -> dict[tuple[str, str], float]:
    """(metric, label) -> value, of the worker's audits."""
    url = f"http://127.0.0.1:{namespace.settings.worker_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return {(name, label): float(value) for name, label, value in _SAMPLE.findall(await answer.text())}


async def _until(namespace: Live, name: str, label: str, at_least: float) -> dict[tuple[str, str], float]:
    async def reached() -> bool:
        return (await _metrics(namespace)).get((name, label), 0) >= at_least

    check = namespace.workers[-1].check_alive
    await until(reached, within_s=WITHIN_S, what=f"{name} {label} {at_least}", check=check)
    return await _metrics(namespace)


async def test_under_load_rounds_are_done_and_find_nothing_until_a_value_goes_wrong(make_live: MakeLive) -> None:
    namespace = await prepared(make_live, worker_port=any_free_port(), audit_every_ms=300)
    quiet = Record(b"quiet", orjson.dumps(event("q", "view", "quiet", T0_MS, item="i1")))
    await write_keyed(namespace.settings, namespace.topics.events, [quiet])
    worker = namespace.start_flipping("worker", "users/quiet")
    await namespace.until_applied("users")
    async with under_load(namespace, shopping_records(60_000, seed=3)):
        await namespace.until_goes_on()
        for table in ("users", "items", "learner"):
            found = await _until(namespace, "keys", table, 3)
            assert found.get(("differences", table), 0) == 0, worker.log_tail()
        await _until(namespace, "rounds", "done", 20)
        found = await _metrics(namespace)
        assert sum(value for (name, _), value in found.items() if name == "differences") == 0, worker.log_tail()
        assert found.get(("rounds", "failed"), 0) == 0, worker.log_tail()
        assert found["timestamp_seconds", ""] > 0

        worker.tell(FLIPPED)
        await _until(namespace, "differences", "users", 1)
    assert re.search(r"audit: table users, partition \d, key 'quiet' is not what", worker.log.read_text())


async def test_a_round_across_a_rebalance_is_skipped(make_live: MakeLive) -> None:
    namespace = await prepared(make_live, worker_port=any_free_port(), audit_every_ms=60_000)
    await write_keyed(namespace.settings, namespace.topics.events, shopping_records(500, seed=3))
    namespace.start_worker()
    await namespace.until_applied()
    port = namespace.settings.worker_port
    namespace.settings = msgspec.structs.replace(namespace.settings, worker_port=0)
    namespace.start_worker()
    namespace.settings = msgspec.structs.replace(namespace.settings, worker_port=port)
    found = await _until(namespace, "rounds", "skipped", 1)
    assert ("rounds", "failed") not in found


@pytest.mark.parametrize("table", SPECS)
def test_a_sample_becomes_what_the_whole_partition_became(table: str) -> None:
    spec, log = SPECS[table], LOGS[table](5)
    half = len(log) // 2
    whole: Partition[Any] = Partition(spec.codec)
    spec.fold.process(Slice(spec.source, 0, log[:half]), whole)
    whole.take_changes()
    for keys in (sorted(whole)[::2], sorted(whole)[1::2]):
        before = Taken(copy_progress(whole.progress), {key: whole.encoded(key) for key in keys}, set())
        after: Partition[Any] = Partition(spec.codec)
        for key in whole:
            after.restore(key.encode(), whole.encoded(key))
        after.progress = copy_progress(whole.progress)
        spec.fold.process(Slice(spec.source, 0, log[half:]), after)
        again = refold(spec, 0, before, log[half:])
        assert {key: again.encoded(key) for key in keys} == {key: after.encoded(key) for key in keys}
