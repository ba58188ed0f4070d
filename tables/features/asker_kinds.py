"""Kinds over who asks: a user's traits, and fields of the request's context that say something of the user."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta, field

from tables.features.attributes import as_number, as_values
from tables.features.blocks import Numbers, Request, Rows
from tables.features.kind import COUNT_EDGES, FLAG_EDGES, SIGNED_EDGES, Evaluate, Word, hot_suffixes
from tables.features.request_kinds import Values, bucket_of, bucket_suffixes, one_hot
from tables.features.user_kinds import OfUser


class OfAsker(OfUser, frozen=True, kw_only=True):
    """What kinds over a field of the traits or the context share."""

    source: Literal["traits", "context"] = "traits"
    """Where the field stands."""
    field_name: Word = field(name="field")
    """Its name."""

    def context_fields(self) -> tuple[str, ...]:
        """The field, if it is the context's."""
        return (self.field_name,) if self.source == "context" else ()

    def trait_fields(self) -> tuple[str, ...]:
        """The field, if it is a trait."""
        return (self.field_name,) if self.source == "traits" else ()

    def told(self, request: Request) -> Any:
        """What the field holds; None without one."""
        held: Mapping[str, Any] = request.traits if self.source == "traits" else request.context
        return held.get(self.field_name)


class UserNumber(OfAsker, frozen=True, kw_only=True):
    """A number among the user's traits or in the request's context, as it is or as a signed log1p; NaN without one.

    >>> told('age = {kind = "user_number", field = "age"}', traits={"age": 34})
    age      34
    """

    kind: ClassVar[str] = "user_number"
    transform: Literal["none", "log"] = "none"

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut: declare edges that suit the number."""
        return COUNT_EDGES if self.transform == "log" else SIGNED_EDGES

    @classmethod
    def compile(cls, declared: Sequence["UserNumber"]) -> Evaluate:
        """A look-up a request."""

        def evaluate(rows: Rows) -> Numbers:
            return np.array([[_transformed(one, request) for request in rows.requests] for one in declared])

        return evaluate


def _transformed(declared: UserNumber, request: Request) -> float:
    number = as_number(declared.told(request))
    return math.copysign(math.log1p(abs(number)), number) if declared.transform == "log" else number


class UserString(OfAsker, frozen=True, kw_only=True):
    """1 in the columns of the values that a trait, or a field of the context, has; it may have several.

    >>> told('job = {kind = "user_string", field = "job", values = ["student", "cook"]}', traits={"job": "cook"})
    job=student 0
    job=cook 1
    """

    kind: ClassVar[str] = "user_string"
    values: Values
    """A column each."""

    def suffixes(self) -> tuple[str, ...]:
        """A column a value."""
        return hot_suffixes(self.values)

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    @classmethod
    def compile(cls, declared: Sequence["UserString"]) -> Evaluate:
        """A look-up a request."""
        values = [one.values for one in declared]
        return one_hot(values, lambda at, request: as_values(declared[at].told(request)))


class UserHashed(OfAsker, frozen=True, kw_only=True):
    """The values of a trait, or of a field of the context, hashed to columns: for values that nobody can list.

    >>> told('city = {kind = "user_hashed", source = "context", field = "city", buckets = 2}', context={"city": "Bonn"})
    city#0   1
    city#1   0
    """

    kind: ClassVar[str] = "user_hashed"
    buckets: Annotated[int, Meta(ge=2, le=64)]
    """How many columns."""

    def suffixes(self) -> tuple[str, ...]:
        """A column a bucket."""
        return bucket_suffixes(self.buckets)

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    @classmethod
    def compile(cls, declared: Sequence["UserHashed"]) -> Evaluate:
        """A hash a value."""
        buckets = [tuple(map(str, range(one.buckets))) for one in declared]

        def told(at: int, request: Request) -> list[str]:
            return [str(bucket_of(value, declared[at].buckets)) for value in as_values(declared[at].told(request))]

        return one_hot(buckets, told)
