"""Limits beside a plain oracle over the same raw events, and what holds of every limit."""

import json
from typing import Any

import numpy as np
import pytest
from drawn import Drawn, fold_in_slices, made_question, records, seeds, sizes, system_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle_limits import Limits, kept_to_limits

from persona_stream.in_process import InProcess
from persona_stream.serving.scorers import Scored
from tables.features.catalogue import kinds_of_limits, parse
from tables.features.limits import within_limits
from tables.features.plan import Plan

QUESTIONS = 3
FEATURES = '[features]\nplace = { kind = "position" }\n'

_slots = st.lists(st.sampled_from(["home", "cart", ""]), max_size=2, unique=True)
_values = st.sampled_from(["genres", "flag", "lacking"])
_spans = st.sampled_from(["1ms", "90s", "20m", "3h", "1d", "30d"])


@st.composite
def _spread(draw: st.DrawFn) -> dict[str, Any]:
    first = draw(st.integers(2, 10))
    named = {} if first == 10 else {"first": first}
    return {"attribute": draw(_values), "most": draw(st.integers(1, first - 1)), **named, "slots": draw(_slots)}


@st.composite
def _novel(draw: st.DrawFn) -> dict[str, Any]:
    first = draw(st.integers(1, 10))
    optional = st.fixed_dictionaries({}, optional={"attribute": _values, "latest": st.sampled_from([1, 5, 64])})
    return {"least": draw(st.integers(1, first)), "first": first, **draw(optional), "slots": draw(_slots)}


PARAMS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "shown": st.fixed_dictionaries(
        {"most": st.integers(1, 8), "within": _spans, "slots": _slots}, optional={"attribute": _values}
    ),
    "spread": _spread(),
    "novel": _novel(),
}


def _of_kind(kind: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return PARAMS[kind].map(lambda drawn: (kind, drawn))


def _catalogue(limits: Limits) -> str:
    fields = [
        ", ".join(f"{key} = {json.dumps(v)}" for key, v in {"kind": kind, **told}.items()) for kind, told in limits
    ]
    return FEATURES + "[limits]\n" + "".join(f"l{at} = {{ {text} }}\n" for at, text in enumerate(fields))


def test_every_kind_has_parameters_to_try() -> None:
    assert set(PARAMS) == set(kinds_of_limits())


@pytest.mark.parametrize("kind", sorted(PARAMS))
@settings(deadline=None, max_examples=60)
@given(st.data(), seeds, sizes)
def test_one_limit_is_kept_as_the_oracle_says(kind: str, data: st.DataObject, seed: int, count: int) -> None:
    _check([data.draw(_of_kind(kind), label="limit")], seed, count)


@example(
    [
        ("novel", {"least": 1, "first": 1, "slots": []}),
        ("novel", {"least": 1, "first": 1, "slots": []}),
        ("novel", {"least": 1, "first": 1, "attribute": "genres", "latest": 1, "slots": []}),
    ],
    16,
    300,
)
@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(sorted(PARAMS)).flatmap(_of_kind), min_size=2, max_size=4), seeds, sizes)
def test_several_limits_are_kept_as_the_oracle_says(limits: Limits, seed: int, count: int) -> None:
    _check(limits, seed, count)


def _check(limits: Limits, seed: int, count: int) -> None:
    drawn = Drawn(seed, count)
    system = system_of(_catalogue(limits))
    fold_in_slices(system, records(drawn.events), drawn.rng)
    drawn.tell_what_is_known(system)
    world = drawn.world()
    for _ in range(QUESTIONS):
        asked = made_question(drawn.rng, drawn.events)
        scores = [drawn.rng.choice([0.0, 0.25, 0.5, drawn.rng.random()]) for _ in asked.items]
        question = system.ask(asked.user, asked.items, asked.as_of_ms, ordered=False, slot=asked.slot)
        scored = Scored(np.array(scores), "drawn", "")
        placed = system.engine.place(question, scored, len(asked.items))
        by_score = sorted(asked.items, key=lambda item: -scores[asked.items.index(item)])
        order, moved = kept_to_limits(world, asked, limits, by_score)
        assert [asked.items[at] for at in placed.order.tolist()] == order, (limits, asked)
        assert {asked.items[at]: name for at, name in placed.limited.items()} == moved, (limits, asked)
        # Fewer are the beginning of more.
        few = system.engine.place(question, scored, 2)
        assert few.order.tolist() == placed.order.tolist()[:2]


def test_a_list_of_none_and_of_all_beyond_a_limit_stay_what_they_are() -> None:
    limits: Limits = [("shown", {"most": 1, "within": "1h"}), ("spread", {"attribute": "genres", "most": 1})]
    system = system_of(_catalogue([*limits, ("novel", {"least": 2})]))
    assert _placed(system, []) == ([], {})
    for item in "abc":
        system.put_item(item, {"genres": "War"})
    # All three break as much: none is moved.
    assert _placed(system, ["a", "b", "c"]) == (["a", "b", "c"], {})


def _placed(system: InProcess, items: list[str]) -> tuple[list[str], dict[int, str]]:
    question = system.ask("nobody", items, 1, ordered=False)
    placed = system.engine.place(question, Scored(-np.arange(len(items), dtype=float), "given", ""), len(items))
    return [items[at] for at in placed.order.tolist()], dict(placed.limited)


def test_what_is_declared_first_weighs_more() -> None:
    spread, novel = ("spread", {"attribute": "genres", "most": 1, "first": 2}), ("novel", {"least": 1, "first": 2})
    for limits, second in (([spread, novel], "other"), ([novel, spread], "new")):
        system = system_of(_catalogue(limits))
        event = {"id": "e", "type": "view", "user": "u", "ts": 1000}
        told = [{**event, "id": item, "item": item} for item in ("old", "other")]
        system.fold(records(told))
        for item, genre in (("old", "War"), ("new", "War"), ("other", "Noir")):
            system.put_item(item, {"genres": genre})
        question = system.ask("u", ["old", "new", "other"], 2000, ordered=False)
        placed = system.engine.place(question, Scored(np.array([3.0, 2.0, 1.0]), "", ""), 3)
        assert question.items[placed.order[1]] == second


def test_numbers_and_their_hash_do_not_depend_on_limits() -> None:
    bare = parse(FEATURES, "bare")
    held = parse(_catalogue([("spread", {"attribute": "genres", "most": 1})]), "held")
    with_limits = Plan(held.features, held.limits)
    assert with_limits.features == Plan(bare.features).features
    assert with_limits.needs.codes == ("genres",)


def test_an_order_is_read_not_written_to() -> None:
    system = system_of(_catalogue([("spread", {"attribute": "genres", "most": 1})]))
    for item in "abc":
        system.put_item(item, {"genres": "War" if item < "c" else "Noir"})
    question = system.ask("u", ["a", "b", "c"], 1, ordered=False)
    order = np.arange(3)
    order.flags.writeable = False
    placed, moved = within_limits(system.engine.plan.limits, system.engine.gathered(question).inputs, order)
    assert (placed.tolist(), moved.tolist()) == ([0, 2, 1], [-1, 0, -1])
