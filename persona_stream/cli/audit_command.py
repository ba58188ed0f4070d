"""`persona-stream audit`: every table beside a fold of its source topic, key by key."""

import asyncio
import time
from collections.abc import Sequence

from persona_stream.audit.refold import Difference, TableAudit, audit_table, fields_that_differ
from persona_stream.cli.cluster import reachable, with_topic_partitions
from persona_stream.cli.console import err, out, print_table, quiet_libraries
from persona_stream.cli.progress_bar import progress_bar
from persona_stream.cli.running import connected
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.topics import TABLES
from persona_stream.worker.app import agent_specs

SHOWN_CHARS = 300

_COUNTS = ["keys", "differ", "in motion", "forgotten", "seconds"]


def run_audit(settings: Settings, tables: Sequence[str], *, limit: int) -> int:
    """Print what was compared and each key that differs, at most `limit` of them.

    Returns 1 if any key differs, or a table could not be audited.
    """
    quiet_libraries()
    unknown = sorted(set(tables) - set(TABLES))
    if unknown:
        raise ConfigError(f"there is no table {unknown[0]}.", hint=f"The tables: {', '.join(TABLES)}.")
    return asyncio.run(_audit(connected(settings), tables or TABLES, limit))


async def _audit(settings: Settings, tables: Sequence[str], limit: int) -> int:
    audits: list[TableAudit] = []
    rows: list[list[str]] = []
    settings = await with_topic_partitions(settings)
    async with reachable(settings):
        for spec in agent_specs(settings, with_examples=False):
            if spec.table not in tables:
                continue
            started_s = time.monotonic()
            with progress_bar(f"folding {spec.source} again") as on_progress:
                audits.append(await audit_table(settings, spec, on_progress))
            rows.append(_row(audits[-1], time.monotonic() - started_s))
    print_table(["table", *_COUNTS, ""], rows, right=frozenset(_COUNTS))
    differences = [difference for audit in audits for difference in audit.differences]
    for difference in differences[:limit]:
        _print_difference(difference)
    if len(differences) > limit:
        err.print(f"and {len(differences) - limit:,} more; --limit shows them.")
    return 1 if differences or any(audit.lost_records for audit in audits) else 0


def _row(audit: TableAudit, elapsed_s: float) -> list[str]:
    counts = (audit.keys, len(audit.differences), audit.in_motion, audit.forgotten)
    verdict = "differs" if audit.differences else "equal"
    if audit.lost_records:
        verdict = f"can't be audited: {audit.lost_records:,} records that it was folded from are gone"
    return [audit.table, *(f"{count:,}" for count in counts), f"{elapsed_s:.1f}", verdict]


def _print_difference(difference: Difference) -> None:
    where = f"{difference.table}, partition {difference.partition}, key {difference.key!r}"
    if difference.stored is None:
        out.print(f"{where}: missing from the table", markup=False)
    elif difference.folded is None:
        out.print(f"{where}: in the table, but no record of its source makes it", markup=False)
    for field, stored, folded in fields_that_differ(difference):
        out.print(f"{where}: {field}", markup=False)
        out.print(f"  in the table  {_short(stored)}\n  folded again  {_short(folded)}", markup=False)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}... ({len(text):,} characters)"
