"""A worker with all its agents: ``python -m benchmarks.worker [--events N]``.

Logs wait in Kafka before the worker starts: real purchases, each an outcome, and clicks among views. The clock runs
from the first events that it has folded until the offsets of all that it made of them are committed: users, items, rows
of features, examples, and what the online model learned from them. It commits once a second. The broker has the other
core.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from time import perf_counter

import aiohttp
from rich.console import Console

from benchmarks.data import clicks_among_views, generate
from benchmarks.rebuild import publish
from persona_stream.cli.cluster import create_topics
from persona_stream.cli.supervisor import Kafka, Supervisor, child_specs, embedded_kafka, with_free_ports
from persona_stream.demo.dataset import Dataset
from persona_stream.rebuild.snapshot import committed, end_offsets
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics

ASK_EVERY_S = 0.2
LOGS = ("purchases", "clicks")


async def measure(kafka: Kafka, log: str, events: int, console: Console) -> None:
    """Publish a log, fold it, print the rate."""
    settings, topics = kafka.settings, Topics(kafka.settings.namespace)
    await create_topics(settings)
    data = Dataset(events)
    if log == "purchases":
        await publish(settings, topics.items, data.items(), "id")
    await publish(settings, topics.events, _events(log, data, events), "user")
    worker = [spec for spec in child_specs(settings) if spec.name == "worker"]
    async with Supervisor(kafka, worker, notify=console.print):
        begun = await _until_begun(f"http://127.0.0.1:{settings.worker_port}/metrics")
        started_s = perf_counter()
        # In the order of the way: when all of a topic is committed, all that it gives to the next is there.
        way = (topics.events, topics.item_events, topics.shown, topics.examples)
        folded, of_items, _, examples = [await _until_committed(settings, topic) for topic in way]
        rate = (folded - begun) / (perf_counter() - started_s)
    console.print(f"{log:10}{folded:,} events, {of_items:,} of items, {examples:,} examples: {rate:,.0f} events/s")


def _events(log: str, data: Dataset, events: int) -> Iterable[bytes]:
    if log == "purchases":
        return islice(data.events(), events)
    return (record.value for record in generate(clicks_among_views(events)))


async def _until_committed(settings: Settings, topic: str) -> int:
    """Wait until the worker has committed all of a topic; returns how many records that is."""
    while True:
        ends, done = await end_offsets(settings, topic), await committed(settings, topic)
        if all(done.get(partition, 0) >= end for partition, end in ends.items()):
            return sum(ends.values())
        await asyncio.sleep(ASK_EVERY_S)


async def _until_begun(url: str) -> int:
    """Wait for the first events to be folded; returns how many."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(url) as answer:
                lines = (await answer.text()).splitlines()
            folded = [line for line in lines if line.startswith('persona_events_total{agent="users"')]
            if begun := int(sum(float(line.rpartition(" ")[2]) for line in folded)):
                return begun
            await asyncio.sleep(ASK_EVERY_S)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=100_000)
    args = parser.parse_args()
    console = Console()
    for log in LOGS:
        with tempfile.TemporaryDirectory(prefix="persona-bench-", ignore_cleanup_errors=True) as folder:
            wished = Settings.load({"home": Path(folder)}, env={})
            with embedded_kafka(with_free_ports(wished, console.print), lambda _: None) as kafka:
                asyncio.run(measure(kafka, log, args.events, console))


if __name__ == "__main__":
    main()
