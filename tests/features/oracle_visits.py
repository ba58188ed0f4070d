"""The oracle of what a user had to do with items, and of the list itself: plain loops over the visits."""

import math
from collections.abc import Mapping
from typing import Any

from oracle_counters import open_session
from world import (
    MINUTE_MS,
    NEVER,
    Asked,
    Columns,
    Params,
    World,
    chosen_kinds,
    log_hours,
    number_of,
    signed_log,
    span_ms,
)
from xxhash import xxh3_64_intdigest

NEAR_MS = 15 * MINUTE_MS
"""Two items that one user visited within this belong together."""
NEIGHBOURS_KEPT = 5
COVISITS_AMONG = 16
"""An item's latest visits with neighbours."""
LATEST_ITEMS = 5
CYCLE_MOST = 6.0
OUTLIER = 6.0
_64_BITS = (1 << 64) - 1


def _times(world: World, asked: Asked, params: Params, item: str) -> list[int]:
    """When the user had to do with an item, oldest first."""
    kinds = chosen_kinds(params)
    return [ts_ms for ts_ms, name, kind in world.visits(asked.user) if name == item and kind in kinds]


def pair_count(world: World, asked: Asked, params: Params) -> Columns:
    return [[math.log1p(len(_times(world, asked, params, item))) for item in asked.items]]


def pair_recency(world: World, asked: Asked, params: Params) -> Columns:
    latest = [_times(world, asked, params, item)[-1:] for item in asked.items]
    return [[log_hours(asked.as_of_ms - times[0]) if times else NEVER for times in latest]]


def pair_decayed(world: World, asked: Asked, params: Params) -> Columns:
    decay_ms = span_ms(params["decay"])
    touches = [_times(world, asked, params, item) for item in asked.items]
    return [[sum(math.exp(-(asked.as_of_ms - ts_ms) / decay_ms) for ts_ms in times) for times in touches]]


def pair_in_session(world: World, asked: Asked, params: Params) -> Columns:
    opened = open_session(world, asked)
    start_ms = asked.as_of_ms + 1 if opened is None else opened[0]
    return [[float(any(ts >= start_ms for ts in _times(world, asked, params, item))) for item in asked.items]]


def pair_cycle(world: World, asked: Asked, params: Params) -> Columns:
    return [[_cycle(_times(world, asked, params, item), asked.as_of_ms) for item in asked.items]]


def _cycle(times: list[int], as_of_ms: int) -> float:
    if len(times) < 2 or times[0] == times[-1]:
        return 0.0
    between_ms = (times[-1] - times[0]) / (len(times) - 1)
    # A moment takes a millisecond.
    cycle = math.log(max(as_of_ms - times[-1], 1) / between_ms)
    return min(max(cycle, -CYCLE_MOST), CYCLE_MOST)


def pair_is_latest(world: World, asked: Asked, params: Params) -> Columns:
    latest = world.visits(asked.user)[-1:]
    found = latest[0][1] if latest and latest[0][2] != "purchase" else None
    return [[float(item == found) for item in asked.items]]


def shown_count(world: World, asked: Asked, params: Params) -> Columns:
    lists = shown_lists_within(world, asked, params)
    return [[math.log1p(sum(item in shown for shown in lists)) for item in asked.items]]


def shown_alike(world: World, asked: Asked, params: Params) -> Columns:
    """Each value that a shown item shares counts."""
    attribute, catalogue = params["attribute"], world.catalogue
    shown = [catalogue.values(item, attribute) for items in shown_lists_within(world, asked, params) for item in items]
    return [
        [
            math.log1p(sum(value in values for values in shown for value in catalogue.values(item, attribute)))
            for item in asked.items
        ]
    ]


def shown_lists_within(world: World, asked: Asked, params: Params) -> list[list[str]]:
    """The latest lists shown to the user, at most so long ago."""
    within_ms = span_ms(params["within"])
    return [shown for ts_ms, _, shown in world.lists(asked.user) if asked.as_of_ms - ts_ms < within_ms]


def distinct_count(world: World, asked: Asked, params: Params) -> Columns:
    if params.get("scope", "item") == "item":
        told = [world.visitors.get(item, set()) for item in asked.items]
    else:
        told = [{item for _, item, _ in world.visits_by_user.get(asked.user, [])}] * len(asked.items)
    return [[math.log1p(_estimate(names)) for names in told]]


def _estimate(names: set[str]) -> float:
    """Linear counting of the few that there are here: by how many of 256 bins are hit."""
    hit = {xxh3_64_intdigest(name.encode()) % 256 for name in names}
    return 256 * math.log(256 / (256 - len(hit)))


def covisits(world: World, asked: Asked, params: Params) -> Columns:
    latest = list(dict.fromkeys(item for _, item, _ in reversed(world.visits(asked.user))))[:LATEST_ITEMS]
    counts = []
    for item in asked.items:
        with_neighbours = sorted(
            (ts_ms, xxh3_64_intdigest(user.encode()) & (_64_BITS >> 1), near)
            for user in world.visitors.get(item, ())
            for ts_ms, near in _neighbours(world, user, item).items()
        )
        counts.append(sum(one in latest for _, _, near in with_neighbours[-COVISITS_AMONG:] for one in near))
    return [[math.log1p(count) for count in counts]]


def _neighbours(world: World, user: str, item: str) -> Mapping[int, list[str]]:
    """By the time of each visit of the item, those the user was with before, and in the same millisecond.

    Of the user's latest millisecond more may come: its visits are no neighbours of each other yet.
    """
    visits = world.visits_by_user[user]
    found = {}
    for at_ms in {ts_ms for ts_ms, name, _ in visits if name == item}:
        end_ms = at_ms + (at_ms < visits[-1][0])
        near = {name for ts_ms, name, _ in visits if at_ms - NEAR_MS <= ts_ms < end_ms and name != item}
        if near:
            salt = at_ms * 0x9E3779B97F4A7C15 & _64_BITS
            found[at_ms] = sorted(near, key=lambda name: xxh3_64_intdigest(name.encode()) ^ salt)[:NEIGHBOURS_KEPT]
    return found


def position(world: World, asked: Asked, params: Params) -> Columns:
    return [[-1.0 if place < 0 else math.log1p(place) for place in asked.places]]


def given(world: World, asked: Asked, params: Params) -> Columns:
    values = _given(asked, params["field"])
    return [[signed_log(value) for value in values] if params.get("transform") == "log" else values]


def _given(asked: Asked, name: str) -> list[float]:
    held: Any = asked.context.get(name)
    if not isinstance(held, list) or len(held) != len(asked.items):
        return [math.nan] * len(asked.items)
    return [number_of(value) for value in held]


def list_relative(world: World, asked: Asked, params: Params) -> Columns:
    if "field" in params:
        values = _given(asked, params["field"])
    else:
        values = [world.catalogue.number(item, params["attribute"]) for item in asked.items]
    compare = {"rank": _rank, "score": _score, "to_lowest": _to_lowest}[params["measure"]]
    return [[math.nan if math.isnan(value) else compare(value, values) for value in values]]


def _rank(value: float, values: list[float]) -> float:
    known = [one for one in values if not math.isnan(one)]
    return sum(one < value for one in known) / max(len(known) - 1, 1)


def _score(value: float, values: list[float]) -> float:
    known = [one for one in values if not math.isnan(one)]
    if len(set(known)) == 1:
        return 0.0
    mean = math.fsum(known) / len(known)
    deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in known) / len(known))
    return min(max((value - mean) / deviation, -OUTLIER), OUTLIER)


def _to_lowest(value: float, values: list[float]) -> float:
    return math.log(value / min(one for one in values if one > 0)) if value > 0 else math.nan


def random(world: World, asked: Asked, params: Params) -> Columns:
    salt = xxh3_64_intdigest(params.get("salt", "").encode())
    seed = xxh3_64_intdigest(asked.user.encode(), asked.as_of_ms)
    return [[_mixed(xxh3_64_intdigest(item.encode(), seed) ^ salt) for item in asked.items]]


def _mixed(bits: int) -> float:
    """SplitMix64's finalizer, as a number from 0 to 1."""
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _64_BITS
    return ((bits ^ bits >> 31) >> 11) / 2**53
