"""Every decision that a server makes can be made again from the log, also those made while events pour in."""

import random
from contextlib import nullcontext

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from support.cluster import admin_of, end_offsets, read_all, until, write_keyed
from support.disturbed import load_for, shopping_records, under_load
from support.live import Live, MakeLive, prepared
from support.questions import questions, until_ready

from models.registry import Registry
from models.topic_reader import ignore_progress
from models.train import read_examples, train_ranker
from persona_stream.cli.probe import any_free_port
from persona_stream.explain.explanation import Explanation, explain
from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.messages import Decision, decode_decision

BEFORE = 3_000
DECISIONS = 400
EXPLAINED = 25
FORGOTTEN_EXPLAINED = 5
SEED = 11


async def test_any_decision_made_under_load_is_made_again(make_live: MakeLive) -> None:
    namespace, port = await prepared(make_live), any_free_port()
    namespace.start_worker()
    await write_keyed(namespace.settings, namespace.topics.events, shopping_records(BEFORE, seed=SEED))
    await namespace.until_applied("users", "items", "learner")
    forgotten = await end_offsets(namespace.settings.kafka, namespace.topics.item_events)
    namespace.start_server(port)
    await until_ready(namespace, port)
    async with under_load(namespace, load_for(10, seed=SEED + 1)), questions(port):
        await _until_logged(namespace, DECISIONS)
        await _publish_ranker(namespace)
        await write_keyed(namespace.settings, namespace.topics.items, [_item(n, hidden=n % 5 == 0) for n in range(20)])
        await _until_logged(namespace, 2 * DECISIONS)
    made = await _decisions(namespace)
    picked = random.Random(SEED).sample(made, EXPLAINED)
    explained = [await _explained(namespace, decision) for decision in picked]
    different = [(e.decision, e.differences[:5], e.notes) for e in explained if not e.same]
    assert not different, f"{len(different)} of {EXPLAINED}: {different[:3]}"
    # Each kind was among them.
    assert {e.decision.asked for e in explained} == {"rank", "recommend"}
    assert {e.decision.policy for e in explained} >= {"online", "blend"}
    assert any(rule.rule == "withheld" for e in explained for rule in e.rules)

    # The same where the item events of the beginning are gone: they are made again from the events themselves.
    await _forget(namespace, forgotten)
    for decision, before in list(zip(picked, explained, strict=True))[:FORGOTTEN_EXPLAINED]:
        after = await _explained(namespace, decision)
        assert (after.same, after.items, after.notes) == (True, before.items, before.notes), after.differences


async def _explained(namespace: Live, decision: Decision) -> Explanation:
    return await explain(namespace.settings, decision, lambda _: nullcontext(ignore_progress))


async def _forget(namespace: Live, ends: dict[int, int]) -> None:
    """Take the first item events away, as retention does."""
    topic = namespace.topics.item_events
    async with admin_of(namespace.settings.kafka) as admin:
        await admin.delete_records({TopicPartition(topic, p): RecordsToDelete(end) for p, end in ends.items()})


async def _publish_ranker(namespace: Live) -> None:
    trained = train_ranker(await read_examples(namespace.settings))
    registry = Registry(namespace.settings)
    await registry.publish(trained.record("ranker", "v1", 0))
    await registry.promote("ranker", "v1")


async def _decisions(namespace: Live) -> list[Decision]:
    records = await read_all(namespace.settings.kafka, namespace.topics.decisions)
    return [decode_decision(record.value) for record in records]


async def _until_logged(namespace: Live, count: int) -> None:
    async def logged() -> bool:
        return len(await _decisions(namespace)) >= count

    await until(logged, within_s=60, what=f"{count} decisions are logged")


def _item(number: int, *, hidden: bool) -> Record:
    made = {"id": f"i{number}", "ts": 1, "attributes": {}, "status": "hidden" if hidden else "active"}
    return Record(made["id"].encode(), msgspec.json.encode(made))
