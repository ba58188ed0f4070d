"""The serving benchmark: ``python -m benchmarks.serving``; `/v1/rank` beside a bare JSON echo, and freshness.

Starts a whole system (embedded Kafka, one worker, one server), streams a log through it, trains a ranker on it, and
then measures, one after the other:

- echo        a bare aiohttp + uvloop + orjson echo of the same body: closed loop
- rank alone  `/v1/rank` with 100 candidates, closed loop: what one server process can do
- rank loaded the same at a fixed rate (open loop), while events are published and folded
- freshness   from a click's acknowledgement to the first answer that it changed, on an otherwise idle system
"""

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.data import LogSpec, generate
from benchmarks.http_load import ClosedLoop, OpenLoop, percentile
from benchmarks.report import keep
from models.registry import Registry
from persona_stream.cli.running import server_url
from persona_stream.cli.stream_progress import until_applied
from persona_stream.cli.supervisor import Kafka, Supervisor, child_specs, embedded_kafka, with_free_ports
from persona_stream.cli.train_command import (
    TrainOptions,
    backfill_sessions,
    publish_ranker,
    train_on_examples,
)
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics

CANDIDATES = 100
BODIES = 500
CLIENTS = 8
RANKS_PER_S = 200
EVENTS_PER_S = 2000
CLICKS = 300
ASK_EVERY_S = 0.0005


class Freshness(msgspec.Struct):
    """Milliseconds from a click's acknowledgement to the first answer that it changed."""

    clicks: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Serving(msgspec.Struct):
    """All figures of a run."""

    echo: ClosedLoop
    rank_alone: ClosedLoop
    rank_loaded: OpenLoop
    events_per_s: int
    freshness: Freshness
    model: str


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=100_000, help="length of the log streamed first")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--name", default="serving", help="name of the JSON kept in benchmarks/results")
    args = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="persona-bench-") as folder:
        wished = Settings.load({"home": Path(folder), "http_port": 18080}, env={})
        with embedded_kafka(with_free_ports(wished, console.print), lambda _: None) as kafka:
            found = asyncio.run(_measure(kafka, args.events, args.seconds, Path(folder), console))
    show(found)
    keep(found, args.name)


async def _measure(kafka: Kafka, events: int, seconds: float, folder: Path, console: Console) -> Serving:
    async with Supervisor(kafka, child_specs(kafka.settings), notify=console.print) as system:
        settings = system.settings
        console.print(f"streaming {events:,} events and training a ranker on them")
        await _fill(settings, events)
        await _train(settings)
        users, items = _vocabulary(events)
        bodies = folder / "bodies.jsonl"
        bodies.write_bytes(b"\n".join(_bodies(users, items)))
        rank = f"{server_url(settings)}/v1/rank"
        async with aiohttp.ClientSession() as session:
            answer = await _rank(session, rank, orjson.loads(_bodies(users, items)[0]))
            console.print(f"served by {answer['model']} ({answer['policy']})")
            echo = await _echo(bodies, seconds)
            alone = await _load(rank, bodies, ClosedLoop, "--clients", str(CLIENTS), "--seconds", str(seconds))
            publishing = asyncio.create_task(_publish_beside(settings, events, seconds + 5))
            loaded = await _load(rank, bodies, OpenLoop, "--rate", str(RANKS_PER_S), "--seconds", str(seconds))
            await publishing
            await until_applied(settings)
            fresh = await _freshness(session, server_url(settings), users, items)
        return Serving(echo, alone, loaded, EVENTS_PER_S, fresh, answer["model"])


async def _fill(settings: Settings, events: int) -> None:
    writer = BatchWriter(settings, client_id="bench")
    await writer.start()
    records = [Record(event.key, event.value) for event in generate(LogSpec(events=events))]
    await writer.write_keyed(Topics(settings.namespace).events, records)
    await writer.stop()
    await until_applied(settings)


async def _train(settings: Settings) -> None:
    await backfill_sessions(settings)
    options = TrainOptions(name="ranker", origin="backfill", seed=1, promote=True, backfill=True)
    version = await publish_ranker(settings, options.name, await train_on_examples(settings, options))
    await Registry(settings).promote(options.name, version)
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{server_url(settings)}/readyz?verbose") as answer:
                if version in (await answer.json())["model"]:
                    return
            await asyncio.sleep(0.05)


def _vocabulary(events: int) -> tuple[list[str], list[str]]:
    log = [orjson.loads(event.value) for event in generate(LogSpec(events=min(events, 20_000)))]
    return sorted({event["user"] for event in log}), sorted({event["item"] for event in log})


def _bodies(users: list[str], items: list[str]) -> list[bytes]:
    rng = random.Random(3)
    return [
        orjson.dumps({"user": rng.choice(users), "items": rng.sample(items, CANDIDATES), "k": 20})
        for _ in range(BODIES)
    ]


async def _echo(bodies: Path, seconds: float) -> ClosedLoop:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.echo_server", "--port", "0", stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        url = (await server.stdout.readline()).decode().strip()
        return await _load(url, bodies, ClosedLoop, "--clients", str(CLIENTS), "--seconds", str(seconds))
    finally:
        server.terminate()
        await server.wait()


async def _load(url: str, bodies: Path, kind: Any, *load: str) -> Any:
    command = (sys.executable, "-m", "benchmarks.http_load", url, "--body", str(bodies), *load)
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    printed, _ = await process.communicate()
    return msgspec.json.decode(printed, type=kind)


async def _publish_beside(settings: Settings, filled: int, seconds: float) -> None:
    # On from where the log ends that was streamed first.
    begins = 1 + filled // LogSpec().events_per_s
    command = (sys.executable, "-m", "benchmarks.event_load", settings.kafka, settings.namespace)
    load = ("--rate", str(EVENTS_PER_S), "--seconds", str(seconds), "--begins", str(begins))
    process = await asyncio.create_subprocess_exec(*command, *load, stdout=subprocess.DEVNULL)
    await process.wait()


async def _freshness(session: aiohttp.ClientSession, base: str, users: list[str], items: list[str]) -> Freshness:
    rng = random.Random(5)
    times_ms: list[float] = []
    for _ in range(CLICKS):
        # With the features told, since scores also change as time passes; of one item, since asking must not slow the
        # server that is waited for.
        clicked = rng.choice(items)
        question = {"user": rng.choice(users), "items": [clicked], "explain": True}
        before = await _rank(session, f"{base}/v1/rank", question)
        event = {"id": uuid.uuid4().hex, "type": "click", "user": question["user"]}
        event |= {"item": clicked, "ts": before["as_of"]}
        async with session.post(f"{base}/v1/events", json=event) as acknowledged:
            taken = await acknowledged.json()
            assert taken["accepted"] == 1, taken
        started_s = time.perf_counter()
        while _touches(await _rank(session, f"{base}/v1/rank", question), clicked) == _touches(before, clicked):
            await asyncio.sleep(ASK_EVERY_S)
        times_ms.append(1000 * (time.perf_counter() - started_s))
    times_ms.sort()
    return Freshness(len(times_ms), percentile(times_ms, 0.5), percentile(times_ms, 0.99), times_ms[-1])


async def _rank(session: aiohttp.ClientSession, url: str, question: dict[str, Any]) -> dict[str, Any]:
    async with session.post(url, json=question) as answer:
        answered: dict[str, Any] = await answer.json()
        return answered


def _touches(answer: dict[str, Any], item: str) -> float:
    """How often the user was with an item, as the answer's features have it."""
    touches: float = next(r["features"]["pair_touches"] for r in answer["items"] if r["item"] == item)
    return touches


def show(found: Serving) -> None:
    """Print the figures."""
    table = Table("measured", "p50 ms", "p99 ms", "requests/s", title=f"serving, 100 candidates, {found.model}")
    for name, closed in (("echo of the body, 8 clients", found.echo), ("rank, 8 clients", found.rank_alone)):
        table.add_row(name, f"{closed.p50_ms:.2f}", f"{closed.p99_ms:.2f}", f"{closed.requests_per_s:,.0f}")
    loaded, fresh = found.rank_loaded, found.freshness
    beside = f"rank at {loaded.rate_per_s:.0f}/s, beside {found.events_per_s:,} events/s"
    answered = f"{loaded.answered / loaded.duration_s:,.0f} ({loaded.failed} failed)"
    table.add_row(beside, f"{loaded.p50_ms:.2f}", f"{loaded.p99_ms:.2f}", answered)
    table.add_row(f"click to changed answer, {fresh.clicks}", f"{fresh.p50_ms:.2f}", f"{fresh.p99_ms:.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
