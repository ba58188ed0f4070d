"""The kind that is one small Python function: what no other kind says."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta

from tables.features.attributes import Needs
from tables.features.blocks import Numbers, Rows
from tables.features.kind import COUNT_EDGES, Evaluate, Word, spread
from tables.features.list_kinds import OfRow

_LARGEST = 3e38
"""What is larger would be infinite as float32."""

Function = Callable[[Rows], Any]


class Python(OfRow, frozen=True, kw_only=True):
    """A function of the rows to a number each: `function = "module:name"` names `def name(rows: Rows) -> float64 [n]`.

    It must follow from the rows alone (no clock, no randomness, no file), or the stream, a replay and a server will not
    agree. Its source is part of the catalogue's hash, so a model trained with another version of it is refused.

    >>> told('how_many = {kind = "python", function = "tables.features.python_kind:items_asked"}', ask=["i1", "i2"])
    how_many 2 2
    """

    kind: ClassVar[str] = "python"
    function: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description='"module:name", a function that can be imported'),
    ]
    numbers: tuple[Word, ...] = ()
    """Attributes that it reads from `rows.attributes.numbers`."""
    values: tuple[Word, ...] = ()
    """Attributes that it reads from `rows.attributes.codes`."""
    context: tuple[Word, ...] = ()
    """Fields of the context that it reads."""

    def __post_init__(self) -> None:
        """Refuse a function that is not there, or has no source."""
        try:
            self.source()
        # A module may raise anything while it is imported.
        except Exception as error:
            told = f"{self.function} can't be imported ({type(error).__name__}: {error})"
            raise ValueError(f"`function` {told}; its folder must be on PYTHONPATH") from None

    def loaded(self) -> Function:
        """The function."""
        module, _, name = self.function.partition(":")
        loaded: Function = getattr(importlib.import_module(module), name)
        return loaded

    def source(self) -> str:
        """The function's source."""
        return inspect.getsource(self.loaded())

    def needs(self) -> Needs:
        """As declared."""
        return Needs(numbers=self.numbers, codes=self.values)

    def context_fields(self) -> tuple[str, ...]:
        """As declared."""
        return self.context

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut: declare edges that suit the number."""
        return COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Python"]) -> Evaluate:
        """A call a feature."""
        functions = [one.loaded() for one in declared]

        def evaluate(rows: Rows) -> Numbers:
            columns = [np.asarray(function(rows), dtype=np.float64) for function in functions]
            return np.clip(spread(columns, len(rows)), -_LARGEST, _LARGEST)

        return evaluate


def items_asked(rows: Rows) -> Numbers:
    """An example: how many items the list has."""
    return rows.sizes[rows.question].astype(np.float64)
