"""A steady stream of events onto a topic, in a process of its own: what goes on while the server is measured.

python -m benchmarks.event_load 127.0.0.1:9092 persona --rate 2000 --seconds 30 --begins 1000
"""

import argparse
import asyncio
import itertools
from pathlib import Path

import uvloop

from benchmarks.data import LogSpec, generate
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics

TICK_S = 0.01
MAX_SECONDS = 120.0
MAX_RATE_PER_S = 20_000


async def stream(settings: Settings, rate_per_s: int, seconds: float, begins_s: int) -> int:
    """Publish ``rate_per_s`` events a second, in ticks of 10 ms, for ``seconds``; returns how many.

    Event time goes on as the clock does, from ``begins_s`` of the log's own on.
    """
    writer = BatchWriter(settings, client_id="event-load")
    await writer.start()
    total = int(rate_per_s * seconds)
    # Of 50,000 users the busiest has half a percent of the events: 10 a second at 2,000, as much as a robot does.
    spec = LogSpec(events=total, zipf=0.6, events_per_s=rate_per_s, begins_s=begins_s, seed=8)
    events = generate(spec)
    records = (Record(event.key, event.value) for event in events)
    loop = asyncio.get_running_loop()
    started_s, sent = loop.time(), 0
    while sent < total:
        due = min(total, int((loop.time() - started_s) * rate_per_s) + 1)
        await writer.write_keyed(Topics(settings.namespace).events, list(itertools.islice(records, due - sent)))
        sent = due
        await asyncio.sleep(TICK_S)
    await writer.stop()
    return sent


def main() -> None:
    """The command line; prints how many events were published."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.event_load")
    parser.add_argument("bootstrap")
    parser.add_argument("namespace")
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--begins", type=int, default=0, help="second of the log at which event time begins")
    args = parser.parse_args()
    if not 0 < args.seconds <= MAX_SECONDS or not 0 < args.rate <= MAX_RATE_PER_S:
        parser.error(f"at most {MAX_SECONDS:g} s and {MAX_RATE_PER_S} events/s")
    settings = Settings.load({"kafka": args.bootstrap, "namespace": args.namespace, "home": Path(".")}, env={})
    print(uvloop.run(stream(settings, args.rate, args.seconds, args.begins)))


if __name__ == "__main__":
    main()
