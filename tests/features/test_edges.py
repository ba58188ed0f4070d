"""What features do at the edges: odd numbers, odd contexts, catalogues that change."""

import math
from typing import Any

import numpy as np
import pytest
from declared import all_kinds
from drawn import Drawn, made_question, records, seeds, sizes, system_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_online_offline import UNSHRUNK

from persona_stream.in_process import InProcess

HUGE = 10**400
"""JSON tells such numbers, and they are no float."""
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(HUGE) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = ("prices", "wanted", "query", "vec", "age", "job", "tz", "timezone", "user_agent", "country", "locale")


def _asked(feature: str, items: dict[str, dict[str, Any]], context: dict[str, Any] | None = None) -> list[float]:
    system = system_of(f"[features]\nf = {feature}")
    for item, attributes in items.items():
        system.put_item(item, attributes)
    asked = ["i1", "i2", "i3"]
    return system.ask("u", asked, 1_700_000_000_000, ordered=True, context=context).features[:, 0].tolist()


def test_a_given_number_does_not_depend_on_those_beside_it() -> None:
    feature = '{ kind = "given", field = "prices" }'
    alone = _asked(feature, {}, {"prices": [1e20, 2, 3]})
    beside_text = _asked(feature, {}, {"prices": [1e20, 2, "x"]})
    np.testing.assert_array_equal(alone[:2], beside_text[:2])
    assert math.isnan(alone[0])


@pytest.mark.parametrize("measure", ["rank", "score", "to_lowest"])
def test_infinite_prices_are_none(measure: str) -> None:
    feature = f'{{ kind = "list_relative", field = "prices", measure = "{measure}" }}'
    found = _asked(feature, {}, {"prices": ["-inf", 1, 2]})
    assert math.isnan(found[0])
    assert found[1:] == _asked(feature, {}, {"prices": [None, 1, 2]})[1:]


def test_equal_prices_are_at_their_mean() -> None:
    # The mean of three times 0.1 is not 0.1 in floating point.
    feature = '{ kind = "list_relative", attribute = "price", measure = "score" }'
    assert _asked(feature, {item: {"price": 0.1} for item in ("i1", "i2", "i3")}) == [0.0, 0.0, 0.0]


def test_small_numbers_differ_by_what_they_differ() -> None:
    feature = '{ kind = "diversity", attribute = "price", of = "number" }'
    prices = {"i1": {"price": 0.0004}, "i2": {"price": 0.0001}, "i3": {"price": 1e12}}
    assert _asked(feature, prices)[:2] == [0.0, pytest.approx(0.0003, rel=1e-3)]


def test_vectors_do_not_depend_on_which_came_first() -> None:
    feature = '{ kind = "field_match", attribute = "vector", field = "vec", method = "vector" }'
    items = {"i1": {"vector": [1, 0]}, "i2": {"vector": [3, 4, 0]}, "i3": {"vector": [0, 0, 1]}}
    context = {"vec": [1, 0, 0]}
    first = _asked(feature, items, context)
    assert first == _asked(feature, dict(reversed(items.items())), context) == pytest.approx([0.0, 0.6, 0.0])


def test_another_encoder_replaces_the_vectors_of_the_one_before() -> None:
    system = system_of('[features]\nf = { kind = "field_match", attribute = "v", field = "v", method = "vector" }')
    for vector in ([1, 0], [0, 1, 1], [0, 0]):
        system.put_item("i1", {"v": vector})
        told = [system.ask("u", ["i1"], 1, ordered=True, context={"v": asked}) for asked in ([1, 0], [0, 1, 1])]
        expected = [float(vector == [1, 0]), float(vector == [0, 1, 1])]
        assert [one.features[0, 0] for one in told] == pytest.approx(expected)


def test_a_zone_that_the_context_leaves_open_is_that_of_the_traits() -> None:
    system = system_of('[features]\nf = { kind = "local_time", measure = "hour" }')
    system.put_traits("u", {"timezone": "Asia/Tokyo"})
    at_midnight = system.ask("u", ["i1"], 86_400_000, ordered=True, context={"timezone": None})
    assert at_midnight.features[0, 0] == 9.0


@settings(deadline=None, max_examples=60, phases=UNSHRUNK)
@given(all_kinds(), seeds, sizes, st.dictionaries(st.sampled_from(_FIELDS), _json))
def test_no_context_is_an_error_and_no_list_is_too_short(
    features: Any, seed: int, count: int, context: dict[str, Any]
) -> None:
    drawn = Drawn(seed, count)
    system = system_of(features)
    drawn.tell_what_is_known(system)
    system.fold(records(drawn.events))
    asked = made_question(drawn.rng, drawn.events)
    lists = {name: [context.get(name, HUGE)] * len(asked.items) for name in ("prices", "vec")}
    for told in (context, context | lists):
        found = system.ask(asked.user, asked.items, asked.as_of_ms, ordered=True, context=told).features
        assert not np.isinf(found).any()
    nothing = system.ask(asked.user, [], asked.as_of_ms, ordered=True, context=context).features
    assert nothing.shape == (0, system.engine.plan.features.width)


def test_what_an_event_brings_along_never_stops_the_stream() -> None:
    features = """
    [features]
    a = { kind = "given", field = "prices" }
    b = { kind = "field_match", attribute = "v", field = "vec", method = "vector" }
    """
    system: InProcess = system_of(features, with_examples=True)
    event = {"id": "e", "type": "click", "user": "u", "item": "i", "ts": 1_700_000_000_000}
    assert len(system.fold(records([{**event, "context": {"prices": [HUGE], "vec": [HUGE]}}]))) == 1


def test_whatever_tells_a_country_is_named_so_that_decisions_log_it() -> None:
    fields = system_of('[features]\nf = { kind = "geo", countries = ["TW"] }').engine.plan.context_fields
    assert {"country", "x-country", "x-appengine-country", "locale", "accept-language"} <= fields
