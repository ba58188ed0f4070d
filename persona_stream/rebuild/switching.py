"""Which generation is live: making one so, going back, and deleting those that are not needed."""

from time import time_ns

from persona_stream.kafka.generations import Built, Change, History, write_change
from persona_stream.kafka.writer import BatchWriter
from persona_stream.rebuild.snapshot import log_starts, read_snapshot
from persona_stream.rebuild.writing import delete_generation
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import GenerationError
from persona_stream.vocabulary.topics import FIRST_GENERATION, Topics


async def register(settings: Settings, history: History, built: Built) -> None:
    """Note that a generation is there; what is live stays."""
    await _write(settings, Change(_now_ms(), "built", history.live(), built))


async def switch(settings: Settings, history: History, built: Built, *, is_new: bool) -> None:
    """Make a generation live. Raises GenerationError where it must not be."""
    if built.until_ms:
        raise GenerationError(
            f"generation {built.number} ends at a time of the past and can't be live.",
            hint=f"`persona-stream serve --generation {built.number}` answers from it.",
        )
    live = history.live() | dict.fromkeys(built.tables, built.number)
    await _check_sources(settings, history.live(), live)
    await _write(settings, Change(_now_ms(), "rebuild", live, built if is_new else None))


async def roll_back(settings: Settings, history: History) -> dict[str, int]:
    """Make live what was before. Raises GenerationError where there is nothing, or it can't go on."""
    live = history.before()
    if live is None:
        raise GenerationError("no generation was live before this one.", hint="`persona-stream rebuild` makes one.")
    there = {FIRST_GENERATION, *history.built()} - history.dropped()
    gone = sorted(set(live.values()) - there)
    if gone:
        raise GenerationError(f"generation {gone[0]} was live before, and is dropped.", hint="Rebuild instead.")
    await _check_sources(settings, history.live(), live)
    await _write(settings, Change(_now_ms(), "rollback", live))
    return live


async def drop(settings: Settings, history: History, number: int) -> None:
    """Delete a generation's topics. Raises GenerationError where it is live, or not there."""
    if number in history.live().values():
        raise GenerationError(f"generation {number} is live.", hint="Switch to another one first.")
    if number == FIRST_GENERATION:
        raise GenerationError("the first generation's topics are kept: workers are assigned partitions by them.")
    tables = history.generation(number).tables
    # Said first: a generation that is half deleted must not be thought to be there.
    await _write(settings, Change(_now_ms(), "drop", history.live(), dropped=number))
    await delete_generation(settings, number, tables)


async def _check_sources(settings: Settings, before: dict[str, int], after: dict[str, int]) -> None:
    """Refuse items that would have to read what their topic keeps no longer."""
    if before["items"] == after["items"]:
        return
    topics = Topics(settings.namespace)
    held = await read_snapshot(settings, topics.changelog("items", after["items"]))
    starts = await log_starts(settings, topics.item_events)
    gone = sum(max(0, start - held[number].folded) for number, start in starts.items())
    if gone:
        raise GenerationError(
            f"items of generation {after['items']} miss {gone:,} records that {topics.item_events} keeps no longer.",
            hint="`persona-stream rebuild` folds the events anew.",
        )


async def _write(settings: Settings, change: Change) -> None:
    writer = BatchWriter(settings, client_id=f"{settings.namespace}-rebuild")
    await writer.start()
    try:
        await write_change(writer, settings, change)
    finally:
        await writer.stop()


def _now_ms() -> int:
    return time_ns() // 1_000_000
