"""What a round of the skew check found, as data."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tables.counters import Floats


class FeatureSkew(Struct):
    """One feature that is not as logged in some rows."""

    feature: str
    rows: int
    """How many rows differ, ..."""
    decisions: int
    """... of how many decisions."""
    largest: float
    """The largest difference, in the feature's own unit; null in JSON where one side is missing or not finite."""
    decision: str
    """The decision of that row, ..."""
    item: str
    """... its item, ..."""
    logged: float
    """... and both numbers."""
    recomputed: float


class Report(Struct):
    """A round. Counts of decisions add up: `sampled` are `compared` and those `skipped`."""

    found: int
    """Decisions that the sample was taken from."""
    sampled: int
    compared: int
    rows: int
    """Rows compared, each of all features."""
    skipped: dict[str, int]
    """By reason (`persona_stream.skew.reasons`)."""
    features: list[FeatureSkew]
    """Those that differ, the worst first: most rows, then the largest difference."""
    records_folded: int

    @property
    def is_equal(self) -> bool:
        """Whether no feature differs."""
        return not self.features


class Tally:
    """Collects differing features over decisions."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._found: dict[str, FeatureSkew] = {}

    def add(
        self, decision: str, items: Sequence[str], logged: Floats, recomputed: Floats, differs: NDArray[np.bool_]
    ) -> None:
        """Rows of a decision: float32 `[items, names]` twice, and where they differ."""
        with np.errstate(invalid="ignore"):
            sizes = np.abs(recomputed.astype(np.float64) - logged.astype(np.float64))
        # A number that is missing on one side is as wrong as can be.
        sizes = np.where(differs, np.where(np.isnan(sizes), np.inf, sizes), -1.0)
        for column in np.flatnonzero(differs.any(axis=0)).tolist():
            row = int(sizes[:, column].argmax())
            name, largest = self._names[column], float(sizes[row, column])
            held = self._found.setdefault(name, FeatureSkew(name, 0, 0, -1.0, "", "", 0.0, 0.0))
            held.rows += int(differs[:, column].sum())
            held.decisions += 1
            if largest > held.largest:
                held.largest, held.decision, held.item = largest, decision, items[row]
                held.logged, held.recomputed = float(logged[row, column]), float(recomputed[row, column])

    def worst_first(self) -> list[FeatureSkew]:
        """All that differ."""
        return sorted(self._found.values(), key=lambda one: (-one.rows, -one.largest, one.feature))
