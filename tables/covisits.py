"""Co-visits: which items a user was with at about the same time.

A visit is a user with an item at a time. Its neighbours are the other items that the user was with in the WINDOW_MS
before and in the same millisecond (a basket), at most NEIGHBOURS_KEPT of them, chosen by hash: a sample that is the
same however the visits arrived. So a visit may be told of in parts, again, and in any order: the union of what was
told, sampled again, is the sample of all.

Items are told of by a hash of their names: 8 bytes each, which are compared and copied by the column.

A late visit is told to the visits behind it, but only where it may be in their samples: whoever has hundreds of visits
in a quarter of an hour (a bot, a shared account) would otherwise have all of them told of each one that comes late.

Visits of the user's latest millisecond are not told of each other before time has moved on: until then more of the
basket may come, and each one that comes would be news to all of it.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tables.sketches import NAME_HASHES
from tables.users import UserState, recent_items
from tables.visits import Visit, latest_distinct

WINDOW_MS = 900_000
"""Two items of one user within a quarter of an hour belong together."""
NEIGHBOURS_KEPT = 5
RECENT_ITEMS = 5
"""How many of the user's latest items an item's co-visits are looked up for."""

_TOGETHER = 64
"""So many later visits are looked at together: what is in the windows of all of them is held against a late one."""

_MASK = (1 << 64) - 1
SPREAD = 0x9E3779B97F4A7C15
"""Odd, from the golden ratio: times it, numbers that follow each other (times, offsets) choose differently."""

Told = tuple[int, str, bytes]
"""(event time in ms, item, neighbours): more of the neighbours of a visit."""


def co_visited(state: UserState) -> list[str]:
    """The items whose co-visits count for this user: the latest few, newest first."""
    return recent_items(state, RECENT_ITEMS)


def co_visited_hashes(state: UserState) -> bytes:
    """Those, packed."""
    return _packed(latest_distinct(reversed(state.visit_hashes), RECENT_ITEMS))


def packed(names: Iterable[str]) -> bytes:
    """The hashes of some names as they are told and kept: uint64, one after another."""
    return _packed([NAME_HASHES[name] for name in names])


def sample(hashes: Iterable[int], ts_ms: int) -> bytes:
    """The neighbours to keep of a visit at `ts_ms`, of distinct hashes of items; packed."""
    return _packed(_ranked(hashes, ts_ms, NEIGHBOURS_KEPT))


def neighbours(state: UserState, item: str, ts_ms: int) -> bytes:
    """What can be told of a new visit, given those before it, of which there are some."""
    visits = state.visits
    newest_ms, end = visits[-1][0], len(visits)
    if ts_ms <= newest_ms:
        end = bisect_left(visits, (ts_ms + (ts_ms < newest_ms),))
    near = set(state.visit_hashes[bisect_left(visits, (ts_ms - WINDOW_MS,), 0, end) : end])
    near.discard(NAME_HASHES[item])
    return sample(near, ts_ms)


def told_by(state: UserState, item: str, ts_ms: int) -> Sequence[Told]:
    """What a new visit has to tell of those that came before it: it was late, or it ends the time of a basket."""
    visits = state.visits
    newest_ms = visits[-1][0]
    if ts_ms < newest_ms:
        first, end = bisect_left(visits, (ts_ms,)), bisect_left(visits, (ts_ms + WINDOW_MS + 1,))
        behind = visits[first:end]
        if len(behind) > NEIGHBOURS_KEPT:
            behind = list(_that_may_sample(item, behind, state))
        near = packed([item])
        return [(at_ms, other, near) for at_ms, other, _ in behind if other != item]
    if ts_ms > newest_ms and len(visits) > 1 and visits[-2][0] == newest_ms:
        return list(_basket(state, newest_ms))
    return ()


def _that_may_sample(item: str, behind: list[Visit], state: UserState) -> Iterator[Visit]:
    """Those visits whose samples an item may be in, given what else is known to be in their windows."""
    visits, digest = state.visits, NAME_HASHES[item]
    for start in range(0, len(behind), _TOGETHER):
        some = behind[start : start + _TOGETHER]
        # Not those of the first one's own millisecond: if it is the latest, they are no neighbours yet.
        first, end = bisect_left(visits, (some[-1][0] - WINDOW_MS,)), bisect_left(visits, (some[0][0],))
        others = set(state.visit_hashes[first:end])
        others.discard(digest)
        hashes = np.array(list(others), dtype=np.uint64)
        salts = np.array([_salt(at_ms) for at_ms, _, _ in some], dtype=np.uint64)[:, None]
        rank = np.uint64(digest) ^ salts
        # One more than is kept: a visit's own item does not count.
        may = np.count_nonzero(hashes ^ salts < rank, axis=1) <= NEIGHBOURS_KEPT
        yield from (visit for visit, is_near in zip(some, may.tolist(), strict=True) if is_near)


def _basket(state: UserState, ts_ms: int) -> Iterator[Told]:
    visits = state.visits
    start = bisect_left(visits, (ts_ms,))
    basket = dict.fromkeys(visit[1] for visit in visits[start:])
    around = set(state.visit_hashes[bisect_left(visits, (ts_ms - WINDOW_MS,)) :])
    # One more than is kept: an item is no neighbour of its own.
    chosen = _ranked(around, ts_ms, NEIGHBOURS_KEPT + 1)
    usual = _packed(chosen[:NEIGHBOURS_KEPT])
    for item in basket:
        digest = NAME_HASHES[item]
        near = _packed([other for other in chosen if other != digest]) if digest in chosen else usual
        if near:
            yield ts_ms, item, near


def _ranked(hashes: Iterable[int], ts_ms: int, first: int) -> list[int]:
    salt = _salt(ts_ms)
    return [rank ^ salt for rank in sorted([digest ^ salt for digest in hashes])[:first]]


def _packed(hashes: Iterable[int]) -> bytes:
    return array("Q", hashes).tobytes()


def _salt(ts_ms: int) -> int:
    return ts_ms * SPREAD & _MASK
