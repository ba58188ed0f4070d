"""`persona-stream audit`: everything that holds a table's state, beside a fold of the table's source topic."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import aiohttp
import msgspec
from msgspec import Struct

from persona_stream.audit.findings import CHANGELOG, Audit, Difference, sides
from persona_stream.audit.holder import Holder, HolderError, Place
from persona_stream.audit.processes import audit_processes
from persona_stream.audit.redis_mirror import REDIS, audit_redis
from persona_stream.audit.refold import audit_table
from persona_stream.cli.cluster import reachable, with_topic_partitions
from persona_stream.cli.console import err, out, print_table, quiet_libraries
from persona_stream.cli.progress_bar import progress_bar
from persona_stream.cli.running import connected, find_running
from persona_stream.kafka.generations import read_history
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.topics import TABLES
from persona_stream.worker.app import agent_specs

SHOWN_CHARS = 300

_COUNTS = ["keys", "differ", "in motion", "forgotten", "seconds"]


class AuditOptions(Struct, frozen=True):
    """What is asked for; tables, servers and workers: none named means all, and those of this home."""

    tables: Sequence[str]
    servers: Sequence[str]
    workers: Sequence[str]
    limit: int
    as_json: bool
    redis: bool | None = None
    """Whether Redis is compared; None: if the settings name one."""


class Report(Struct):
    """What `--json` prints."""

    audits: list[Audit]
    not_reached: list[str]
    not_held: list[str]
    """Partitions that no worker holds of those that were reached."""


def run_audit(settings: Settings, options: AuditOptions) -> int:
    """Print what was compared and each key that differs, at most `limit` of them.

    Returns 1 if any key differs, a table could not be audited, or a process that was named was not reached.
    """
    quiet_libraries()
    unknown = sorted(set(options.tables) - set(TABLES))
    if unknown:
        raise ConfigError(f"there is no table {unknown[0]}.", hint=f"The tables: {', '.join(TABLES)}.")
    if options.redis and not settings.redis_url:
        raise ConfigError("no Redis is known.", hint="Set PERSONA_REDIS_URL, such as redis://127.0.0.1:6379/0.")
    report = asyncio.run(_audit(connected(settings), options))
    if options.as_json:
        out.print(msgspec.json.encode(report).decode(), markup=False)
    else:
        _print(report, options.limit)
    named_in_vain = bool(report.not_reached) and _are_named(options)
    failed = any(audit.differing or audit.failure for audit in report.audits)
    return 1 if failed or named_in_vain else 0


def _are_named(options: AuditOptions) -> bool:
    return bool(options.servers or options.workers)


async def _audit(settings: Settings, options: AuditOptions) -> Report:
    settings = await with_topic_partitions(settings)
    report = Report([], [], [])
    wanted = options.tables or TABLES
    async with reachable(settings), aiohttp.ClientSession() as session:
        async for audit in _audit_changelogs(settings, wanted):
            report.audits.append(audit)
        holders = []
        for place in _places(settings, options):
            holder = Holder(place, session)
            try:
                await holder.holdings()
                holders.append(holder)
            except HolderError as error:
                report.not_reached.append(error.message)
        async for audit in audit_processes(settings, holders, wanted):
            report.audits.append(audit)
        report.not_held = not_held(settings, report.audits)
        if options.redis is not False and settings.redis_url:
            async for audit in audit_redis(settings, wanted):
                report.audits.append(audit)
    return report


async def _audit_changelogs(settings: Settings, tables: Sequence[str]) -> AsyncIterator[Audit]:
    history = await read_history(settings)
    live, built = history.live(), history.built()
    for spec in agent_specs(settings, with_examples=False):
        if spec.table not in tables:
            continue
        number = live[spec.table]
        if number in built and built[number].lateness_ms is not None:
            told = f"generation {number} was folded with another lateness than the workers have"
            yield Audit(spec.table, failure=told)
            continue
        started_s = time.monotonic()
        with progress_bar(f"folding {spec.source} again") as on_progress:
            audit = await audit_table(settings, spec, live, on_progress)
        audit.seconds = time.monotonic() - started_s
        yield audit


def not_held(settings: Settings, audits: Sequence[Audit]) -> list[str]:
    """Partitions of a table that no worker was asked for, where any was asked for others."""
    held: dict[str, set[int]] = {}
    for audit in audits:
        if audit.partition is not None:
            held.setdefault(audit.table, set()).add(audit.partition)
    every = range(settings.partitions)
    return [f"{table}/{number}" for table, mine in held.items() for number in every if number not in mine]


def _places(settings: Settings, options: AuditOptions) -> list[Place]:
    if _are_named(options):
        return [
            *(Place("worker", url.rstrip("/")) for url in options.workers),
            *(Place("server", url.rstrip("/")) for url in options.servers),
        ]
    running = find_running(settings.home)
    if running is None:
        return []
    return [
        *([Place("worker", running.worker_url)] if running.worker_url else []),
        *([Place("server", running.url)] if running.url else []),
    ]


def _print(report: Report, limit: int) -> None:
    print_table(["table", "in", *_COUNTS, ""], [_row(audit) for audit in report.audits], right=frozenset(_COUNTS))
    for reason in report.not_reached:
        err.print(f"not compared: {reason}", markup=False)
    if report.not_held:
        err.print(f"held by no worker that was compared: {', '.join(report.not_held)}", markup=False)
    if all(audit.holder in {CHANGELOG, REDIS} for audit in report.audits):
        err.print("no worker or server was compared: none runs for this home; name them with --worker and --server.")
    differences = [difference for audit in report.audits for difference in audit.differences]
    for difference in differences[:limit]:
        _print_difference(difference)
    left = sum(audit.differing for audit in report.audits) - len(differences[:limit])
    if left > 0:
        err.print(f"and {left:,} more; --limit shows them.")


def _row(audit: Audit) -> list[str]:
    counts = (audit.keys, audit.differing, audit.in_motion, audit.forgotten)
    verdict = "differs" if audit.differing else "equal"
    if audit.failure:
        verdict = f"can't be audited: {audit.failure}"
    where = audit.holder if audit.partition is None else f"{audit.holder} partition {audit.partition}"
    return [audit.table, where, *(f"{count:,}" for count in counts), f"{audit.seconds:.1f}", verdict]


def _print_difference(difference: Difference) -> None:
    partition = "" if difference.partition is None else f", partition {difference.partition}"
    where = f"{difference.holder}: {difference.table}{partition}, key {difference.key!r}"
    if difference.note or not difference.fields:
        out.print(f"{where}: {difference.note or 'differs'}", markup=False)
    right = "folded again" if difference.holder == CHANGELOG else "in the changelog"
    for field, held, expected in sides(difference):
        out.print(f"{where}: {field}", markup=False)
        if difference.held is not None:
            out.print(f"  held  {_short(held)}", markup=False)
        out.print(f"  {right}  {_short(expected)}", markup=False)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}... ({len(text):,} characters)"
