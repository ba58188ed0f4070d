"""Every decision that a server makes can be made again from the log, also those made while it reads a large change."""

import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext

import msgspec
import orjson
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from support.cluster import admin_of, end_offsets, read_all, write_keyed
from support.live import Live, MakeLive, prepared
from support.logs import shopping
from support.questions import questions, until_ready

from models.registry import Registry
from models.topic_reader import ignore_progress
from models.train import read_examples, train_ranker
from persona_stream.cli.probe import any_free_port
from persona_stream.explain.explanation import Explanation, explain
from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.messages import Decision, decode_decision
from tables.features.plan import feature_set

BURST = 10_000
BURSTS = 10
"""At most; after a few, enough decisions were made in the middle of a change."""
USERS, ITEMS = 1500, 1000
KINDS = ("online", "blend", "unsettled")
EXPLAINED = 4
"""Of each kind."""
FORGOTTEN_EXPLAINED = 2
SEED = 11


async def test_any_decision_made_under_load_is_made_again(make_live: MakeLive) -> None:
    namespace, port = await prepared(make_live), any_free_port()
    namespace.start_worker()
    namespace.start_server(port)
    await until_ready(namespace, port)
    bursts = iter(_bursts())
    async with questions(port):
        await _apply(namespace, next(bursts))
        forgotten = await end_offsets(namespace.settings.kafka, namespace.topics.item_events)
        await _publish_ranker(namespace)
        await write_keyed(namespace.settings, namespace.topics.items, [_item(n, hidden=n % 5 == 0) for n in range(20)])
        while True:
            await _apply(namespace, next(bursts))
            kinds = _by_kind(await _decisions(namespace))
            if all(len(kinds[kind]) >= EXPLAINED for kind in KINDS):
                break
    picked = [decision for kind in KINDS for decision in random.Random(SEED).sample(kinds[kind], EXPLAINED)]
    explained = [await _explained(namespace, decision) for decision in picked]
    different = [(e.decision, e.differences[:5], e.notes) for e in explained if not e.same]
    assert not different, f"{len(different)} of {len(picked)}: {different[:3]}"
    # Each kind was among them.
    assert {e.decision.asked for e in explained} == {"rank", "recommend"}
    assert any(rule.rule == "withheld" for e in explained for rule in e.rules)

    # The same where the item events of the beginning are gone: they are made again from the events themselves.
    await _forget(namespace, forgotten)
    late = [pair for pair in zip(picked, explained, strict=True) if _is_behind(pair[0], forgotten)]
    for decision, before in late[:FORGOTTEN_EXPLAINED]:
        after = await _explained(namespace, decision)
        assert (after.same, after.items, after.notes) == (True, before.items, before.notes), after.differences
    assert late


def _bursts() -> Sequence[list[Record]]:
    events = shopping(BURSTS * BURST, seed=SEED, users=USERS, items=ITEMS)
    records = [Record(made["user"].encode(), orjson.dumps(made)) for made in events]
    return [records[start : start + BURST] for start in range(0, len(records), BURST)]


async def _apply(namespace: Live, records: list[Record]) -> None:
    await write_keyed(namespace.settings, namespace.topics.events, records)
    await namespace.until_applied("users", "items", "learner")


async def _explained(namespace: Live, decision: Decision) -> Explanation:
    return await explain(namespace.settings, decision, lambda _: nullcontext(ignore_progress))


async def _forget(namespace: Live, ends: dict[int, int]) -> None:
    """Take the first item events away, as retention does."""
    topic = namespace.topics.item_events
    async with admin_of(namespace.settings.kafka) as admin:
        await admin.delete_records({TopicPartition(topic, p): RecordsToDelete(end) for p, end in ends.items()})


def _is_behind(decision: Decision, ends: dict[int, int]) -> bool:
    """Whether a decision was made on all item events up to here, and more."""
    assert decision.state is not None
    return all(decision.state.items[partition] >= end for partition, end in ends.items())


async def _publish_ranker(namespace: Live) -> None:
    trained = train_ranker(await read_examples(namespace.settings), feature_set(namespace.settings))
    registry = Registry(namespace.settings)
    await registry.publish(trained.record("ranker", "v1", 0))
    await registry.promote("ranker", "v1")


async def _decisions(namespace: Live) -> list[Decision]:
    records = await read_all(namespace.settings.kafka, namespace.topics.decisions)
    return [decode_decision(record.value) for record in records]


def _by_kind(decisions: list[Decision]) -> dict[str, list[Decision]]:
    """By policy; apart from these, those made while a change was being read."""
    kinds: dict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        kinds["unsettled" if decision.state and decision.state.unsettled else decision.policy].append(decision)
    return kinds


def _item(number: int, *, hidden: bool) -> Record:
    made = {"id": f"i{number}", "ts": 1, "attributes": {}, "status": "hidden" if hidden else "active"}
    return Record(made["id"].encode(), msgspec.json.encode(made))
