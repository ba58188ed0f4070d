"""`persona-stream skew`: logged features beside those that the log gives today, once or as a job."""

import asyncio
import math
import time
from datetime import timedelta

import msgspec
from msgspec import Struct

from persona_stream.cli.cluster import reachable, with_topic_partitions
from persona_stream.cli.console import err, out, print_table, quiet_libraries
from persona_stream.cli.progress_bar import progress_bar
from persona_stream.cli.running import connected
from persona_stream.skew.check import check_skew
from persona_stream.skew.reasons import MEANINGS
from persona_stream.skew.report import FeatureSkew, Report
from persona_stream.skew.sample import LAST, Wanted
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from tables.features.plan import plan_of

_COUNTS = ["rows", "decisions", "largest", "logged", "recomputed"]


class SkewOptions(Struct, frozen=True):
    """As given on the command line."""

    sample: int
    since: timedelta | None
    last: int | None
    seed: int
    every: timedelta | None
    as_json: bool


def run_skew(settings: Settings, options: SkewOptions) -> int:
    """Print what differs, and return 1 if anything does; as a job, check until stopped and return 0.

    Raises ConfigError where the options don't go together, and NoDecisionsError where there is nothing to compare.
    """
    _check(options)
    plan_of(settings)
    quiet_libraries()
    settings = asyncio.run(_with_partitions(connected(settings)))
    if options.every is not None:
        from persona_stream.skew.run import run_job

        run_job(settings, _wanted(options, time.time()), every_s=options.every.total_seconds(), since=options.since)
        return 0
    started_s = time.monotonic()
    report = asyncio.run(_once(settings, _wanted(options, time.time())))
    if options.as_json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        _print(report)
        err.print(f"{report.records_folded:,} records folded in {time.monotonic() - started_s:.1f} s")
    return 0 if report.is_equal else 1


def _check(options: SkewOptions) -> None:
    if options.since is not None and options.last is not None:
        raise ConfigError("--since and --last don't go together.", hint="Give one of them.")
    if options.every is not None and (options.last is not None or options.as_json):
        raise ConfigError(
            "--every goes with --since, and not with --last or --json.", hint="A job tells by /metrics and its log."
        )
    for name, given in (("--sample", options.sample), ("--last", options.last)):
        if given is not None and given < 1:
            raise ConfigError(f"{name} must be at least 1, it is {given}.")
    for name, span in (("--since", options.since), ("--every", options.every)):
        if span is not None and span <= timedelta():
            raise ConfigError(f"{name} must be a time such as 10m or 1h.")


def _wanted(options: SkewOptions, now_s: float) -> Wanted:
    since_ms = None if options.since is None else int(1000 * (now_s - options.since.total_seconds()))
    return Wanted(sample=options.sample, since_ms=since_ms, last=options.last or LAST, seed=options.seed)


async def _with_partitions(settings: Settings) -> Settings:
    async with reachable(settings):
        return await with_topic_partitions(settings)


async def _once(settings: Settings, wanted: Wanted) -> Report:
    async with reachable(settings):
        return await check_skew(settings, wanted, progress_bar)


def _print(report: Report) -> None:
    out.print(
        f"{report.sampled:,} of {report.found:,} decisions sampled: {report.compared:,} compared, {report.rows:,} rows."
    )
    for reason, count in report.skipped.items():
        out.print(f"{count:,} skipped, {reason}: {MEANINGS[reason]}.", markup=False)
    if report.features:
        headings = ["feature", *_COUNTS, "decision", "item"]
        print_table(headings, [_row(one) for one in report.features], right=frozenset(_COUNTS))
        worst = report.features[0]
        out.print(
            f"{len(report.features):,} features are not as logged. Look at one answer whole:"
            f" persona-stream explain {worst.decision}",
            markup=False,
        )
    elif report.compared:
        out.print("every feature is as logged.")
    else:
        out.print("nothing could be compared.")


def _row(one: FeatureSkew) -> list[str]:
    return [
        one.feature,
        f"{one.rows:,}",
        f"{one.decisions:,}",
        "missing" if math.isinf(one.largest) else f"{one.largest:.6g}",
        f"{one.logged:.6g}",
        f"{one.recomputed:.6g}",
        one.decision,
        one.item,
    ]
