"""From scores to an order: the best first, within the limits of the catalogue of features."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from persona_stream.serving.item_columns import Rows
from persona_stream.serving.scorers import Scored
from tables.features.blocks import Rows as FeatureRows
from tables.features.limits import NOT_MOVED, DeclaredLimit, limits_of_slot, within_limits

_NO_ROWS: Rows = np.zeros(0, dtype=np.int64)


class Placed(Struct):
    """An order of scored items; items are told by their place among those scored."""

    order: Rows
    """The first `k`, int64."""
    scores: list[float]
    """Of each of them, as answered."""
    limits: Sequence[DeclaredLimit] = ()
    """Those that held."""
    limited: Mapping[int, str] = {}
    """Of each item that a limit moved behind lower scores the limit's name."""
    before: Rows = _NO_ROWS
    """With limits, the first `k` by score alone."""

    def told_limits(self) -> dict[str, dict[str, Any]]:
        """The limits as decisions tell them."""
        return {one.name: one.told() for one in self.limits} if self.limits else {}

    def told_limited(self, most: int) -> dict[int, str]:
        """`limited` of those items that are among the first `most`, or would be by score alone."""
        if not self.limited:
            return {}
        near = dict.fromkeys([*self.before[:most].tolist(), *self.order[:most].tolist()])
        return {at: self.limited[at] for at in near if at in self.limited}


def place(
    scored: Scored, k: int, limits: Sequence[DeclaredLimit], slot: str, gather: Callable[[], FeatureRows]
) -> Placed:
    """The first `k` of the items scored, as a request of a slot gets them. `gather`: their rows, if a limit holds."""
    limits = limits_of_slot(limits, slot) if limits else ()
    if not limits:
        order = _best(scored, k)
        return Placed(order, _answered(scored, order))
    by_score = _best(scored, len(scored.scores))
    order, moved = within_limits(limits, gather(), by_score)
    limited = np.flatnonzero(moved != NOT_MOVED)
    names = [limits[at].name for at in moved[limited].tolist()]
    told = dict(zip(limited.tolist(), names, strict=True))
    return Placed(order[:k], _answered(scored, order[:k]), limits, told, by_score[:k])


def _best(scored: Scored, k: int) -> Rows:
    """Places of the `k` highest scores, highest first and equal ones as given."""
    return np.argsort(-scored.scores, kind="stable")[:k]


def _answered(scored: Scored, order: Rows) -> list[float]:
    scores: list[float] = np.round(scored.scores[order], 6).tolist()
    return scores
