"""A server's replica of all tables, read from changelogs that the real agents made of shopping events.

The events are folded slice by slice without a worker in between: what counts here are the changelogs that they leave,
one record for every key that a slice changed.
"""

import asyncio
import gc
from itertools import islice
from time import perf_counter

import uvloop

from agents.interactions import Interactions
from agents.items import Items
from benchmarks.contract import Job, KeyedResult, Recovered, Report
from benchmarks.data import LogSpec, generate
from benchmarks.ours_persona import settings_of
from persona_stream.backfill import LogRecord
from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.serving.replica import Replica
from persona_stream.serving.server import YOUNG_OBJECTS
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics
from tables import items, users

DISTRIBUTIONS = ("persona-stream", "aiokafka")

SHARE_OF_EVENTS = 0.8
"""Of the job's events, for time's sake: each changes a user and an item."""
SLICE_EVENTS = 500
POLL_S = 0.01


def run(job: Job) -> Report:
    """Fold events into users and items, and write their changelogs."""
    started_s = perf_counter()
    uvloop.run(_write(job, settings_of(job)))
    return Report(perf_counter() - started_s, KeyedResult())


async def _write(job: Job, settings: Settings) -> None:
    await ensure_topics(settings)
    topics, writer = Topics(settings.namespace), BatchWriter(settings, client_id="benchmark")
    interactions, items_agent = Interactions(settings), Items(settings)
    held = [(Partition(users.codec), Partition(items.codec)) for _ in range(job.partitions)]
    ends = [[0, 0] for _ in held]
    await writer.start()
    log = generate(LogSpec(events=int(job.events * SHARE_OF_EVENTS)))
    while chunk := list(islice(log, SLICE_EVENTS)):
        moved: dict[int, list[Record]] = {}
        for partition, (state, _) in enumerate(held):
            part = [LogRecord(0, r.ts_ms, r.key, r.value) for r in chunk if r.partition == partition]
            if part:
                out = interactions.process(_slice(part, partition, ends[partition], 0), state)
                for target, records in (
                    (await writer.partitioner(topics.item_events)).split(out.by_topic[topics.item_events]).items()
                ):
                    moved.setdefault(target, []).extend(records)
                await writer.write(topics.changelog("users"), {partition: state.take_changes()})
        for target, records in moved.items():
            part = [LogRecord(0, 0, record.key, record.value) for record in records]
            items_agent.process(_slice(part, target, ends[target], 1), held[target][1])
            await writer.write(topics.changelog("items"), {target: held[target][1].take_changes()})
    await writer.stop()


def _slice(records: list[LogRecord], partition: int, ends: list[int], which: int) -> Slice:
    for record in records:
        record.offset = ends[which]
        ends[which] += 1
    return Slice("", partition, records)


def recover(job: Job) -> Recovered:
    """Start a replica until it has caught up, with the garbage collector set as in the server."""
    gc.set_threshold(YOUNG_OBJECTS)
    return uvloop.run(_recover(settings_of(job)))


async def _recover(settings: Settings) -> Recovered:
    replica = Replica(settings)
    started_s = perf_counter()
    await replica.start()
    while not replica.has_caught_up:
        if replica.error is not None:
            raise replica.error
        await asyncio.sleep(POLL_S)
    done = Recovered(perf_counter() - started_s, replica.records_read)
    await replica.stop()
    return done
