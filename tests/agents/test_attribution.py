"""Outcomes find their lists by slot and touch, in event time: beside a plain join, in any order, cut and crashed."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.agents import CRASHES, CUTS, EXAMPLES, SHOWN, interleaved
from support.logs import T0_MS, Log, log_of, log_of_records, slices
from support.runs import Crash, Run, run

from persona_stream.past_lists import past_lists
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from persona_stream.vocabulary.events import GRADES, parse_event
from persona_stream.vocabulary.messages import Example, Outcome, decode_example, decode_shown
from persona_stream.worker.app import AgentSpec, agent_specs
from tables import users
from tables.attribution import Attribution
from tables.features.catalogue import parse
from tables.features.plan import attribution_of
from tables.impressions import ShownList
from tables.users import UserState

MINUTE_MS = 60_000
LISTS_KEPT = 8
FEATURES = '[features]\nplace = { kind = "position" }\n'
SLOTS = ("home", "cart", "")
ITEMS = ("a", "b", "c", "d")
_ALL_ONE = {"click": 1.0, "add_to_cart": 1.0, "purchase": 1.0, "rating": 1.0}

Event = dict[str, Any]
Rules = Mapping[str, Any]
"""`touch`, `window` and `slots` (slot -> window) in minutes, `weights`."""
GRADES_OF = {**GRADES, "rating": 2}

RULES: st.SearchStrategy[Rules] = st.fixed_dictionaries(
    {
        "touch": st.sampled_from(["last", "first", "all"]),
        "window": st.sampled_from([1, 5, 30]),
        "slots": st.dictionaries(st.sampled_from(["home", "cart"]), st.sampled_from([1, 10, 60])),
        "weights": st.dictionaries(st.sampled_from(list(GRADES_OF)), st.sampled_from([0.0, 0.5, 1.0, 4.0])),
    }
)


def _text(rules: Rules) -> str:
    section = f'[attribution]\ntouch = "{rules["touch"]}"\nwindow = "{rules["window"]}m"\n'
    section += "".join(f'slots.{slot}.window = "{window}m"\n' for slot, window in rules["slots"].items())
    return section + "".join(f"weights.{outcome} = {weight}\n" for outcome, weight in rules["weights"].items())


def _settings(text: str) -> Settings:
    with TemporaryDirectory() as folder:
        # Read once, and kept by its path.
        path = Path(folder) / "features.toml"
        path.write_text(FEATURES + text)
        made = Settings(namespace="t", partitions=1, features=path)
        attribution_of(made)
        return made


def _specs(text: str) -> dict[str, AgentSpec]:
    return {spec.table: spec for spec in agent_specs(_settings(text))}


def _events(seed: int, count: int = 60) -> list[Event]:
    """Lists and outcomes of two users, in event-time order; now and then several at one moment."""
    rng, now_ms, made = random.Random(seed), T0_MS, []
    for number in range(count):
        now_ms += rng.choice([0, 1, MINUTE_MS // 2, MINUTE_MS, 4 * MINUTE_MS, 20 * MINUTE_MS])
        one: Event = {
            "id": f"e{number:03}",
            "user": rng.choice("uv"),
            "ts": now_ms,
            "type": rng.choice(list(GRADES_OF)),
        }
        if rng.random() < 0.5:
            one |= {"type": "impression", "items": rng.sample(ITEMS, rng.randint(1, 4))}
            one |= {"slot": rng.choice(SLOTS)} if rng.random() < 0.9 else {}
        else:
            one |= {"item": rng.choice(ITEMS), "value": 5}
            shown = [other["id"] for other in made if other["type"] == "impression" and other["user"] == one["user"]]
            one |= {"decision_id": rng.choice(shown[-3:])} if shown and rng.random() < 0.2 else {}
        made.append(one)
    return made


def _joined(events: Sequence[Event], rules: Rules) -> dict[str, dict[str, tuple[int, float]]]:
    """Of each list what came of its items, by hand: the highest grade, and of that the highest weight."""
    grades: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
    lists: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event["type"] == "impression":
            lists[event["user"]].append(event)
            continue
        known = sorted(lists[event["user"]], key=lambda one: (one["ts"], one["id"]))[-LISTS_KEPT:]
        named = event.get("decision_id")
        open_ = [one for one in known if event["ts"] - one["ts"] <= _window_ms(one, rules)]
        answered = [one for one in open_ if (one["id"] == named if named else event["item"] in one["items"])]
        if not named:
            answered = {"last": answered[-1:], "first": answered[:1], "all": answered}[rules["touch"]]
        for one in answered:
            held, told = grades[one["id"]], (GRADES_OF[event["type"]], rules["weights"].get(event["type"], 1.0))
            held[event["item"]] = max(told, held.get(event["item"], told))
    return grades


def _window_ms(shown: Event, rules: Rules) -> int:
    return int(rules["slots"].get(shown.get("slot"), rules["window"])) * MINUTE_MS


def _shown_log(events: Sequence[Event], specs: Mapping[str, AgentSpec], seed: int) -> Log:
    """What is told of lists, rows mixed with the rest; in the end time moves beyond every window."""
    after_ms = events[-1]["ts"] + 120 * MINUTE_MS
    last = [{"id": f"z{at}", "type": "impression", "user": "w", "items": ["a"], "ts": after_ms + at} for at in (0, 1)]
    told = run(specs["users"].fold, specs["users"].codec, slices(log_of([*events, *last])))
    of_items = log_of_records(told.emitted.get("t.internal.item-events", []))
    rows = run(specs["items"].fold, specs["items"].codec, slices(of_items)).emitted.get(SHOWN, [])
    mixed = interleaved(seed, [*told.emitted[SHOWN]], rows)
    # Lists close at the next record once their time is over and their rows are there.
    return log_of_records([*mixed, told.emitted[SHOWN][-1]])


def _examples(done: Run) -> list[Example]:
    return [decode_example(record.value or b"") for record in done.emitted.get(EXAMPLES, [])]


@settings(deadline=None, max_examples=60)
@given(RULES, st.integers(0, 10_000))
def test_lists_have_the_outcomes_that_a_plain_join_gives_them(rules: Rules, seed: int) -> None:
    events, specs = _events(seed), _specs(_text(rules))
    spec = specs["impressions"]
    examples = _examples(run(spec.fold, spec.codec, slices(_shown_log(events, specs, 0))))
    whole = {one.group: _labelled(one) for one in examples if one.origin == "impression"}
    expected = _joined(events, rules)
    shown = [one for one in events if one["type"] == "impression"]
    assert set(whole) >= {one["id"] for one in shown}
    for one in shown:
        assert whole[one["id"]] == {item: expected[one["id"]].get(item, (0, 1.0)) for item in one["items"]}, (
            one,
            rules,
        )
    # What was chosen was told at once, once a list and item.
    at_once = [(one.group, one.items[0]) for one in examples if one.origin == "online" and one.positions]
    told = {(group, item) for group, items in expected.items() for item in items}
    assert sorted(at_once) == sorted((group, item) for group, item in told if item in whole[group])


def _labelled(example: Example) -> dict[str, tuple[int, float]]:
    weights = example.weights or [1.0] * len(example.items)
    return dict(zip(example.items, zip(example.labels, weights, strict=True), strict=True))


@settings(deadline=None, max_examples=40)
@given(RULES, st.integers(0, 10_000))
def test_an_evaluation_joins_as_the_stream_does(rules: Rules, seed: int) -> None:
    events = _events(seed)
    parsed = [parse_event(msgspec.json.encode(one)) for one in events]
    judged = past_lists(parsed, attribution_of(_settings(_text(rules))))
    expected = _joined(events, rules)
    known = {(one["user"], one["ts"], *one["items"]): one["id"] for one in events if one["type"] == "impression"}
    for one in judged:
        group = known[(one.user, one.ts_ms, *one.items)]
        assert one.grades == {item: grade for item, (grade, _) in expected[group].items()}


@settings(deadline=None, max_examples=40)
@given(RULES, st.integers(0, 1000), CUTS, CRASHES)
def test_cuts_and_crashes_change_no_example(
    rules: Rules, seed: int, cuts: list[int], crashes: dict[int, Crash]
) -> None:
    specs = _specs(_text(rules))
    spec, log = specs["impressions"], _shown_log(_events(seed), specs, seed)
    clean, other = run(spec.fold, spec.codec, slices(log)), run(spec.fold, spec.codec, slices(log, cuts), crashes)
    assert clean.emitted_once() == other.emitted_once()
    assert {key: other.state.get(key) for key in other.state} == {key: clean.state.get(key) for key in clean.state}
    sources = [(example.source_partition, example.source_offset) for example in _examples(clean)]
    assert len(sources) == len(set(sources))


@settings(deadline=None, max_examples=40)
@given(RULES, st.integers(0, 1000), st.integers(0, 1000))
def test_users_do_not_depend_on_the_order_of_arrival(rules: Rules, seed: int, other: int) -> None:
    spec, events = _specs(_text(rules))["users"], _events(seed, 40)
    # All within the lateness, and some lists of one name at one moment in two slots.
    events = [one | {"ts": T0_MS + (one["ts"] - T0_MS) % (50 * MINUTE_MS)} for one in events]
    events += [one | {"id": f"{one['id']}x", "decision_id": one["id"], "slot": "cart"} for one in events[::5]]
    states = []
    for order in (seed, other):
        shuffled = random.Random(order).sample(events, len(events))
        done = run(spec.fold, spec.codec, slices(log_of(shuffled)))
        states.append({key: msgspec.structs.replace(done.state.change(key), applied=0) for key in done.state})
    assert {key: users.codec.encode(one) for key, one in states[0].items()} == {
        key: users.codec.encode(one) for key, one in states[1].items()
    }


def test_states_of_before_slots_are_read_and_slots_are_kept_only_where_they_are_declared() -> None:
    by_default = run(*_users(_specs("")), slices(log_of(_events(1))))
    for key in by_default.state:
        state = by_default.state.change(key)
        fields = [getattr(state, name) for name in UserState.__struct_fields__]
        assert (UserState.__struct_fields__[-1], fields[-1]) == ("slots", [])
        assert users.codec.decode(msgspec.msgpack.encode(fields[:-1])) == state
    by_slot = run(
        *_users(_specs('slots.home = { window = "2h" }'.join(["[attribution]\n", "\n"]))), slices(log_of(_events(1)))
    )
    state = by_slot.state.change("u")
    assert set(state.slots) == {"home", ""}
    assert len(state.slots) == len(state.pending)
    assert users.codec.decode(users.codec.encode(state)) == state


def _users(specs: Mapping[str, AgentSpec]) -> tuple[Any, Any]:
    return specs["users"].fold, specs["users"].codec


def test_lists_and_examples_of_before_weights_are_read_and_by_default_have_none() -> None:
    specs = _specs("")
    spec, log = specs["impressions"], _shown_log(_events(2), specs, 2)
    done = run(spec.fold, spec.codec, slices(log, [len(log) // 2]))
    halfway = run(spec.fold, spec.codec, slices(log[: len(log) // 2])).state
    for key in halfway:
        fields = [getattr(halfway.change(key), name) for name in ShownList.__struct_fields__]
        assert (ShownList.__struct_fields__[-1], fields[-1]) == ("weights", {})
        assert spec.codec.decode(msgspec.msgpack.encode(fields[:-1])) == halfway.change(key)
    for example in _examples(done):
        fields = [getattr(example, name) for name in Example.__struct_fields__]
        assert (Example.__struct_fields__[-1], fields[-1]) == ("weights", [])
        assert decode_example(msgspec.msgpack.encode(fields[:-1])) == example


def test_a_choice_from_no_list_has_its_weight() -> None:
    specs = _specs("[attribution]\nweights = { purchase = 4, rating = 0.5 }\n")
    told = [{"id": kind, "type": kind, "user": "u", "item": kind, "ts": T0_MS, "value": 5} for kind in GRADES_OF]
    made = run(*_users(specs), slices(log_of(told))).emitted["t.internal.item-events"]
    of_items = run(specs["items"].fold, specs["items"].codec, slices(log_of_records(made)))
    chosen = {one.items[0]: one.weights for one in _examples(of_items) if one.labels[0]}
    assert chosen == {"click": [], "add_to_cart": [], "purchase": [4.0], "rating": [0.5]}
    assert all(one.weights == [] for one in _examples(of_items) if not one.labels[0])


def test_of_outcomes_that_answer_no_list_the_share_declared_becomes_examples() -> None:
    bought = [
        {"id": f"e{n}", "type": "purchase", "user": f"u{n % 7}", "item": f"i{n % 5}", "ts": T0_MS + n, "value": 5}
        for n in range(400)
    ]
    whole, part = _specs(""), _settings("[attribution]\nunlisted = 0.25\n")
    sampled = {spec.table: spec for spec in agent_specs(part)}
    alone = {spec.table: spec for spec in agent_specs(part, with_examples=False)}
    folded = [_purchases(bought, specs) for specs in (whole, sampled, alone)]
    chosen = [[one.group for one in _examples(of_items) if one.labels[0]] for _, of_items in folded]
    assert chosen[0] == [one["id"] for one in bought]
    assert chosen[1] == [one["id"] for one in bought if attribution_of(part).is_example(one["id"])]
    assert 60 < len(chosen[1]) < 140
    # The others count as ever, in both tables; and a fold without examples leaves the very same.
    users_of = [{key: done.state.get(key) for key in done.state} for done, _ in folded]
    items_of = [{key: done.state.get(key) for key in done.state} for _, done in folded]
    assert users_of[0] == users_of[1] == users_of[2]
    assert items_of[1] == items_of[2]
    assert {key: one.longs for key, one in items_of[0].items()} == {key: one.longs for key, one in items_of[1].items()}


def _purchases(events: Sequence[Event], specs: Mapping[str, AgentSpec]) -> tuple[Run, Run]:
    """Users and items folded."""
    done = run(*_users(specs), slices(log_of(events), [100, 250]))
    made = log_of_records(done.emitted["t.internal.item-events"])
    return done, run(specs["items"].fold, specs["items"].codec, slices(made))


def test_an_outcome_of_before_this_field_is_read() -> None:
    old = msgspec.msgpack.encode([3, "u", "g", 5, 7, "a", 2])
    assert decode_shown(old) == Outcome("u", "g", 5, 7, "a", 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[attribution]\nwindow = "soon"', "line 4, `attribution.window`: the text is not of the right form."),
        (
            '[attribution]\ntouch = "best"',
            "line 4, `attribution.touch`: Invalid enum value 'best'. `touch` is \"last\", ",
        ),
        ('[attribution]\nwindo = "1h"', "line 4, `attribution.windo`: Object contains unknown field `windo`. Did you"),
        ("[attribution]\nweights = 3", "line 4, `attribution.weights`: this must be a table: `[attribution.weights]`."),
        (
            "[attribution.weights]\nview = 1",
            "line 4, `attribution.weights.view`: Object contains unknown field `view`.",
        ),
        (
            "[attribution.weights]\nclick = -1",
            "line 4, `attribution.weights.click`: Expected `float` >= 0.0. `click` is",
        ),
        (
            "[attribution]\nunlisted = 1.5",
            "line 4, `attribution.unlisted`: Expected `float` <= 1.0. `unlisted` is a number from 0.0 to 1.0.",
        ),
        ("[attribution]\nslots = 3", "line 4, `attribution.slots`: this must be a table of slots"),
        (
            "[attribution.slots]\nhome = 3",
            "line 4, `attribution.slots.home`: a slot of at most 128 characters is a table",
        ),
        (
            "[attribution.slots.home]\n",
            "line 3, `attribution.slots.home.window`: Object missing required field `window`.",
        ),
    ],
)
def test_a_mistake_is_told_with_line_and_key(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(FEATURES + text, "my.toml")
    assert says in str(refused.value)


def test_what_is_not_declared_is_the_setting() -> None:
    assert attribution_of(Settings(attribution_window_ms=5)) == Attribution(5, weights=_ALL_ONE)
    made = _settings('[attribution.slots.home]\nwindow = "2h"\n[attribution]\ntouch = "all"\n')
    assert attribution_of(made) == Attribution(made.attribution_window_ms, "all", {"home": 7_200_000}, _ALL_ONE)
