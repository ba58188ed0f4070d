"""Kinds over the `value` of events: money, ratings, minutes watched."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tables.counters import SPANS, VALUE_COUNT, VALUE_MILLI, Times, window_values
from tables.features.blocks import CounterBlock, Numbers
from tables.features.counter_kinds import Counted
from tables.features.kind import COUNT_EDGES, Evaluate, WindowName, spread


class Valued(Counted, frozen=True, kw_only=True):
    """What kinds over values share."""

    window: WindowName | None = None
    """Unset: of all time."""

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES


class MeanValue(Valued, frozen=True, kw_only=True):
    """log1p of the mean `value` of the events that had one other than 0; a mean below 0 counts as 0.

    >>> told('value = {kind = "mean_value"}',
    ...      [("u1", "purchase", "i1", 0, 3.0), ("u1", "purchase", "i1", 1, 5.0)], "u1", ["i1", "i2"])
    value    1.6094 0
    """

    kind: ClassVar[str] = "mean_value"

    @classmethod
    def compile(cls, declared: Sequence["MeanValue"]) -> Evaluate:
        """A division a feature."""

        def evaluate(block: CounterBlock) -> Numbers:
            told = [_values(block, one.window) for one in declared]
            means = [sums / (1000 * np.maximum(counts, 1)) for sums, counts in told]
            return np.log1p(np.maximum(spread(means, len(block.longs)), 0))

        return evaluate


class ValueSum(Valued, frozen=True, kw_only=True):
    """log1p of the sum of the `value` of events; a sum below 0 counts as 0.

    >>> told('spent = {kind = "value_sum", window = "1d", scope = "user"}',
    ...      [("u1", "purchase", "i1", -5000, 9.0), ("u1", "purchase", "i1", 0, 3.0), ("u1", "purchase", "i2", 1, 5.0)])
    spent    2.1972
    """

    kind: ClassVar[str] = "value_sum"

    @classmethod
    def compile(cls, declared: Sequence["ValueSum"]) -> Evaluate:
        """A sum over panes a feature."""

        def evaluate(block: CounterBlock) -> Numbers:
            sums = [_values(block, one.window)[0] / 1000 for one in declared]
            return np.log1p(np.maximum(spread(sums, len(block.longs)), 0))

        return evaluate


def _values(block: CounterBlock, window: WindowName | None) -> tuple[Times, Times]:
    if window is None:
        return block.longs[:, VALUE_MILLI], block.longs[:, VALUE_COUNT]
    return window_values(block.panes, block.as_of_ms, SPANS[window])
