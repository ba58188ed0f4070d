"""`persona-stream dlq`: what was put aside and why, and publishing it again once the cause is mended."""

import asyncio

from aiokafka import ConsumerRecord

from agents.emissions import KEY
from persona_stream.cli.cluster import reachable
from persona_stream.cli.console import err, out, print_table, quiet_libraries, utc
from persona_stream.cli.dlq import Letter, LetterError, Replay, Wanted, contents, header, open_letters, original_headers
from persona_stream.cli.running import connected
from persona_stream.kafka.writer import BatchWriter
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics

SHOWN_BYTES = 4096


def run_list(settings: Settings, wanted: Wanted, *, late: bool) -> int:
    """Print how many there are by topic and reason, when, and one of each."""
    quiet_libraries()
    letters = asyncio.run(_open(connected(settings), wanted, late=late))
    if not letters:
        err.print("none.")
        return 0
    groups: dict[tuple[str, str], list[Letter]] = {}
    for letter in letters:
        groups.setdefault((letter.topic, letter.reason), []).append(letter)
    rows = [_row(group) for group in sorted(groups.values(), key=lambda group: -len(group))]
    headings = ["topic", "reason", "letters", "first", "last", "the last one", "why"]
    print_table(headings, rows, right=frozenset({"letters"}))
    return 0


def run_show(settings: Settings, origin: str) -> int:
    """Print one letter with its headers and bytes. Raises LetterError where there is none."""
    quiet_libraries()
    letter, record = asyncio.run(_one(connected(settings), origin))
    out.print(f"origin   {letter.origin}\nreason   {letter.reason}: {letter.message}", markup=False)
    out.print(f"aside    {utc(letter.put_aside_ms)}")
    for name, value in original_headers(record):
        out.print(f"header   {name}: {_printable(value)}", markup=False)
    out.print(f"key      {_printable(header(record, KEY)) or '(none)'}", markup=False)
    raw = record.value or b""
    out.print(f"value    {len(raw):,} bytes\n{_printable(raw[:SHOWN_BYTES])}", markup=False)
    return 0


def run_replay(settings: Settings, wanted: Wanted, *, rekey: bool, dry_run: bool) -> int:
    """Publish letters again and print how many."""
    quiet_libraries()
    letters, published = asyncio.run(_replay(connected(settings), wanted, rekey=rekey, dry_run=dry_run))
    if dry_run:
        out.print(f"{len(letters):,} letters would be published again; without --dry-run they are.")
    else:
        out.print(f"published {published:,} letters again. Those that still can't be used come back as new letters.")
    return 0


async def _open(settings: Settings, wanted: Wanted, *, late: bool) -> list[Letter]:
    topics = Topics(settings.namespace)
    async with reachable(settings):
        return await open_letters(settings, topics.late if late else topics.deadletter, wanted)


async def _one(settings: Settings, origin: str) -> tuple[Letter, ConsumerRecord]:
    topics = Topics(settings.namespace)
    async with reachable(settings):
        for topic in (topics.deadletter, topics.late):
            letters = await open_letters(settings, topic, Wanted(origins=frozenset({origin})))
            if letters:
                found = [pair async for pairs in contents(settings, topic, letters) for pair in pairs]
                return found[0]
    raise LetterError(f"no open letter has the origin {origin}.", hint="`persona-stream dlq list` names some.")


async def _replay(settings: Settings, wanted: Wanted, *, rekey: bool, dry_run: bool) -> tuple[list[Letter], int]:
    letters = await _open(settings, wanted, late=False)
    published = 0
    if dry_run or not letters:
        return letters, published
    writer = BatchWriter(settings, client_id="persona-dlq")
    await writer.start()
    try:
        replay = Replay(settings, writer, rekey=rekey)
        async for pairs in contents(settings, Topics(settings.namespace).deadletter, letters):
            await replay.publish(pairs)
            published += len(pairs)
    finally:
        await writer.stop()
    return letters, published


def _row(group: list[Letter]) -> list[str]:
    first, last = group[0], group[-1]
    times = [utc(first.put_aside_ms), utc(last.put_aside_ms)]
    return [last.topic, last.reason, f"{len(group):,}", *times, last.origin, last.message]


def _printable(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
