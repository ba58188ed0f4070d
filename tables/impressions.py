"""Table `impressions`: lists shown whose attribution window is open. Key: user and impression; written from the user's
partition of `internal.shown`.

What is told of a list comes in pieces, from several partitions and in any order: that it was shown, the rows of its
items with the features of that moment, and what the user then chose. A list closes when its window has passed and all
of its rows are there; then it is an example. That it is closed is remembered for CLOSED_KEPT records: longer than any
slice, so that a crash amid a slice's changes finds what it needs, and deleted by offset, so that no cut of the log into
slices makes a difference.
"""

import msgspec
from msgspec import Struct

from persona_stream.stream.partition import Codec
from persona_stream.vocabulary.messages import Opened, Outcome, ShownRows

NOT_OPENED = NOT_CLOSED = -1
CLOSED_KEPT = 100_000
"""Records. A slice has at most some 35,000: what fits in one fetch."""


class ShownList(Struct, array_like=True):
    """All that is known of one list."""

    applied: int = -1
    """Offset of the last record applied: one at or below it changes nothing."""
    closed_at: int = NOT_CLOSED
    """Offset of the record that closed it; its rows are gone then."""
    user: str = ""
    group: str = ""
    opened_ms: int = NOT_OPENED
    """When it was shown (or, where nobody told, first chosen from)."""
    rows_ms: int = 0
    """The moment that the features are of."""
    feature_hash: str = ""
    slot: str = ""
    items: list[str] = []
    """In the order shown; empty: in that of the rows."""
    rows: dict[str, bytes] = {}
    """Item -> its features, float32."""
    is_whole: bool = False
    """Whether no more rows come, whatever was shown: they came with the decision."""
    propensities: dict[str, float] = {}
    grades: dict[str, int] = {}
    """Item -> the highest grade of what the user did with it."""
    told: list[str] = []
    """Items whose first outcome went to the learner."""
    weights: dict[str, float] = {}
    """Item -> how much its outcome of the highest grade counts, where that is not 1; of several, the most."""

    @property
    def key(self) -> str:
        """The table's key."""
        return key_of(self.user, self.group)

    def is_complete(self) -> bool:
        """Whether the rows of all items shown are there."""
        return self.is_whole or all(item in self.rows for item in self.items)

    def due_ms(self, window_ms: int, patience_ms: int) -> int:
        """When it closes. A list that nobody saw (an answer that was never shown) is waited for a little longer."""
        if self.opened_ms == NOT_OPENED:
            return self.rows_ms + window_ms + patience_ms
        return self.opened_ms + window_ms

    def close(self, offset: int) -> None:
        """Keep no more than that it is closed."""
        self.closed_at = self.applied = offset
        self.items, self.rows, self.propensities, self.grades, self.told = [], {}, {}, {}, []
        self.weights = {}

    def in_order(self) -> list[str]:
        """The items whose rows are held, in the order shown."""
        return [item for item in self.items if item in self.rows] if self.items else list(self.rows)


codec = Codec(new=ShownList, encode=msgspec.msgpack.Encoder().encode, decode=msgspec.msgpack.Decoder(ShownList).decode)


def key_of(user: str, group: str) -> str:
    """One user's list: two users may name a list alike.

    >>> key_of("u1", "e7")
    'u1\\ne7'
    """
    return f"{user}\n{group}"


def open_list(state: ShownList, told: Opened) -> None:
    """Fold that a list was shown."""
    state.opened_ms, state.slot, state.items = told.ts_ms, told.slot, told.items


def add_rows(state: ShownList, told: ShownRows) -> list[str]:
    """Fold rows of a list; returns the items that something had been done with before their rows came."""
    if state.feature_hash not in ("", told.feature_hash):
        # The catalogue of features was changed in between: rows of before and after can't stand in one list.
        state.rows, state.is_whole = {}, True
    state.feature_hash = told.feature_hash
    width = len(told.features) // len(told.items)
    for at, item in enumerate(told.items):
        state.rows.setdefault(item, told.features[width * at : width * (at + 1)])
    state.propensities |= dict(zip(told.items, told.propensities, strict=False))
    state.is_whole |= told.is_whole
    state.rows_ms = told.ts_ms
    return [item for item in told.items if item in state.grades and item not in state.told]


def add_outcome(state: ShownList, told: Outcome) -> bool:
    """Fold what a user did with an item; whether it is the item's first, and its row is there to learn from."""
    if state.opened_ms == NOT_OPENED:
        state.opened_ms = told.ts_ms
    _weigh(state, told)
    state.grades[told.item] = max(told.grade, state.grades.get(told.item, 0))
    return told.item in state.rows and told.item not in state.told


def _weigh(state: ShownList, told: Outcome) -> None:
    """Of an item's outcomes of the highest grade the weightiest counts: in any order the same."""
    grade = state.grades.get(told.item, 0)
    if told.grade < grade:
        return
    held = state.weights.pop(told.item, 1.0)
    weight = told.weight if told.grade > grade else max(told.weight, held)
    if weight != 1.0:
        state.weights[told.item] = weight
