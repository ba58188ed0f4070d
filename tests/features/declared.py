"""Features of every kind with parameters drawn; what they read of items, users and contexts is in `drawn.py`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from oracle_asked import OWN_HOST
from world import KINDS

Params = dict[str, Any]
Features = Sequence[tuple[str, Params]]
"""(kind, parameters)"""

_SPANS = st.sampled_from(["1ms", "90s", "20m", "1h", "3h", "1d", "30d"])
_WINDOW_PAIRS = [("5m", "1h"), ("5m", "1d"), ("1h", "1d"), ("1h", "7d"), ("1d", "7d"), ("10m", "6h")]
_events = st.lists(st.sampled_from(KINDS), max_size=3, unique=True)
_some_events = st.lists(st.sampled_from(KINDS), min_size=1, max_size=4, unique=True)
_scope = st.sampled_from(["user", "item"])
_window = st.sampled_from(["5m", "1h", "1d", "7d", "2m", "30m", "9h", "3d"])
_numbers = st.sampled_from(["price", "flag", "lacking"])
_values = st.sampled_from(["genres", "flag", "lacking"])
_texts = st.sampled_from(["title", "genres", "lacking"])
_transform = st.sampled_from(["none", "log"])
_GENRES = ["War", "Drama", "Noir", "true", "7", "None"]
_genres = st.lists(st.sampled_from(_GENRES), min_size=1, max_size=4, unique=True)
_source = st.sampled_from(["traits", "context"])
_asker = {"source": _source}


def _of(required: Mapping[str, Any] | None = None, **optional: Any) -> st.SearchStrategy[Params]:
    return st.fixed_dictionaries(dict(required or {}), optional=optional)


def _compared(attribute: st.SearchStrategy[str]) -> st.SearchStrategy[Params]:
    return _of({"attribute": attribute}, events=_events, latest=st.integers(1, 64), within=_SPANS)


def _measured(*measures: str) -> dict[str, st.SearchStrategy[str]]:
    return {"measure": st.sampled_from(measures)}


_matched = st.sampled_from([("values", "genres", "wanted"), ("text", "title", "query"), ("vector", "vector", "vec")])
_agents = st.sampled_from(
    [("platform", ["desktop", "mobile", "tablet", "bot", "other"]), ("os", ["ios", "android"]), ("browser", ["chrome"])]
)

PARAMS: dict[str, st.SearchStrategy[Params]] = {
    "window_count": _of({"window": _window}, scope=_scope, events=_events),
    "interaction_count": _of(scope=_scope, events=_events),
    "rate": _of(
        {"top": _some_events, "bottom": _some_events},
        scope=_scope,
        window=_window,
        rate=st.sampled_from([0.0, 0.04, 0.5]),
        trials=st.sampled_from([0.5, 10.0]),
    ),
    "trend": st.builds(
        lambda pair, rest: {"short": pair[0], "long": pair[1], **rest},
        st.sampled_from(_WINDOW_PAIRS),
        _of(scope=_scope, events=_events),
    ),
    "decayed_count": _of(
        {"half_life": st.sampled_from(["1ms", "30s", "70s", "10m", "3h", "1d", "7d"])}, scope=_scope, events=_events
    ),
    "recency": _of(scope=_scope),
    "age": _of(scope=_scope),
    "mean_value": _of(scope=_scope, window=_window),
    "value_sum": _of(scope=_scope, window=_window),
    "distinct_count": _of(scope=_scope),
    "covisits": _of(),
    "session": _of(_measured("depth", "duration")),
    "session_average": _of(_measured("depth", "duration", "gap"), sessions=st.integers(2, 8)),
    "session_pattern": _of(_measured("items", "returning", "clicking", "pace")),
    "distinct_items": _of({"within": _SPANS}),
    "pair_count": _of(events=_events),
    "pair_recency": _of(events=_events),
    "pair_decayed": _of({"decay": _SPANS}, events=_events),
    "pair_in_session": _of(events=_events),
    "pair_cycle": _of(events=_events),
    "position": _of(),
    "pair_is_latest": _of(),
    "given": _of({"field": st.sampled_from(["prices", "wanted"])}, transform=_transform),
    "list_relative": st.one_of(
        _of({"field": st.just("prices"), **_measured("rank", "score", "to_lowest")}),
        _of({"attribute": _numbers, **_measured("rank", "score", "to_lowest")}),
    ),
    "random": _of(salt=st.sampled_from(["", "a", "b"])),
    "shown_count": _of({"within": _SPANS}),
    "shown_alike": _of({"attribute": _values, "within": _SPANS}),
    "number": _of({"attribute": _numbers}, transform=st.sampled_from(["none", "log", "standard", "quantile"])),
    "boolean": _of({"attribute": _numbers}),
    "string": _of({"attribute": _values, "values": _genres}),
    "hashed": _of({"attribute": _values, "buckets": st.integers(2, 5)}),
    "word_count": _of({"attribute": _texts}),
    "item_age": _of({"attribute": st.sampled_from(["born", "price", "lacking"])}),
    "interacted_with": _compared(_values),
    "novelty": _compared(_values),
    "relative_number": _compared(_numbers),
    "text_similarity": _compared(_texts),
    "vector_similarity": _compared(st.sampled_from(["vector", "lacking"])),
    "field_match": st.builds(lambda m: {"method": m[0], "attribute": m[1], "field": m[2]}, _matched),
    "diversity": st.one_of(
        _of({"attribute": _values}), _of({"attribute": _numbers, "of": st.sampled_from(["number"])})
    ),
    "local_time": _of(_measured("hour", "weekday", "weekend", "month"), zone=st.just("tz")),
    "slot": _of({"values": st.just(["home", "cart"])}),
    "ua": st.one_of(_of(), st.builds(lambda p: {"part": p[0], "values": p[1]}, _agents)),
    "referer": _of(own_hosts=st.just([OWN_HOST]), values=st.just(["search", "internal", "direct"])),
    "geo": _of({"countries": st.just(["DE", "IN", "BR", "TW"])}),
    "user_number": _of({"field": st.sampled_from(["age", "wanted"])}, **_asker, transform=_transform),
    "user_string": _of({"field": st.sampled_from(["job", "wanted"]), "values": _genres}, **_asker),
    "user_hashed": _of({"field": st.sampled_from(["job", "wanted"]), "buckets": st.integers(2, 5)}, **_asker),
    "list_size": _of(),
    "python": st.just({"function": "own_function:price_and_place", "numbers": ["price"]}),
}
"""The parameters of each kind."""


def toml(features: Features) -> str:
    """The catalogue of features, named f0, f1, ..."""
    lines = ["[features]"]
    for at, (kind, params) in enumerate(features):
        # What JSON writes of texts, numbers and lists of them, TOML reads.
        fields = ", ".join(f"{name} = {json.dumps(value)}" for name, value in {"kind": kind, **params}.items())
        lines.append(f"f{at} = {{ {fields} }}")
    return "\n".join(lines)


def all_kinds() -> st.SearchStrategy[Features]:
    """A feature of every kind."""
    return st.tuples(*[params.map(lambda drawn, kind=kind: (kind, drawn)) for kind, params in PARAMS.items()])


def of_kind(kind: str) -> st.SearchStrategy[Features]:
    """One to three features of a kind."""
    return st.lists(PARAMS[kind].map(lambda drawn: (kind, drawn)), min_size=1, max_size=3)
