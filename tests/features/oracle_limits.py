"""Limits as anybody would apply them by hand: place by place, item by item. Nothing here is taken from `tables`."""

from collections.abc import Callable, Mapping, Sequence

from oracle_visits import shown_lists_within
from world import Asked, Params, World

Limits = Sequence[tuple[str, Params]]
"""(kind, parameters) of limits named l0, l1, ..."""
_FIRST = 10
_LATEST = 64


def kept_to_limits(
    world: World, asked: Asked, limits: Limits, by_score: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """The items in their new order, and of those that others passed the limit that was why."""
    held = [(f"l{at}", kind, params) for at, (kind, params) in enumerate(limits) if _holds(params, asked.slot)]
    left, placed, moved = list(by_score), [], {}
    while left:
        broken = {
            item: [_BREAKS[kind](world, asked, params, item, placed) for _, kind, params in held] for item in left
        }
        best = min(left, key=lambda item: broken[item])
        for passed in left[: left.index(best)]:
            both = enumerate(zip(broken[passed], broken[best], strict=True))
            why = next(at for at, (theirs, its) in both if theirs != its)
            moved.setdefault(passed, held[why][0])
        left.remove(best)
        placed.append(best)
    return placed, moved


def _holds(params: Params, slot: str) -> bool:
    return not params.get("slots") or slot in params["slots"]


def _shown(world: World, asked: Asked, params: Params, item: str, placed: list[str]) -> bool:
    lists = shown_lists_within(world, asked, params)
    if "attribute" not in params:
        return sum(item in shown for shown in lists) >= params["most"]
    mine = world.catalogue.values(item, params["attribute"])
    times = 0
    for shown in lists:
        for other in shown:
            times += sum(value in mine for value in world.catalogue.values(other, params["attribute"]))
    return times >= params["most"]


def _spread(world: World, asked: Asked, params: Params, item: str, placed: list[str]) -> bool:
    if len(placed) >= params.get("first", _FIRST):
        return False
    before = [world.catalogue.values(other, params["attribute"]) for other in placed]
    mine = world.catalogue.values(item, params["attribute"])
    return any(sum(value in values for values in before) >= params["most"] for value in mine)


def _novel(world: World, asked: Asked, params: Params, item: str, placed: list[str]) -> bool:
    first = min(params.get("first", _FIRST), len(asked.items))
    there_are = sum(_is_new(world, asked, params, one) for one in asked.items)
    missing = min(params["least"], there_are) - sum(_is_new(world, asked, params, one) for one in placed)
    return 0 < first - len(placed) <= missing and not _is_new(world, asked, params, item)


def _is_new(world: World, asked: Asked, params: Params, item: str) -> bool:
    visits = world.visits(asked.user)
    if "attribute" not in params:
        return all(item != other for _, other, _ in visits)
    name = params["attribute"]
    recent = [other for _, other, _ in visits[-params.get("latest", _LATEST) :]]
    known = {value for other in recent for value in world.catalogue.values(other, name)}
    mine = world.catalogue.values(item, name)
    return bool(mine) and known.isdisjoint(mine)


_BREAKS: Mapping[str, Callable[[World, Asked, Params, str, list[str]], bool]] = {
    "shown": _shown,
    "spread": _spread,
    "novel": _novel,
}
