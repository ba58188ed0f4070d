"""What every kind of feature is: declared parameters, the columns it makes, and a way to compute many at once.

A kind is a class; a declared feature is an instance of it. `compile` takes all the features of one kind and returns one
function that computes them together, so that sixty features cost some tens of numpy calls and not some hundreds.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from msgspec import Meta, Struct

from tables.counters import Times
from tables.features.attributes import Needs
from tables.features.blocks import Numbers

HOUR_MS = 3_600_000
NEVER_HOURS = 100_000.0
"""Stands for "it never happened": about eleven years, beyond any real age."""
_LOG_NEVER_HOURS = np.log1p(NEVER_HOURS)

COUNT_EDGES = (0.3, 0.9, 1.2, 1.5, 1.9, 2.3, 2.8, 3.4, 4.2, 5.2, 6.5)
HOURS_EDGES = (0.02, 0.1, 0.5, 1.2, 2.2, 3.2, 4.2, 5.2, 6.2, 7.2, 9.0)
RATIO_EDGES = (0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8)
DECAY_EDGES = (0.02, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.5, 6.5)
SIGNED_EDGES = (-3.0, -2.0, -1.2, -0.6, -0.2, 0.2, 0.6, 1.2, 2.0, 3.0, 4.5)
PLACE_EDGES = (-0.5, 0.3, 0.9, 1.2, 1.5, 1.7, 1.9, 2.1, 2.4, 2.8, 3.3)
SHARE_EDGES = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
FLAG_EDGES = (0.5,)

EventKind = Literal["impression", "view", "click", "add_to_cart", "purchase", "other"]
WindowName = Literal[
    "1m", "2m", "3m", "4m", "5m",
    "10m", "20m", "30m", "40m", "50m", "1h",
    "3h", "6h", "9h", "12h", "15h", "18h", "21h", "1d",
    "2d", "3d", "4d", "5d", "6d", "7d",
]  # fmt: skip
"""Every window that the counters hold the panes of: `tables.counters.SPANS`."""
Scope = Literal["user", "item"]
Duration = Annotated[
    str,
    Meta(pattern="^[1-9][0-9]{0,5}(ms|s|m|h|d)$", description='a duration in ms, s, m, h or d, such as "90s" or "7d"'),
]
Edges = Annotated[tuple[float, ...], Meta(max_length=14, description="a list of at most 14 ascending numbers")]
Word = Annotated[str, Meta(min_length=1, max_length=64)]
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": HOUR_MS, "d": 24 * HOUR_MS}

Evaluate = Callable[[Any], Numbers]
"""From what a kind is computed of (a CounterBlock, or Rows) to float64 `[columns, n]`."""
K = TypeVar("K", bound="Kind")

Place = Literal["user", "item", "pair", "row"]
"""What n counts: users (questions), items, touched rows (segments of `Touches`), or rows."""


class Declarable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a catalogue declares by its kind; the fields are the parameters."""

    meaning: str = ""
    """What it is for, in words of whoever declared it."""

    kind: ClassVar[str]


class Kind(Declarable, frozen=True, kw_only=True):
    """A declared feature of one kind; the fields are its parameters."""

    edges: Edges | None = None
    """What cuts the range into bins for the online learner; by default what suits the kind."""

    version: ClassVar[int] = 1
    """Grows when the same declaration comes to mean another number: models of before are then refused."""
    over_counters: ClassVar[bool] = False
    """Whether it is computed of a CounterBlock, be it a user's or an item's; else of Rows."""
    default: ClassVar[float] = 0.0
    """Of kinds of pairs: the value of items that the user never had to do with."""

    def place(self) -> Place:
        """What it is computed for."""
        raise NotImplementedError

    def suffixes(self) -> tuple[str, ...]:
        """Of each column what follows the feature's name."""
        return ("",)

    def usual_edges(self) -> tuple[float, ...]:
        """The edges of its columns where none are declared."""
        raise NotImplementedError

    def needs(self) -> Needs:
        """The attributes of items that it reads."""
        return Needs()

    def context_fields(self) -> tuple[str, ...]:
        """The fields of a request's context that it reads."""
        return ()

    def trait_fields(self) -> tuple[str, ...]:
        """The user's traits that it reads."""
        return ()

    @classmethod
    def compiled_by(cls) -> "type[Kind]":
        """The kind that computes it, together with its own: kinds that look at the same things share the looking."""
        return cls

    @classmethod
    def compile(cls: type[K], declared: Sequence[K]) -> Evaluate:
        """One function for all features of this kind, columns in the order declared."""
        raise NotImplementedError


def duration_ms(text: str) -> int:
    """Milliseconds of a duration.

    >>> duration_ms("90s"), duration_ms("7d")
    (90000, 604800000)
    """
    digits = text.rstrip("msdh")
    return int(digits) * _UNIT_MS[text[len(digits) :]]


def log_hours(elapsed_ms: Times | Numbers) -> Numbers:
    """log1p of hours; what lies ahead counts as now."""
    hours: Numbers = np.log1p(np.maximum(elapsed_ms, 0) / HOUR_MS)
    return hours


def log_hours_since(ts_ms: Times | Numbers, as_of_ms: Times | Numbers) -> Numbers:
    """log1p of hours since a time; NEVER_HOURS where it is 0."""
    return np.where(ts_ms > 0, log_hours(as_of_ms - ts_ms), _LOG_NEVER_HOURS)


def spread(columns: Sequence[Numbers], n: int) -> Numbers:
    """Columns of n values (or one for all) as one block float64 `[len(columns), n]`."""
    if len(columns) == 1 and len(columns[0]) == n:
        return np.asarray(columns[0], dtype=np.float64)[None]
    block = np.empty((len(columns), n))
    for at, column in enumerate(columns):
        block[at] = column
    return block


def hot_suffixes(values: Sequence[str]) -> tuple[str, ...]:
    """The suffixes of one-hot columns."""
    return tuple(f"={value}" for value in values)
