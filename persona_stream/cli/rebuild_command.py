"""`persona-stream rebuild`: tables folded again beside the live ones, verified, switched over, and switched back."""

import asyncio
import gc
from collections.abc import Sequence

from msgspec import Struct

from persona_stream.cli.cluster import reachable, with_topic_partitions
from persona_stream.cli.console import err, out, print_table, quiet_libraries, utc
from persona_stream.cli.progress_bar import progress_bar
from persona_stream.cli.running import connected
from persona_stream.kafka.generations import Built, History, read_history
from persona_stream.rebuild import switching
from persona_stream.rebuild.build import Outcome, Rebuild, Wanted
from persona_stream.rebuild.compare import Comparison
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.topics import TABLES

SHOWN_CHARS = 300
SHOWN_KEYS = 5


class RebuildOptions(Struct, frozen=True, kw_only=True):
    """What to rebuild, and what to do with it."""

    tables: Sequence[str] = ()
    """Empty: all."""
    until_ms: int = 0
    lateness_ms: int | None = None
    switch: bool = True
    accept: bool = False


def run_rebuild(settings: Settings, options: RebuildOptions) -> int:
    """Build a generation, verify it and make it live; returns 1 where it is not as the live one, and not accepted."""
    quiet_libraries()
    unknown = sorted(set(options.tables) - set(TABLES))
    if unknown:
        raise ConfigError(f"there is no table {unknown[0]}.", hint=f"The tables: {', '.join(TABLES)}.")
    # All that is made stays: collecting would visit it again and again. It is a process of its own.
    gc.disable()
    return asyncio.run(_rebuild(connected(settings), options))


def run_rebuild_list(settings: Settings) -> int:
    """Print a row a generation."""
    quiet_libraries()
    history = asyncio.run(_history(connected(settings)))
    live = history.live()
    first = [table for table in TABLES if live[table] == 1]
    rows = [["1", "all", "-", "-", "-", _state(first, 1, history), ""]]
    for number, built in sorted(history.built().items()):
        served = [table for table in TABLES if live[table] == number]
        rows.append(
            [
                str(number),
                ", ".join(built.tables) if len(built.tables) < len(TABLES) else "all",
                utc(built.at_ms),
                f"{built.events:,}",
                f"{built.keys:,}",
                _state(served, number, history),
                _remark(built),
            ]
        )
    headings = ["generation", "tables", "built", "records", "keys", "state", ""]
    print_table(headings, rows, right=frozenset({"generation", "records", "keys"}))
    return 0


def run_rollback(settings: Settings) -> int:
    """Make live again what was before."""
    quiet_libraries()
    live = asyncio.run(_roll_back(connected(settings)))
    out.print(
        f"live: {_described(live)}. Workers fold on from where that stands; servers follow when it has caught up."
    )
    return 0


def run_switch(settings: Settings, number: int) -> int:
    """Make a generation live that is there."""
    quiet_libraries()
    asyncio.run(_switch_to(connected(settings), number))
    out.print(f"generation {number} is live.")
    return 0


def run_drop(settings: Settings, number: int) -> int:
    """Delete a generation."""
    quiet_libraries()
    asyncio.run(_drop(connected(settings), number))
    out.print(f"generation {number} is deleted.")
    return 0


async def _rebuild(settings: Settings, options: RebuildOptions) -> int:
    settings = await with_topic_partitions(settings)
    wanted = Wanted(tables=options.tables or TABLES, until_ms=options.until_ms, lateness_ms=options.lateness_ms)
    async with reachable(settings):
        history = await read_history(settings)
        outcome = await Rebuild(settings, history, wanted, progress_bar).run()
        _report(outcome)
        built = outcome.built
        # Others may have switched meanwhile.
        history = await read_history(settings)
        if options.switch and not built.until_ms and (outcome.may_be_switched or options.accept):
            await switching.switch(settings, history, built, is_new=True)
            out.print(f"generation {built.number} is live; `persona-stream rebuild --rollback` goes back.")
            return 0
        await switching.register(settings, history, built)
    return _not_switched(outcome, options)


def _not_switched(outcome: Outcome, options: RebuildOptions) -> int:
    built = outcome.built
    if built.until_ms:
        number, until = built.number, utc(built.until_ms)
        out.print(f"generation {number} is the state as of {until}: `serve --generation {number}` answers from it.")
        return 0
    if outcome.may_be_switched:
        out.print(f"generation {built.number} is kept; `persona-stream rebuild --switch {built.number}` makes it live.")
        return 0
    err.print(
        f"generation {built.number} is not as the live one, and was not switched to. If a fold was changed on purpose, "
        f"`persona-stream rebuild --switch {built.number}` makes it live; `rebuild --drop {built.number}` deletes it."
    )
    return 0 if options.accept else 1


def _report(outcome: Outcome) -> None:
    rows = []
    for table, found in zip(outcome.tables, outcome.comparisons, strict=True):
        rate = table.records / table.seconds if table.seconds else 0.0
        rows.append(
            [
                found.table,
                f"{table.records:,}",
                f"{found.keys:,}",
                f"{table.seconds:.1f}",
                f"{rate:,.0f}",
                f"{found.digest:016x}",
                _verdict(found),
            ]
        )
    counts = ["records", "keys", "seconds", "records/s"]
    print_table(["table", *counts, "digest", "beside the live one"], rows, right=frozenset(counts))
    for found in outcome.comparisons:
        for difference in found.differences[:SHOWN_KEYS]:
            where = f"{difference.table}, partition {difference.partition}, key {difference.key!r}"
            if difference.live is None or difference.folded is None:
                lacking = "live" if difference.live is None else "folded"
                out.print(f"{where}: missing from the {lacking} table", markup=False)
                continue
            for name, live, folded in difference.fields():
                out.print(f"{where}: {name}", markup=False)
                out.print(f"  live          {_short(live)}\n  folded again  {_short(folded)}", markup=False)
    out.print(f"built in {outcome.seconds:.1f} s")


def _verdict(found: Comparison) -> str:
    if found.failure:
        return f"not compared: {found.failure}"
    notes = []
    if found.in_motion:
        notes.append(f"{found.in_motion:,} keys in motion")
    if found.taken_over:
        notes.append(f"{found.taken_over:,} keys taken over")
    if found.differing:
        notes.insert(0, f"{found.differing:,} keys differ")
    elif found.digest == found.live_digest:
        notes.insert(0, "equal")
    else:
        notes.insert(0, f"equal values in other bytes ({found.live_digest:016x})")
    return "; ".join(notes)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}... ({len(text):,} characters)"


def _state(served: list[str], number: int, history: History) -> str:
    if served:
        return "live" if len(served) == len(TABLES) else f"live: {', '.join(served)}"
    before = history.before()
    return "kept for rollback" if before is not None and number in before.values() else "kept"


def _remark(built: Built) -> str:
    notes = []
    if built.until_ms:
        notes.append(f"as of {utc(built.until_ms)}")
    if built.lateness_ms is not None:
        notes.append(f"lateness {built.lateness_ms} ms")
    if built.differing:
        notes.append(f"{built.differing:,} keys differed from the live one")
    return "; ".join(notes)


def _described(live: dict[str, int]) -> str:
    return ", ".join(f"{table} {number}" for table, number in live.items())


async def _history(settings: Settings) -> History:
    async with reachable(settings):
        return await read_history(await with_topic_partitions(settings))


async def _roll_back(settings: Settings) -> dict[str, int]:
    settings = await with_topic_partitions(settings)
    async with reachable(settings):
        return await switching.roll_back(settings, await read_history(settings))


async def _switch_to(settings: Settings, number: int) -> None:
    settings = await with_topic_partitions(settings)
    async with reachable(settings):
        history = await read_history(settings)
        await switching.switch(settings, history, history.generation(number), is_new=False)


async def _drop(settings: Settings, number: int) -> None:
    settings = await with_topic_partitions(settings)
    async with reachable(settings):
        await switching.drop(settings, await read_history(settings), number)
