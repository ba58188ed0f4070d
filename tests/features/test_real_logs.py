"""On real logs: what the stream learned from is what serving would have said, and both are what the oracle says.

Features are the shipped ones and more that suit each log. Of completejourney the first 20 households by id are
replayed, of ml100k the first 100 people; the other logs are replayed whole.
"""

import random
import tomllib
from bisect import bisect_left
from collections.abc import Iterable
from importlib import resources
from typing import Any

import numpy as np
import pytest
from drawn import GAP_MS, fold_in_slices, records, system_of
from oracle import expected
from real_logs import LOGS, TRIVAGO, Event, RealLog
from test_online_offline import examples_of
from world import Asked, Catalogue, World, items_of

from persona_stream.in_process import InProcess

_TIMEOUT_S = 240
PRICED = 30
"""So many lists with prices are compared with the oracle."""


def _catalogue(log: RealLog) -> str:
    return f'include = ["shipped"]\n[features]\n{log.features}'


def _declared(log: RealLog) -> dict[str, dict[str, Any]]:
    """The parameters of each feature, as TOML tells them."""
    shipped = resources.files("tables.features").joinpath("shipped.toml").read_text(encoding="utf-8")
    return tomllib.loads(shipped)["features"] | tomllib.loads(_catalogue(log))["features"]


class Replay:
    """A log with what is known besides, told to systems and to oracles."""

    def __init__(self, log: RealLog) -> None:
        self.log = log
        self.events, self.items, self.traits = log.read()
        self.records = records(self.events)
        self._catalogue = Catalogue(self.items)
        self._features = _declared(log)
        self._of_user: dict[str, list[int]] = {}
        self._of_item: dict[str, list[int]] = {}
        for at, event in enumerate(self.events):
            self._of_user.setdefault(event["user"], []).append(at)
            for item in items_of(event):
                self._of_item.setdefault(item, []).append(at)

    def system(self, *, with_examples: bool) -> InProcess:
        """A system that knows the catalogue and the traits, and no event."""
        system = system_of(_catalogue(self.log), with_examples=with_examples, lateness_ms=10**12)
        for item, attributes in self.items.items():
            system.put_item(item, attributes)
        for user, traits in self.traits.items():
            system.put_traits(user, traits)
        return system

    def question(self, at: int, items: list[str], *, ordered: bool) -> Asked:
        """What could have been asked just before an event."""
        event = self.events[at]
        places = list(range(len(items))) if ordered else [-1] * len(items)
        return Asked(event["user"], items, event["ts"], places, event.get("context", {}), event.get("slot", ""))

    def compare(self, at: int, asked: Asked, names: Iterable[str], told: np.ndarray) -> None:
        """The oracle's answer, from the events before that have to do with user and items."""
        world = World(
            [self.events[before] for before in self._related(at, asked)], self._catalogue, self.traits, GAP_MS
        )
        columns = dict(zip(names, told.T, strict=True))
        for name, params in self._features.items():
            held = [column for full, column in columns.items() if full.split("=")[0].split("#")[0] == name]
            oracle = expected(world, asked, params["kind"], params)
            message = f"{name} {asked}"
            np.testing.assert_allclose(
                np.array(held, float), np.array(oracle), rtol=1e-6, atol=1e-6, equal_nan=True, err_msg=message
            )

    def _related(self, at: int, asked: Asked) -> list[int]:
        of_items = [before for item in asked.items for before in _until(self._of_item.get(item, []), at)]
        users = {asked.user} | {self.events[before]["user"] for before in of_items if "item" in self.events[before]}
        return sorted({*of_items, *(before for user in users for before in _until(self._of_user.get(user, []), at))})


def _until(positions: list[int], at: int) -> list[int]:
    return positions[: bisect_left(positions, at)]


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
@pytest.mark.timeout(_TIMEOUT_S)
def test_online_is_offline_and_both_are_the_oracle(log: RealLog) -> None:
    replay = Replay(log)
    online = replay.system(with_examples=True)
    made = examples_of(fold_in_slices(online, replay.records, random.Random(1)))
    assert made
    sampled = set(random.Random(2).sample(sorted(made), min(log.sampled, len(made))))

    offline = replay.system(with_examples=False)
    names = offline.engine.plan.features.names
    done = 0
    for at, event in enumerate(replay.events):
        example = made.get(event["id"])
        if example is None:
            continue
        offline.fold(replay.records[done:at])
        done = at
        asked = replay.question(at, example.items, ordered=example.is_list)
        told = offline.ask(
            asked.user, asked.items, asked.as_of_ms, ordered=example.is_list, context=asked.context, slot=asked.slot
        ).features
        np.testing.assert_array_equal(example.features, told, err_msg=str(asked))
        if event["id"] in sampled:
            replay.compare(at, asked, names, example.features)


def test_prices_that_come_with_a_list_are_compared_as_the_oracle_does() -> None:
    replay = Replay(TRIVAGO)
    lists = [at for at, event in enumerate(replay.events) if event["type"] == "impression"]
    system, done = replay.system(with_examples=False), 0
    names = system.engine.plan.features.names
    for at in sorted(random.Random(3).sample(lists, PRICED)):
        system.fold(replay.records[done:at])
        done = at
        event: Event = replay.events[at]
        items, context = event["items"], event["context"]
        if len(set(items)) < len(items):
            continue
        asked = Asked(event["user"], items, event["ts"], list(range(len(items))), context, event["slot"])
        told = system.ask(event["user"], items, event["ts"], ordered=True, context=context, slot=event["slot"])
        replay.compare(at, asked, names, told.features)
