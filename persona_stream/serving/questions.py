"""Questions to the engine, and the columns that their features are computed of."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from persona_stream.serving.item_columns import Rows
from persona_stream.serving.replica import Replica
from tables.counters import Floats
from tables.covisits import co_visited
from tables.features.blocks import CounterBlock, Request, RowsBuilder
from tables.features.blocks import Rows as FeatureRows
from tables.users import UserState

_NO_ROWS: Rows = np.zeros(0, dtype=np.int64)
_NO_FEATURES: Floats = np.zeros((0, 0), dtype=np.float32)


class Question(Struct):
    """A user, the candidates, and what the replica holds of them."""

    user: str
    items: list[str]
    as_of_ms: int
    ordered: bool
    """Whether the items' order is a feature."""
    state: UserState | None = None
    rows: Rows = _NO_ROWS
    """Of the items, in the item columns."""
    features: Floats = _NO_FEATURES
    """float32 `[n, width]`, once they are computed."""
    slot: str = ""
    context: Mapping[str, Any] = {}
    asked: str = ""
    """`rank` or `recommend`."""
    withheld: list[str] = []
    """Items that may not be shown, left out of `items`."""
    due_s: float = math.inf
    """Monotonic time by which the answer is due."""


class Gathered(Struct):
    """What the features of some questions are computed of, their rows one question after another."""

    inputs: FeatureRows
    """The person's part."""
    counters: CounterBlock
    """The item's part."""


def gather(replica: Replica, questions: Sequence[Question], gap_ms: int) -> Gathered:
    """What the replica holds of questions about one moment: `as_of_ms` is that of all."""
    columns, covisits = replica.items, []
    for one in questions:
        one.rows = columns.rows(one.items)
        covisits.append(columns.covisit_counts(one.rows, co_visited(one.state or UserState())))
    rows = np.concatenate([one.rows for one in questions])
    counters = columns.counters(rows, np.concatenate(covisits), questions[0].as_of_ms)
    return Gathered(gather_inputs(replica, questions, gap_ms), counters)


def gather_inputs(replica: Replica, questions: Sequence[Question], gap_ms: int) -> FeatureRows:
    """The person's part of that alone."""
    lookups = replica.lookups
    builder = RowsBuilder(lookups.attributes, gap_ms)
    for one in questions:
        places = np.arange(len(one.items)) if one.ordered else None
        request = Request(one.context, one.slot, lookups.traits(one.user))
        state = one.state or UserState()
        builder.add(one.user, state, one.items, one.as_of_ms, positions=places, request=request)
    return builder.rows()


def aligned(context: Mapping[str, Any], items: Sequence[str], shown: Sequence[str]) -> dict[str, Any]:
    """A context whose lists of one value an item are those of the items shown."""
    at = {item: place for place, item in reversed(list(enumerate(items)))}
    kept = [at[item] for item in shown]
    return {
        name: [value[at] for at in kept] if isinstance(value, list) and len(value) == len(items) else value
        for name, value in context.items()
    }
