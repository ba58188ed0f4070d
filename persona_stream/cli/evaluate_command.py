"""`persona-stream evaluate`: how well the whole system would have served the users of a log, asked as it went.

A system of its own is started: broker, worker, server. The first part of the time streams in, a ranker is trained on
the examples that were made of it, and goes live. Then the rest streams in, and just before each list that something was
chosen from, the server is asked to order it; of a log without lists, to recommend something as each session begins.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import aiohttp
import msgspec
from msgspec import Struct

from models.registry import Registry
from models.train import fit_ranker, read_examples
from persona_stream.cli.console import err, out, print_table
from persona_stream.cli.embedded import cache_folder
from persona_stream.cli.evaluated import Asked, EvaluationError, Lists, Sessions
from persona_stream.cli.progress_bar import progress_bar
from persona_stream.cli.publish import KINDS, PublishReport, publish_lines
from persona_stream.cli.rejects import good_rows
from persona_stream.cli.running import server_url
from persona_stream.cli.signals import run_until_terminated
from persona_stream.cli.stream_progress import until_applied
from persona_stream.cli.supervisor import Kafka, Supervisor, child_specs
from persona_stream.cli.train_command import backfill_sessions, publish_ranker
from persona_stream.cli.up import notify, system
from persona_stream.history.files import HistoryFile
from persona_stream.history.kinds import EVENTS, ITEMS, PROFILES
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.past_lists import shuffled
from persona_stream.rebuild.snapshot import covers, end_offsets, read_snapshot
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.events import Event, parse_event
from persona_stream.vocabulary.topics import Topics
from tables.features.plan import feature_set

MODEL = "ranker"
DEADLINE_MS = 5_000
"""Nobody waits for these answers: none is to be a fallback because the machine was busy."""
WITHIN_S = 120.0
LOOK_S = 0.001
WAYS: dict[str, type[Lists] | type[Sessions]] = {"lists": Lists, "sessions": Sessions}


class EvaluateOptions(Struct, frozen=True, kw_only=True):
    """What to evaluate, and how."""

    events: Path
    items: Path | None
    profiles: Path | None
    train_share: float
    """Of the log's time."""
    by: Literal["lists", "sessions"] | None
    """What is asked about; None: lists, or sessions where the log has no lists."""
    shuffle: bool
    """Whether lists are put in a random order first."""
    seed: int


class LoggedEvent(Struct):
    """An event as it is published."""

    event: Event
    raw: bytes


def run_evaluate(settings: Settings, options: EvaluateOptions) -> int:
    """Evaluate, print, and return the exit code. Raises ConfigError where the log can't be judged."""
    log = _read_log(options)
    asked = _questions(settings, options, log)
    # The broker's jars are those of the home that is there, not of the one that is made for this.
    os.environ.setdefault("PERSONA_CACHE", str(cache_folder(settings.home).absolute()))
    with TemporaryDirectory(prefix="persona-evaluate-") as folder:
        own = msgspec.structs.replace(
            settings, home=Path(folder), kafka="", redis_url="", audit_every_ms=0, deadline_ms=DEADLINE_MS
        )
        with system(own) as kafka:
            return run_until_terminated(_evaluate(kafka, options, log, asked))


def _questions(settings: Settings, options: EvaluateOptions, log: Sequence[LoggedEvent]) -> Asked[Any]:
    """What is asked about the later part of the log."""
    events = [one.event for one in log]
    first_ms, last_ms = int(log[0].event.ts), int(log[-1].event.ts)
    cut_ms = first_ms + options.train_share * (last_ms - first_ms)
    ways = WAYS.values() if options.by is None else [WAYS[options.by]]
    tried: list[Asked[Any]] = []
    for way in ways:
        tried.append(way(events, settings))
        if tried[-1].split(cut_ms):
            return tried[-1]
    told = " and ".join(f"{one.left_out} {one.what} before the cut and {len(one.questions)} after it" for one in tried)
    raise ConfigError(
        f"{options.events} has {told}, counting those with an outcome; there must be some on both sides.",
        hint="Lists are `impression` events with `items`; outcomes are clicks, carts, purchases, good ratings. Sessions"
        " count once their user has been with a few items.",
    )


async def _evaluate(kafka: Kafka, options: EvaluateOptions, log: Sequence[LoggedEvent], asked: Asked[Any]) -> None:
    err.print("starting the worker and the server ...")
    async with Supervisor(kafka, child_specs(kafka.settings), notify=notify) as supervisor:
        settings = supervisor.settings
        failing = asyncio.create_task(supervisor.run())
        judging = asyncio.create_task(_judge(settings, options, log, asked))
        await asyncio.wait([failing, judging], return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            judging.cancel()
            failing.result()
        failing.cancel()
        judging.result()


async def _judge(settings: Settings, options: EvaluateOptions, log: Sequence[LoggedEvent], asked: Asked[Any]) -> None:
    """Stream, train, ask and report."""
    writer = BatchWriter(settings, client_id="evaluate")
    await writer.start()
    try:
        for kind, path in ((ITEMS, options.items), (PROFILES, options.profiles)):
            if path is not None:
                published = KINDS[kind.name]
                rows = (raw for _, raw in good_rows(HistoryFile(path, kind), PublishReport()))
                await publish_lines(rows, writer, published.topic(Topics(settings.namespace)), kind=published)
        await until_applied(settings)
        stream = _Stream(settings, writer, log)
        await stream.publish_until(asked.questions[0].at)
        model = await _train(settings, options, asked)
        async with aiohttp.ClientSession(server_url(settings)) as session:
            await _until_served(session, model, log[0].event.user)
            with progress_bar("asking") as on_progress:
                for number, one in enumerate(asked.questions, start=1):
                    await stream.publish_until(one.at)
                    await stream.until_known(session)
                    await asked.ask(session, one)
                    on_progress(number, len(asked.questions))
        _report(options, asked, model)
    finally:
        await writer.stop()


class _Stream:
    """Publishes the log bit by bit."""

    def __init__(self, settings: Settings, writer: BatchWriter, log: Sequence[LoggedEvent]) -> None:
        self._topic = Topics(settings.namespace).events
        self._writer = writer
        self._log = log
        self._published = 0

    async def publish_until(self, at: int) -> None:
        """Publish all before a place in the log; Kafka has it then."""
        records = [Record(one.event.user.encode(), one.raw) for one in self._log[self._published : at]]
        if records:
            await self._writer.write_keyed(self._topic, records)
        self._published = max(self._published, at)

    async def until_known(self, session: aiohttp.ClientSession) -> None:
        """Wait until the server knows of all that was published."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + WITHIN_S
        while True:
            async with session.get("/readyz?verbose") as answer:
                held = (await answer.json(content_type=None))["tables"]["users"]["events"]
            if held >= self._published:
                return
            if loop.time() > deadline_s:
                raise EvaluationError(f"the server knows of {held:,} of {self._published:,} events.")
            await asyncio.sleep(LOOK_S)


async def _train(settings: Settings, options: EvaluateOptions, asked: Asked[Any]) -> str:
    """Train on what the stream made of the first part, and serve it; returns the model's name and version."""
    await until_applied(settings)
    await _until_lists_are_known(settings)
    if asked.needs_backfill:
        await backfill_sessions(settings)
    examples = await read_examples(settings, origins=asked.origins)
    trained = await asyncio.to_thread(fit_ranker, examples, feature_set(settings), seed=options.seed)
    version = await publish_ranker(settings, MODEL, trained)
    await Registry(settings).promote(MODEL, version)
    return f"{MODEL}/{version}"


async def _until_lists_are_known(settings: Settings) -> None:
    topics = Topics(settings.namespace)
    # Lists come in over a topic of their own: all of it must be in their table, and what it gave rise to in Kafka.
    ends = await end_offsets(settings, topics.shown)
    covered = covers(ends)
    if not covered(await read_snapshot(settings, topics.changelog("impressions"), covered)):
        raise EvaluationError("the worker does not get on with the lists shown.", hint="See the logs in its home.")


async def _until_served(session: aiohttp.ClientSession, model: str, user: str) -> None:
    deadline_s = asyncio.get_running_loop().time() + WITHIN_S
    while True:
        async with session.post("/v1/rank", json={"user": user, "items": ["any"]}) as response:
            if model in (await response.json(content_type=None))["model"]:
                return
        if asyncio.get_running_loop().time() > deadline_s:
            raise EvaluationError(f"the server does not serve {model}.")
        await asyncio.sleep(LOOK_S)


def _report(options: EvaluateOptions, asked: Asked[Any], model: str) -> None:
    order = ", in a random order" if options.shuffle else ", in the order displayed" if asked.what == "lists" else ""
    out.print(
        f"{options.events.name}: trained on {asked.left_out:,} {asked.what} of the first {options.train_share:.0%} of"
        f" time; the {len(asked.questions):,} of the rest asked through {asked.route}{order}."
    )
    rows = []
    for name, found in asked.measured(model, options.seed).items():
        numbers = (found.ndcg.mean, found.ndcg.low, found.ndcg.high, found.hit_rate.mean)
        rows.append([name, *(f"{number:.3f}" for number in numbers)])
    print_table(["", "NDCG@10", "from", "to (95 %)", "HR@10"], rows)
    if asked.fallbacks:
        told = ", ".join(f"{reason} {count:,}" for reason, count in sorted(asked.fallbacks.items()))
        out.print(f"answers that were fallbacks: {told}")


def _read_log(options: EvaluateOptions) -> list[LoggedEvent]:
    """The log in event-time order. Raises ConfigError where it has none."""
    log = []
    for event, raw in good_rows(HistoryFile(options.events, EVENTS), PublishReport()):
        if options.shuffle:
            told = msgspec.json.encode(shuffled(event, msgspec.json.decode(raw), options.seed))
            log.append(LoggedEvent(parse_event(told), told))
        else:
            log.append(LoggedEvent(event, raw))
    if not log:
        raise ConfigError(f"{options.events} holds no event.", hint="docs/concepts.md describes them.")
    log.sort(key=lambda one: int(one.event.ts))
    return log
