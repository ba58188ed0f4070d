"""`persona-stream features preview`: what features come to after some events, without Kafka."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from persona_stream.cli.console import err, print_table, utc
from persona_stream.cli.lines import stdin_file
from persona_stream.cli.progress_bar import progress_bar
from persona_stream.cli.publish import CHUNK_LINES, EVENTS, ITEMS, PROFILES, Kind, PublishReport, checked
from persona_stream.cli.rejects import print_rejects
from persona_stream.history.text_files import InputError, LineFile, open_lines
from persona_stream.in_process import InProcess
from persona_stream.serving.questions import Question
from persona_stream.stream.slices import LogRecord
from persona_stream.vocabulary.config import Settings


class Asked(Struct, frozen=True, kw_only=True):
    """The question, as it was typed. `events`: a file, or `-`."""

    events: str
    items: Path | None
    profiles: Path | None
    user: str
    ask: list[str]
    at_ms: int | None
    context: str
    slot: str


class _Event(Struct, frozen=True):
    ts_ms: int
    user: str
    line: bytes


def run_preview(settings: Settings, asked: Asked, *, as_json: bool) -> int:
    """Print a row a column and a column an item; the exit code is 1 where a line was rejected."""
    context, items = _context(asked.context), _items(asked.ask)
    reports: dict[str, PublishReport] = {}
    events = [_Event(event.ts, event.user, line) for event, line in _lines(asked.events, EVENTS, reports)]
    events.sort(key=lambda event: event.ts_ms)
    at_ms = _moment_ms(events, asked) if asked.at_ms is None else asked.at_ms
    before = [event for event in events if event.ts_ms < at_ms]
    system = InProcess(settings)
    _fold(system, before)
    _look_up(system, asked, reports)
    question = system.ask(asked.user, items, at_ms, ordered=True, context=context, slot=asked.slot)
    for name, report in reports.items():
        print_rejects(report, of=f" of {name}")
    show = _print_json if as_json else _print_table
    show(system, question, len(before))
    return 1 if any(report.rejected_total for report in reports.values()) else 0


def _fold(system: InProcess, events: list[_Event]) -> None:
    with progress_bar("folding events") as on_progress:
        for first in range(0, len(events), CHUNK_LINES):
            part = events[first : first + CHUNK_LINES]
            # Each was appended when it happened: none is late, none from the future.
            system.fold([LogRecord(first + at, e.ts_ms, e.user.encode(), e.line) for at, e in enumerate(part)])
            on_progress(first + len(part), len(events))


def _look_up(system: InProcess, asked: Asked, reports: dict[str, PublishReport]) -> None:
    if asked.items is not None:
        entries = [entry for entry, _ in _lines(str(asked.items), ITEMS, reports)]
        for entry in sorted(entries, key=lambda entry: entry.ts):
            system.put_item(entry.id, entry.attributes)
    if asked.profiles is not None:
        entries = [entry for entry, _ in _lines(str(asked.profiles), PROFILES, reports)]
        for entry in sorted(entries, key=lambda entry: entry.ts):
            system.put_traits(entry.user, entry.traits)


def _lines(source: str, kind: Kind, reports: dict[str, PublishReport]) -> Iterator[tuple[Any, bytes]]:
    report = PublishReport()
    reports["standard input" if source == "-" else source] = report
    with _opened(source) as file:
        while chunk := list(itertools.islice(file.lines, CHUNK_LINES)):
            yield from checked(chunk, kind, report)


@contextmanager
def _opened(source: str) -> Iterator[LineFile]:
    if source == "-":
        yield stdin_file()
        return
    with open_lines(Path(source)) as file:
        yield file


def _moment_ms(events: list[_Event], asked: Asked) -> int:
    """Just after the user's last event; without one, after the last of all."""
    theirs = [event.ts_ms for event in events if event.user == asked.user] or [event.ts_ms for event in events]
    if not theirs:
        raise InputError(f"{asked.events} holds no event, so there is no time to ask at.", hint="Give one with --at.")
    return theirs[-1] + 1


def _items(told: list[str]) -> list[str]:
    items = list(dict.fromkeys(item for some in told for item in some.split(",") if item))
    if not items:
        raise InputError("--ask names no item.", hint="As in --ask i1,i2.")
    return items


def _context(text: str) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InputError(
            f"--context {text[:80]} is no JSON object: {error}.", hint="""As in --context '{"country": "DE"}'."""
        ) from None


def _print_table(system: InProcess, question: Question, folded: int) -> None:
    names = system.engine.plan.features.names
    err.print(f"{question.user} at {utc(question.as_of_ms)}, after {folded:,} events", markup=False)
    rows = [[name, *map(_shown, column)] for name, column in zip(names, question.features.T.tolist(), strict=True)]
    print_table(["feature", *question.items], rows, right=frozenset(question.items))


def _print_json(system: InProcess, question: Question, folded: int) -> None:
    features = system.engine.plan.features
    columns = [[value if math.isfinite(value) else None for value in column] for column in question.features.T.tolist()]
    told = {
        "user": question.user,
        "as_of_ms": question.as_of_ms,
        "slot": question.slot,
        "context": dict(question.context),
        "events": folded,
        "hash": features.hash,
        "items": question.items,
        "features": dict(zip(features.names, columns, strict=True)),
    }
    print(json.dumps(told, ensure_ascii=False))


def _shown(value: float) -> str:
    return f"{round(value, 4):g}"
