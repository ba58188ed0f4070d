"""`persona-stream train`: from the logged examples to a ranker that is served."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from models.ranker import Ranker
from models.registry import Registry
from models.train import (
    PERSONAL_FREQUENCY,
    POPULARITY,
    JudgedRanker,
    Measured,
    TrainedRanker,
    TrainingReport,
    read_examples,
    train_ranker,
)
from persona_stream.backfill import ScoreRows, SessionQuestion, backfill, by_feature, next_session_ndcg
from persona_stream.cli.cluster import reachable
from persona_stream.cli.console import out, print_table, quiet_libraries
from persona_stream.cli.progress_bar import progress_bar
from persona_stream.cli.running import connected
from persona_stream.example_file import read_example_file
from persona_stream.kafka.writer import BatchWriter
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from tables.feature_set import FeatureSet
from tables.features.plan import feature_set

MAX_SESSIONS = 4000
"""Enough to order by; more makes training longer, not much better."""


class TrainOptions(Struct, frozen=True, kw_only=True):
    """How to train. `promote` None: only if it ranks later time better than the simple rules."""

    name: str
    origin: str | None
    seed: int
    promote: bool | None
    backfill: bool
    """Replay the event log first, and make examples of its sessions."""
    examples: Path | None = None
    """Train on this file rather than on the topic."""


def run_train(settings: Settings, options: TrainOptions) -> int:
    """Train, judge, publish and maybe promote. Raises ModelError where there is too little to train on."""
    if options.examples is not None and options.backfill:
        raise ConfigError("--backfill makes examples in the topic, and --examples trains on a file.", hint="Give one.")
    quiet_libraries()
    return asyncio.run(_train(connected(settings), options))


async def _train(settings: Settings, options: TrainOptions) -> int:
    async with reachable(settings):
        asked = await backfill_sessions(settings) if options.backfill else []
        trained = await train_on_examples(settings, options)
        print_report(trained.report)
        if asked:
            print_next_session(asked, trained, feature_set(settings))
        version = await publish_ranker(settings, options.name, trained)
        out.print(f"published model {options.name} {version} ({len(trained.onnx):,} bytes)")
        if options.promote if options.promote is not None else beats_simple_rules(trained.report):
            await Registry(settings).promote(options.name, version)
            out.print(f"{options.name} {version} is live; servers take it up at once.")
        else:
            out.print(f"not promoted; to serve it: persona-stream models promote {version} --name {options.name}")
    return 0


async def backfill_sessions(settings: Settings) -> list[SessionQuestion]:
    """Replay the event log, write its sessions as examples, and return them; shows progress."""
    writer = BatchWriter(settings, client_id="backfill")
    await writer.start()
    try:
        with progress_bar("reading the log") as on_read, progress_bar("replaying the log") as on_fold:
            return await backfill(settings, writer, max_sessions=MAX_SESSIONS, on_read=on_read, on_fold=on_fold)
    finally:
        await writer.stop()


async def train_on_examples(settings: Settings, options: TrainOptions) -> JudgedRanker:
    """Train on the examples logged, or on a file of them; shows progress. Raises ModelError where there are too few."""
    origins = None if options.origin is None else {options.origin}
    if options.examples is not None:
        examples = read_example_file(options.examples, feature_set(settings), origins)
    else:
        with progress_bar("reading examples") as on_progress:
            examples = await read_examples(settings, origins=origins, on_progress=on_progress)
    with progress_bar("growing trees") as on_progress:
        return await asyncio.to_thread(
            train_ranker, examples, feature_set(settings), seed=options.seed, on_progress=on_progress
        )


def print_next_session(asked: Sequence[SessionQuestion], trained: JudgedRanker, features: FeatureSet) -> None:
    """How well all candidates are ordered when a session of later time begins, judged by all that was chosen in it."""
    held_out = [question for question in asked if question.ts_ms >= trained.report.held_out_from_ms]
    if not held_out:
        return
    ways: dict[str, ScoreRows | None] = {
        "this ranker": Ranker(trained.onnx, features).score,
        "personal frequency": by_feature(features, PERSONAL_FREQUENCY),
        "popularity": by_feature(features, POPULARITY),
    }
    out.print(f"what users chose next, in {len(held_out):,} sessions of later weeks, from all candidates found:")
    measured = [(name, next_session_ndcg(held_out, score)) for name, score in ways.items() if score is not None]
    print_table(
        ["", "NDCG@10", "95 %"],
        [[name, f"{ndcg.mean:.3f}", f"{ndcg.low:.3f} to {ndcg.high:.3f}"] for name, ndcg in measured],
    )


async def publish_ranker(settings: Settings, name: str, trained: TrainedRanker) -> str:
    """Add `trained` to the registry under the next free version, which is returned."""
    registry = Registry(settings)
    version = (await registry.load()).next_version(name)
    await registry.publish(trained.record(name, version, time.time_ns() // 1_000_000))
    return version


def beats_simple_rules(report: TrainingReport) -> bool:
    """Whether its mean NDCG@10 on later time is above that of popularity and of personal frequency, where measured."""
    rules = [rule for rule in (report.popularity, report.personal_frequency) if rule is not None]
    # With no rule to compare it with, nothing says that it is any good.
    return bool(rules) and all(report.ranker.ndcg.mean > rule.ndcg.mean for rule in rules)


def print_report(report: TrainingReport) -> None:
    """How the ranker does on time it has not seen, beside the simple rules on the same lists."""
    out.print(
        f"trained on {report.train_groups:,} lists ({report.train_rows:,} rows),"
        f" judged on the {report.held_out_groups:,} of later time:"
    )
    ways = {
        "this ranker": report.ranker,
        "personal frequency": report.personal_frequency,
        "popularity": report.popularity,
    }
    rows = [[name, *_cells(measured)] for name, measured in ways.items() if measured is not None]
    print_table(["", "NDCG@10", "95 %", "HR@10", "95 %"], rows)


def _cells(measured: Measured) -> list[str]:
    return [
        text
        for interval in (measured.ndcg, measured.hit_rate)
        for text in (f"{interval.mean:.3f}", f"{interval.low:.3f} to {interval.high:.3f}")
    ]
