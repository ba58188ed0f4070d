"""`persona-stream demo`: the whole way of the data on a real year of shopping, told as it happens."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

import aiohttp
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from models.online import quality
from models.registry import Registry
from models.topic_reader import read_topic
from persona_stream.cli.console import err, out
from persona_stream.cli.demo_answers import show_answers
from persona_stream.cli.publish import KINDS, publish_lines
from persona_stream.cli.running import server_url
from persona_stream.cli.signals import run_until_terminated
from persona_stream.cli.stream_progress import follow, until_applied
from persona_stream.cli.supervisor import Kafka, Supervisor, child_specs
from persona_stream.cli.train_command import (
    TrainOptions,
    backfill_sessions,
    print_next_session,
    publish_ranker,
    train_on_examples,
)
from persona_stream.cli.up import notify, print_started, system
from persona_stream.demo.dataset import LICENCE_NOTE, Dataset
from persona_stream.kafka.generations import live_changelog
from persona_stream.kafka.writer import BatchWriter
from persona_stream.stream.partition import SYSTEM_KEYS
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics
from tables.features.plan import feature_set
from tables.learner import OnlineState, decode

DEFAULT_EVENTS = 100_000
"""Ends well within three minutes on two cores; the whole year is 1,469,307."""
MODEL = "ranker"


def run_demo(settings: Settings, *, events: int | None, once: bool) -> int:
    """Stream the data, train, answer; then serve until Ctrl-C unless `once`. Returns the exit code."""
    with system(settings) as kafka:
        return run_until_terminated(_demo(kafka, events or DEFAULT_EVENTS, once=once))


async def _demo(kafka: Kafka, events: int, *, once: bool) -> None:
    err.print("starting the worker and the server ...")
    async with Supervisor(kafka, child_specs(kafka.settings), notify=notify) as supervisor:
        settings = supervisor.settings
        failing = asyncio.create_task(supervisor.run())
        telling = asyncio.create_task(_tell(settings, events))
        await asyncio.wait([failing, telling], return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            telling.cancel()
            failing.result()
        telling.result()
        print_started(supervisor)
        if once:
            failing.cancel()
            return
        following = asyncio.create_task(follow(settings))
        try:
            await failing
        finally:
            following.cancel()


async def _tell(settings: Settings, events: int) -> None:
    dataset = await asyncio.to_thread(Dataset, events)
    covered = dataset.coverage()
    _step("1", "a real year of shopping streams through Kafka")
    out.print(
        f"  {covered.events:,} purchases of {covered.households:,} households, {covered.items:,} products,"
        f" {_day(covered.first_ms)} to {_day(covered.last_ms)}. {LICENCE_NOTE}"
    )
    await _publish(settings, "items", dataset.items(), None)
    await _publish(settings, "profiles", dataset.profiles(), None)
    started_s = asyncio.get_running_loop().time()
    await _publish(settings, "events", dataset.events(), covered.events)
    await until_applied(settings)
    elapsed_s = asyncio.get_running_loop().time() - started_s
    out.print(
        f"  published, folded into tables and in the server's replica in {elapsed_s:.1f} s:"
        f" {covered.events / elapsed_s:,.0f} events/s"
    )
    _step("2", "a River model learned from every purchase as it passed")
    await _show_learner(settings)
    _step("3", "a LightGBM ranker is trained on the first 80 % of time, exported to ONNX, and served")
    asked = await backfill_sessions(settings)
    options = TrainOptions(name=MODEL, origin="backfill", seed=1, promote=True, backfill=True)
    trained = await train_on_examples(settings, options)
    print_next_session(asked, trained, feature_set(settings))
    version = await publish_ranker(settings, MODEL, trained)
    await Registry(settings).promote(MODEL, version)
    _step("4", f"answers, with {MODEL}/{version} and the online model blended")
    async with aiohttp.ClientSession(server_url(settings)) as session:
        await show_answers(session, dataset.busiest_user(), f"{MODEL}/{version}", dataset.titles())


async def _publish(settings: Settings, kind: str, lines: Iterable[bytes], total: int | None) -> None:
    writer = BatchWriter(settings, client_id="demo")
    await writer.start()
    columns = (TextColumn(f"  {kind}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Bar(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
            task = bar.add_task(kind, total=total)
            await publish_lines(
                lines,
                writer,
                KINDS[kind].topic(Topics(settings.namespace)),
                lambda report: bar.update(task, completed=report.published),
                kind=KINDS[kind],
            )
    finally:
        await writer.stop()


async def _show_learner(settings: Settings) -> None:
    newest: dict[bytes, bytes | None] = {}
    async for records in read_topic(settings, await live_changelog(settings, "learner")):
        newest.update({record.key: record.value for record in records if record.key not in SYSTEM_KEYS})
    states = [decode(raw).online for raw in newest.values() if raw is not None]
    merged = OnlineState()
    for state in states:
        merged.examples += state.examples
        merged.positives += state.positives
        merged.log_loss_sum += state.log_loss_sum
        merged.positive_scores = _added(merged.positive_scores, state.positive_scores)
        merged.negative_scores = _added(merged.negative_scores, state.negative_scores)
    measured = quality(merged)
    out.print(
        f"  {measured.examples:,} examples, each predicted before it was learned from:"
        f" AUC {measured.auc:.3f}, log loss {measured.log_loss:.3f}"
    )


def _added(left: list[int], right: list[int]) -> list[int]:
    return [a + b for a, b in zip(left, right, strict=True)]


def _step(number: str, what: str) -> None:
    out.print(f"\n[bold cyan]{number}[/bold cyan] [bold]{what}[/bold]")


def _day(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).date().isoformat()
