"""Users and items folded from the events together: an item's events follow from the users' ones at once."""

import asyncio
import os
from collections.abc import Awaitable, Callable

from models.topic_reader import OnProgress
from persona_stream.rebuild.folding import Bounds, Folded, IntoItems, fold_source, fold_users
from persona_stream.rebuild.second_process import SecondProcess
from persona_stream.rebuild.snapshot import Snapshot, end_offsets, offsets_at
from persona_stream.vocabulary.config import Settings

APART_FROM = 100_000
"""From so many events on a second process helps: it takes a second to start."""
CLOCK_SLACK_MS = 10_000
"""How far the clocks of two brokers may be apart."""


async def fold_events(
    settings: Settings,
    users: Folded,
    items: Folded,
    ends: Bounds,
    *,
    until_ms: int,
    on_progress: OnProgress,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Fold the events into users, and what follows from each into items, up to before `ends`.

    `meanwhile` is awaited beside the last part of it, where there is nothing to do but to wait. Raises GenerationError
    where a second process has ended.
    """
    if sum(ends.values()) < APART_FROM or (os.cpu_count() or 1) == 1:
        into, before_s = IntoItems(items), items.seconds
        await fold_users(settings, users, ends, until_ms=until_ms, on_progress=on_progress, hand_on=into.fold)
        users.seconds -= items.seconds - before_s
        if meanwhile is not None:
            await meanwhile()
        return
    second = SecondProcess(settings, users, items, ends, until_ms)
    mine = {number: end for number, end in ends.items() if not second.takes(number)}
    await fold_users(settings, users, mine, until_ms=until_ms, on_progress=on_progress, hand_on=second.fold)
    finishing = asyncio.to_thread(second.finish)
    await (asyncio.gather(finishing, meanwhile()) if meanwhile is not None else finishing)


async def fold_what_came_since(
    settings: Settings, items: Folded, ends: Bounds, since: Bounds, on_progress: OnProgress
) -> None:
    """Item events of the topic from `since` on, up to before `ends`: they follow from later events than were folded.

    Among them may be some that were folded already, which the items know by their source offset.
    """
    for number, start in since.items():
        items.partitions[number].progress.offset = start - 1
    await fold_source(settings, items, ends, starts=since, until_ms=0, on_progress=on_progress)


async def since_users(settings: Settings, items_source: str, events_source: str, users: Snapshot) -> dict[int, int]:
    """From where on the item events' topic may tell of later events than `users` has.

    They were written after the users' progress was: after that of the partition, among those that have any events,
    which is the oldest.
    """
    ends = await end_offsets(settings, events_source)
    earliest_ms = min((held.written_ms for number, held in users.items() if ends[number]), default=0)
    return await offsets_at(settings, items_source, earliest_ms - CLOCK_SLACK_MS)
