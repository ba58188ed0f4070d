"""The oracle of what an item is, alone and beside what the user had to do with: plain loops over attributes."""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence

from oracle_counters import VISITS_SEEN
from world import (
    Asked,
    Catalogue,
    Columns,
    Params,
    World,
    chosen_kinds,
    log_hours,
    signed_log,
    span_ms,
    values_of,
    vector_of,
    words_of,
)
from xxhash import xxh3_64_intdigest

OUTLIER = 6.0
LATEST = 20


def number(world: World, asked: Asked, params: Params) -> Columns:
    name = params["attribute"]
    change = {"none": lambda value: value, "log": signed_log}.get(params.get("transform", "none"))
    if change is None:
        held = world.catalogue.numbers(name)
        change = _standard(held) if params["transform"] == "standard" else _quantile(held)
    values = [world.catalogue.number(item, name) for item in asked.items]
    return [[math.nan if math.isnan(value) else change(value) for value in values]]


def _standard(held: Sequence[float]):
    # Sums are of millionths.
    rounded = [round(one * 1e6) / 1e6 for one in held]
    mean = math.fsum(rounded) / len(rounded) if rounded else 0.0
    deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in rounded) / len(rounded)) if rounded else 1.0
    if len(set(rounded)) < 2:
        deviation = 1.0
    return lambda value: min(max((value - mean) / deviation, -OUTLIER), OUTLIER)


def _quantile(held: Sequence[float]):
    buckets = [_bucket(one) for one in held]

    def share(value: float) -> float:
        below, up_to = bisect_left(buckets, _bucket(value)), bisect_right(buckets, _bucket(value))
        return (below + up_to) / 2 / len(buckets)

    return share


def _bucket(value: float) -> int:
    """Quantiles know a number to a 32nd of an octave; what is nearer to 0 than a 2^20th is 0."""
    if abs(value) < 2**-20:
        return 0
    return int(math.copysign(math.floor((math.log2(abs(value)) + 20) * 32) + 1, value))


def boolean(world: World, asked: Asked, params: Params) -> Columns:
    values = [world.catalogue.number(item, params["attribute"]) for item in asked.items]
    return [[value if math.isnan(value) else float(value != 0) for value in values]]


def string(world: World, asked: Asked, params: Params) -> Columns:
    held = [world.catalogue.values(item, params["attribute"]) for item in asked.items]
    return [[float(value in values) for values in held] for value in params["values"]]


def hashed(world: World, asked: Asked, params: Params) -> Columns:
    held = [world.catalogue.values(item, params["attribute"]) for item in asked.items]
    buckets = [{xxh3_64_intdigest(one.encode()) % params["buckets"] for one in values} for values in held]
    return [[float(at in found) for found in buckets] for at in range(params["buckets"])]


def word_count(world: World, asked: Asked, params: Params) -> Columns:
    counts = [len(world.catalogue.words(item, params["attribute"])) for item in asked.items]
    return [[math.log1p(count) if count else math.nan for count in counts]]


def item_age(world: World, asked: Asked, params: Params) -> Columns:
    times = [world.catalogue.time_ms(item, params["attribute"]) for item in asked.items]
    return [[ts_ms if math.isnan(ts_ms) else log_hours(asked.as_of_ms - ts_ms) for ts_ms in times]]


def _recent(world: World, asked: Asked, params: Params) -> list[str]:
    """The items of the user's latest visits that are looked at, one for each visit."""
    latest = world.visits(asked.user)[-VISITS_SEEN:][-params.get("latest", LATEST) :]
    kinds = chosen_kinds(params)
    within_ms = span_ms(params["within"]) if "within" in params else math.inf
    return [item for ts_ms, item, kind in latest if kind in kinds and asked.as_of_ms - ts_ms < within_ms]


def _recent_values(world: World, asked: Asked, params: Params) -> list[list[str]]:
    held = [world.catalogue.values(item, params["attribute"]) for item in _recent(world, asked, params)]
    return [values for values in held if values]


def interacted_with(world: World, asked: Asked, params: Params) -> Columns:
    recent = _recent_values(world, asked, params)
    wanted = [world.catalogue.values(item, params["attribute"]) for item in asked.items]
    shared = [sum(value in values for values in recent for value in mine) for mine in wanted]
    return [[count / max(len(recent), 1) for count in shared]]


def novelty(world: World, asked: Asked, params: Params) -> Columns:
    recent = _recent_values(world, asked, params)
    known = {value for values in recent for value in values}
    wanted = [world.catalogue.values(item, params["attribute"]) for item in asked.items]
    return [[float(known.isdisjoint(mine)) if known and mine else math.nan for mine in wanted]]


def relative_number(world: World, asked: Asked, params: Params) -> Columns:
    catalogue, name = world.catalogue, params["attribute"]
    numbers = [catalogue.number(item, name) for item in _recent(world, asked, params)]
    logs = [math.log(one) for one in numbers if one > 0]
    level = sum(logs) / len(logs) if logs else math.nan
    column = []
    for item in asked.items:
        mine = catalogue.number(item, name)
        ratio = math.log(mine) - level if mine > 0 else math.nan
        column.append(ratio if math.isnan(ratio) else min(max(ratio, -OUTLIER), OUTLIER))
    return [column]


def text_similarity(world: World, asked: Asked, params: Params) -> Columns:
    name = params["attribute"]
    words = Counter(word for item in _recent(world, asked, params) for word in world.catalogue.words(item, name))
    return [[_tf_idf_cosine(world.catalogue, name, words, item) for item in asked.items]]


def _tf_idf_cosine(catalogue: Catalogue, name: str, words: Counter[int], item: str) -> float:
    theirs = {word: count * catalogue.rarity(word, name) for word, count in words.items()}
    mine = {word: catalogue.rarity(word, name) for word in catalogue.words(item, name)}
    size = math.hypot(*theirs.values()) * math.hypot(*mine.values())
    return sum(theirs.get(word, 0.0) * weight for word, weight in mine.items()) / size if size else 0.0


def vector_similarity(world: World, asked: Asked, params: Params) -> Columns:
    name = params["attribute"]
    vectors = [v for item in _recent(world, asked, params) if (v := world.catalogue.vector(item, name))]
    return [[_cosine(vectors, world.catalogue.vector(item, name)) for item in asked.items]]


def _cosine(vectors: Sequence[Sequence[float]], mine: Sequence[float]) -> float:
    """With the mean of those vectors that can be compared: of the same length."""
    alike = [vector for vector in vectors if len(vector) == len(mine)]
    if not mine or not alike:
        return 0.0
    total = [sum(column) for column in zip(*alike, strict=True)]
    return sum(a * b for a, b in zip(total, mine, strict=True)) / math.hypot(*total)


def field_match(world: World, asked: Asked, params: Params) -> Columns:
    name, told = params["attribute"], asked.context.get(params["field"])
    catalogue = world.catalogue
    if params["method"] == "text":
        words = Counter(words_of(told))
        return [[_tf_idf_cosine(catalogue, name, words, item) for item in asked.items]]
    if params["method"] == "vector":
        return [[_cosine([vector_of(told)], catalogue.vector(item, name)) for item in asked.items]]
    wanted = values_of(told)
    held = [catalogue.values(item, name) for item in asked.items]
    return [[sum(value in wanted for value in values) / max(len(values), 1) for values in held]]


def diversity(world: World, asked: Asked, params: Params) -> Columns:
    name, catalogue = params["attribute"], world.catalogue
    if params.get("of") == "number":
        numbers = [catalogue.number(item, name) for item in asked.items]
        return [[_distance(numbers[:at], one) for at, one in enumerate(numbers)]]
    firsts = [(catalogue.values(item, name) or [None])[0] for item in asked.items]
    return [
        [1.0 - firsts[:at].count(value) / max(at, 1) if value is not None else 1.0 for at, value in enumerate(firsts)]
    ]


def _distance(before: Sequence[float], value: float) -> float:
    known = [one for one in before if not math.isnan(one)]
    if math.isnan(value) or not known:
        return 0.0
    return math.log1p(abs(value - math.fsum(known) / len(known)))
