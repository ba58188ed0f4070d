"""Co-visits: which items a user was with at about the same time.

A visit is a user with an item at a time. Its neighbours are the other items that the user was with in the WINDOW_MS
before and in the same millisecond (a basket), at most NEIGHBOURS_KEPT of them, chosen by hash: a sample that is the
same however the visits arrived. So a visit may be told of in parts, again, and in any order: the union of what was
told, sampled again, is the sample of all.

Visits of the user's latest millisecond are not told of each other before time has moved on: until then more of the
basket may come, and each one that comes would be news to all of it.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence

from tables.sketches import name_hash
from tables.users import UserState, Visit, recent_items

WINDOW_MS = 900_000
"""Two items of one user within a quarter of an hour belong together."""
NEIGHBOURS_KEPT = 5
RECENT_ITEMS = 5
"""How many of the user's latest items an item's co-visits are looked up for."""

_MASK = (1 << 64) - 1
_SPREAD = 0x9E3779B97F4A7C15
"""Odd, from the golden ratio: times one millisecond apart choose differently."""

Told = tuple[int, str, list[str]]
"""(event time in ms, item, neighbours): more of the neighbours of a visit."""


def co_visited(state: UserState) -> list[str]:
    """The items whose co-visits count for this user: the latest few, newest first."""
    return recent_items(state, RECENT_ITEMS)


def sample(items: Collection[str], ts_ms: int) -> list[str]:
    """The neighbours to keep of a visit at `ts_ms`, of distinct items; sorted."""
    return sorted(items if len(items) <= NEIGHBOURS_KEPT else _ranked(items, ts_ms)[:NEIGHBOURS_KEPT])


def neighbours(visits: list[Visit], item: str, ts_ms: int) -> list[str]:
    """What can be told of a new visit, given those before it (oldest first)."""
    newest_ms, since_ms = visits[-1][0], ts_ms - WINDOW_MS
    if newest_ms < since_ms:
        return []
    first, end = bisect_left(visits, (since_ms,)), len(visits)
    if ts_ms <= newest_ms:
        end = bisect_left(visits, (ts_ms + (ts_ms < newest_ms),))
    near = {visit[1] for visit in visits[first:end]}
    near.discard(item)
    return sample(near, ts_ms)


def told_by(visits: list[Visit], item: str, ts_ms: int) -> Sequence[Told]:
    """What a new visit has to tell of those that came before it: it was late, or it ends the time of a basket."""
    newest_ms = visits[-1][0]
    if ts_ms < newest_ms:
        first, end = bisect_left(visits, (ts_ms,)), bisect_left(visits, (ts_ms + WINDOW_MS + 1,))
        return [(at_ms, other, [item]) for at_ms, other, _ in visits[first:end] if other != item]
    if ts_ms > newest_ms and len(visits) > 1 and visits[-2][0] == newest_ms:
        return list(_basket(visits, newest_ms))
    return ()


def _basket(visits: list[Visit], ts_ms: int) -> Iterator[Told]:
    start = bisect_left(visits, (ts_ms,))
    basket = dict.fromkeys(visit[1] for visit in visits[start:])
    around = {visit[1] for visit in visits[bisect_left(visits, (ts_ms - WINDOW_MS,)) :]}
    # One more than is kept: an item is no neighbour of its own.
    chosen = _ranked(around, ts_ms)[: NEIGHBOURS_KEPT + 1]
    for item in basket:
        near = sorted([name for name in chosen if name != item][:NEIGHBOURS_KEPT])
        if near:
            yield ts_ms, item, near


def _ranked(items: Collection[str], ts_ms: int) -> list[str]:
    salt = ts_ms * _SPREAD & _MASK
    by_rank = {name_hash(item) ^ salt: item for item in items}
    return [by_rank[rank] for rank in sorted(by_rank)]
