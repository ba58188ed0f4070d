"""The plan: a catalogue compiled to a few functions over columns.

A row stands in two parts. The person's part is what needs the user: the user's own features, those of the user with
the item, and those of the item's attributes and its place in the list. The item's part is what needs the item's
counters. The stream computes each part where that state is and puts them together; a server holds both.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from persona_stream.vocabulary.config import Settings
from tables.attribution import Attribution
from tables.counters import Floats
from tables.feature_set import FeatureSet
from tables.features.attributes import Needs
from tables.features.attribution_section import AttributionSection
from tables.features.blocks import CounterBlock, Indices, Rows
from tables.features.catalogue import Declared, read, shipped
from tables.features.counter_kinds import Covisits
from tables.features.kind import Evaluate, Kind
from tables.features.limits import DeclaredLimit, needs_of
from tables.features.python_kind import Python


class Plan:
    """Computes the features of a catalogue. `features` names the columns, the person's first.

    `limits` are those of the catalogue: numbers do not depend on them, and the hash of the features does not either.
    """

    def __init__(self, declared: Sequence[Declared], limits: Sequence[DeclaredLimit] = ()) -> None:
        self.limits = tuple(limits)
        person = [one for one in declared if one.feature.place() != "item"]
        item = [one for one in declared if one.feature.place() == "item"]
        self.declared = (*person, *item)
        self.person_names = _names(person)
        self.item_names = _names(item)
        self._user, self._pair, self._row = (
            _Part([one for one in person if one.feature.place() == place]) for place in ("user", "pair", "row")
        )
        self._item = _Part(item)
        self._pairs_at = len(self._user.names)
        self._rows_at = self._pairs_at + len(self._pair.names)
        self._person_order = _order(self.person_names, self._user.names + self._pair.names + self._row.names)
        self._item_order = _order(self.item_names, self._item.names)
        self.covisit_names = frozenset(_names([one for one in item if isinstance(one.feature, Covisits)]))
        """Those of an item's features that depend on the user who asks."""
        self.user_names = self._user.names
        self.user_counter_names = self._user.counter_names
        defaults = {name: one.feature.default for one in person for name in _names([one])}
        self._strange = np.array([defaults[name] for name in self._pair.names]).reshape(-1, 1)
        self.features = FeatureSet(
            names=self.person_names + self.item_names,
            edges=tuple(edges for one in self.declared for edges in _edges(one.feature)),
            hash=_hash(self.declared),
        )
        self.needs = _needs(one.feature for one in declared).merged(needs_of(self.limits))
        self.context_fields = frozenset(name for one in declared for name in one.feature.context_fields())
        """The fields of a request's context that features depend on."""

    def person(self, rows: Rows) -> Floats:
        """The person's part of each row, float32 `[n, person]`."""
        block = np.empty((len(self.person_names), len(rows)), dtype=np.float32)
        block[: self._pairs_at] = rows.by_row(self._user(rows, len(rows.sizes)))
        of_pairs, touched = block[self._pairs_at : self._rows_at], rows.touches.row
        of_pairs[:] = self._strange
        if len(of_pairs) and len(touched):
            of_pairs[:, touched] = self._pair(rows, len(touched))
        self._row.fill(block[self._rows_at :], rows)
        return block.take(self._person_order, 0).T

    def item(self, block: CounterBlock) -> Floats:
        """The item's part of each row, float32 `[n, item]`."""
        return self._item(block, len(block.longs)).take(self._item_order, 0).T

    def of_users(self, rows: Rows) -> Floats:
        """The features of users alone, float32 `[questions, user_names]`."""
        return self._user(rows, len(rows.sizes)).T

    def of_user_counters(self, block: CounterBlock) -> Floats:
        """The features that follow from users' counters and open sessions, float32 `[n, user_counter_names]`."""
        return self._user.of_counters(block)


class _Part:
    """The features of one place, kind by kind."""

    def __init__(self, mine: Sequence[Declared]) -> None:
        self._steps: list[tuple[slice, Evaluate, bool]] = []
        by_kind: list[Declared] = []
        for kind in dict.fromkeys(one.feature.compiled_by() for one in mine):
            same = [one for one in mine if one.feature.compiled_by() is kind]
            start = len(_names(by_kind))
            by_kind += same
            filled = slice(start, len(_names(by_kind)))
            self._steps.append((filled, kind.compile([one.feature for one in same]), kind.over_counters))
        self.names = _names(by_kind)
        """Of its columns, in their order here."""
        counted = [filled for filled, _, over_counters in self._steps if over_counters]
        self.counter_names = tuple(name for filled in counted for name in self.names[filled])

    def __call__(self, data: Rows | CounterBlock, n: int) -> Floats:
        """float32 `[columns, n]`."""
        block = np.empty((len(self.names), n), dtype=np.float32)
        self.fill(block, data)
        return block

    def fill(self, block: Floats, data: Rows | CounterBlock) -> None:
        """The same into a block."""
        for filled, evaluate, over_counters in self._steps:
            block[filled] = evaluate(data.users if over_counters and isinstance(data, Rows) else data)

    def of_counters(self, counters: CounterBlock) -> Floats:
        """float32 `[n, counter_names]`."""
        parts = [evaluate(counters) for _, evaluate, over_counters in self._steps if over_counters]
        return np.concatenate([np.zeros((0, len(counters.longs))), *parts]).T.astype(np.float32)


def row_bytes(block: Floats) -> list[bytes]:
    """Each row of float32 `[n, width]` as bytes.

    >>> row_bytes(np.zeros((2, 3), dtype=np.float32)) == [bytes(12)] * 2
    True
    """
    # Of a transposed block, one copy and n slices of it take a third of the time of n copies.
    raw, width = block.tobytes(), block.itemsize * block.shape[1]
    return [raw[width * row : width * (row + 1)] for row in range(len(block))]


def plan_of(settings: Settings) -> Plan:
    """The plan of the catalogue that the settings name. Raises ConfigError, naming line and key."""
    return _compiled(settings.features)[0]


def feature_set(settings: Settings) -> FeatureSet:
    """What rows consist of under these settings. Raises ConfigError, naming line and key."""
    return plan_of(settings).features


def attribution_of(settings: Settings) -> Attribution:
    """Which lists outcomes answer under these settings. Raises ConfigError, naming line and key."""
    return _compiled(settings.features)[1].rules(settings.attribution_window_ms)


@lru_cache(maxsize=8)
def _compiled(path: Path | None) -> tuple[Plan, AttributionSection]:
    catalogue = shipped() if path is None else read(path)
    return Plan(catalogue.features, catalogue.limits), catalogue.attribution


def _names(declared: Iterable[Declared]) -> tuple[str, ...]:
    return tuple(one.name + suffix for one in declared for suffix in one.feature.suffixes())


def _order(names: Sequence[str], held: Sequence[str]) -> Indices:
    """Where each of some names is among those held."""
    at = {name: place for place, name in enumerate(held)}
    return np.array([at[name] for name in names], dtype=np.int64)


def _edges(feature: Kind) -> list[tuple[float, ...]]:
    edges = feature.usual_edges() if feature.edges is None else feature.edges
    return [edges] * len(feature.suffixes())


def _needs(features: Iterable[Kind]) -> Needs:
    merged = Needs()
    for feature in features:
        merged = merged.merged(feature.needs())
    return merged


def _hash(declared: Sequence[Declared]) -> str:
    """Of everything that a number depends on, and of the order; what features are for is no part of it."""
    told = []
    for one in declared:
        fields = msgspec.structs.asdict(one.feature) | {"meaning": ""}
        source = one.feature.source() if isinstance(one.feature, Python) else ""
        told.append((one.name, one.feature.kind, one.feature.version, fields, _edges(one.feature), source))
    encoded = msgspec.json.encode(told, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:16]
