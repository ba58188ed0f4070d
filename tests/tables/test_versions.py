"""Catalogue and profiles: the newest version by event time wins, deletions hold."""

import random

from hypothesis import given
from hypothesis import strategies as st

from persona_stream.vocabulary.events import CatalogueItem, Profile
from tables import catalogue, profiles
from tables.catalogue import CatalogueEntry
from tables.profiles import ProfileEntry


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12, unique=True), st.randoms(use_true_random=False))
def test_the_newest_wins_in_any_order(times_ms: list[int], random_: random.Random) -> None:
    newest_ms = max(times_ms)
    random_.shuffle(times_ms)
    entry, traits = CatalogueEntry(), ProfileEntry()
    for offset, ts_ms in enumerate(times_ms):
        item = CatalogueItem(id="i1", ts=ts_ms, attributes={"v": ts_ms}, status="hidden" if ts_ms % 2 else "active")
        catalogue.apply_item(entry, item, ts_ms, offset)
        profiles.apply_profile(traits, Profile(user="u1", ts=ts_ms, traits={"v": ts_ms}), ts_ms, offset)
    assert (entry.ts_ms, entry.attributes, entry.hidden) == (newest_ms, {"v": newest_ms}, bool(newest_ms % 2))
    assert (traits.ts_ms, traits.traits) == (newest_ms, {"v": newest_ms})
    assert entry.applied == traits.applied == len(times_ms) - 1


def test_of_versions_with_one_time_the_later_in_the_log_wins() -> None:
    entry = CatalogueEntry()
    for offset, price in enumerate((1, 2)):
        assert catalogue.apply_item(entry, CatalogueItem(id="i1", ts=5, attributes={"price": price}), 5, offset)
    assert entry.attributes == {"price": 2}


def test_a_redelivered_version_changes_nothing() -> None:
    entry = CatalogueEntry()
    item = CatalogueItem(id="i1", ts=5, attributes={"price": 1})
    assert catalogue.apply_item(entry, item, 5, 3)
    assert not catalogue.apply_item(entry, item, 5, 3)
    assert not catalogue.apply_tombstone(entry, 9, 3)
    assert not entry.deleted


def test_what_was_deleted_stays_so_until_a_newer_version() -> None:
    entry, traits = CatalogueEntry(), ProfileEntry()
    assert catalogue.apply_item(entry, CatalogueItem(id="i1", ts=5, attributes={"a": 1}), 5, 0)
    assert catalogue.apply_tombstone(entry, 10, 1)
    assert profiles.apply_profile(traits, Profile(user="u1", ts=5, traits={"a": 1}), 5, 0)
    assert profiles.apply_tombstone(traits, 10, 1)
    assert not entry.may_be_shown(100)
    assert not catalogue.apply_item(entry, CatalogueItem(id="i1", ts=9), 9, 2)
    assert not profiles.apply_profile(traits, Profile(user="u1", ts=9, traits={"a": 1}), 9, 2)
    assert not entry.may_be_shown(100)
    assert traits.traits == {}
    assert catalogue.apply_item(entry, CatalogueItem(id="i1", ts=11), 11, 3)
    assert entry.may_be_shown(100)


def test_an_item_is_shown_until_it_expires() -> None:
    entry = CatalogueEntry()
    catalogue.apply_item(entry, CatalogueItem(id="i1", ts=5, expires_at=50), 5, 0)
    assert entry.may_be_shown(49)
    assert not entry.may_be_shown(50)
    assert catalogue.codec.decode(catalogue.codec.encode(entry)) == entry
