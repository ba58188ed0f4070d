"""Kinds over what a request brings along: where, when and with what it was asked, and who the user is elsewhere."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta
from xxhash import xxh3_64_intdigest

from tables.features.attributes import as_text
from tables.features.blocks import Numbers, Request, Rows
from tables.features.kind import (
    COUNT_EDGES,
    FLAG_EDGES,
    Evaluate,
    Word,
    hot_suffixes,
    spread,
)
from tables.features.user_kinds import OfUser
from tables.request_context import COUNTRY_KEYS, LANGUAGE_KEYS, LocalTimes, country, referer_medium, user_agent

_PLATFORMS = ("desktop", "mobile", "tablet", "bot")
_MEDIUMS = ("direct", "internal", "search", "social", "email", "paid", "external")
_HOUR_EDGES = (1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0, 21.0, 23.0)

Values = Annotated[tuple[Word, ...], Meta(min_length=1, max_length=64)]


class LocalTime(OfUser, frozen=True, kw_only=True):
    """The time in the user's zone: the `hour` of the day (0 to 24), the `weekday` (0: Monday), `weekend` (0 or 1), or
    the `month` (1 to 12). The zone is a field of the context, else of the traits: a name, or minutes from UTC.

    >>> told('hour = {kind = "local_time", measure = "hour"}', context={"timezone": "Asia/Kolkata"})
    hour     18.5
    """

    kind: ClassVar[str] = "local_time"
    measure: Literal["hour", "weekday", "weekend", "month"]
    zone: Word = "timezone"
    """The field that names the zone."""

    def usual_edges(self) -> tuple[float, ...]:
        """One bin for each weekday or month, two hours a bin."""
        last = {"hour": 0, "weekday": 7, "weekend": 2, "month": 13}[self.measure]
        return tuple(at - 0.5 for at in range(1, last)) if last else _HOUR_EDGES

    def context_fields(self) -> tuple[str, ...]:
        """The zone's."""
        return (self.zone,)

    def trait_fields(self) -> tuple[str, ...]:
        """The zone's, where the context has none."""
        return (self.zone,)

    @classmethod
    def compile(cls, declared: Sequence["LocalTime"]) -> Evaluate:
        """One look at the calendar a request and zone."""
        zones = {one.zone for one in declared}

        def evaluate(rows: Rows) -> Numbers:
            by_zone = {field: _local_times(rows, field) for field in zones}
            return spread([getattr(by_zone[one.zone], one.measure) for one in declared], len(rows.requests))

        return evaluate


def _local_times(rows: Rows, field: str) -> LocalTimes:
    """Of each request; `field` names the zone."""
    in_context = [(request.context.get(field), request) for request in rows.requests]
    told = [request.traits.get(field) if zone is None else zone for zone, request in in_context]
    zones = [zone if isinstance(zone, str | int | float) else None for zone in told]
    return LocalTimes(rows.as_of_ms, zones)


class Slot(OfUser, frozen=True, kw_only=True):
    """1 in the column of the slot that the list is for.

    >>> told('slot = {kind = "slot", values = ["home", "cart"]}', slot="cart")
    slot=home 0
    slot=cart 1
    """

    kind: ClassVar[str] = "slot"
    values: Values
    """A column each."""

    def suffixes(self) -> tuple[str, ...]:
        """A column a slot."""
        return hot_suffixes(self.values)

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    @classmethod
    def compile(cls, declared: Sequence["Slot"]) -> Evaluate:
        """A comparison a column."""
        return one_hot([one.values for one in declared], lambda _, request: [request.slot])


class UserAgent(OfUser, frozen=True, kw_only=True):
    """1 in the column of what the user agent in the context says: its `platform`, `os` or `browser` (Metarank's `ua`).

    >>> told('ua = {kind = "ua"}',
    ...      context={"user_agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) Version/18.1 Mobile"})
    ua=desktop 0
    ua=mobile 1
    ua=tablet 0
    ua=bot   0
    """

    kind: ClassVar[str] = "ua"
    part: Literal["platform", "os", "browser"] = "platform"
    values: Values = _PLATFORMS
    """A column each."""
    source: Word = "user_agent"
    """The field of the context."""

    def suffixes(self) -> tuple[str, ...]:
        """A column a value."""
        return hot_suffixes(self.values)

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    def context_fields(self) -> tuple[str, ...]:
        """The user agent's."""
        return (self.source,)

    @classmethod
    def compile(cls, declared: Sequence["UserAgent"]) -> Evaluate:
        """A look-up a request: user agents repeat, and what was parsed is kept."""

        def told(at: int, request: Request) -> list[str]:
            text = request.context.get(declared[at].source)
            return [getattr(user_agent(text), declared[at].part)] if isinstance(text, str) and text else []

        return one_hot([one.values for one in declared], told)


class Referer(OfUser, frozen=True, kw_only=True):
    """1 in the column of where the user came from: `direct`, `internal`, `search`, `social`, `email`, `paid` or
    `external`. Without the field all are 0.

    >>> told('from = {kind = "referer", values = ["search", "social"]}', context={"referer": "https://www.google.de/"})
    from=search 1
    from=social 0
    """

    kind: ClassVar[str] = "referer"
    values: Annotated[tuple[Literal[_MEDIUMS], ...], Meta(min_length=1)] = _MEDIUMS  # type: ignore[valid-type]
    """A column each."""
    source: Word = "referer"
    """The field of the context."""
    own_hosts: tuple[Word, ...] = ()
    """Hosts that are one's own, with all below them."""

    def suffixes(self) -> tuple[str, ...]:
        """A column a medium."""
        return hot_suffixes(self.values)

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    def context_fields(self) -> tuple[str, ...]:
        """The referer's."""
        return (self.source,)

    @classmethod
    def compile(cls, declared: Sequence["Referer"]) -> Evaluate:
        """A look at the URL a request."""
        own = [frozenset(one.own_hosts) for one in declared]

        def told(at: int, request: Request) -> list[str]:
            url = request.context.get(declared[at].source)
            return [referer_medium(url, own[at])] if isinstance(url, str) else []

        return one_hot([one.values for one in declared], told)


class Geo(OfUser, frozen=True, kw_only=True):
    """1 in the column of the country that the context tells: `country`, an edge's header, or the locale's region.

    >>> told('geo = {kind = "geo", countries = ["DE", "IN"]}', context={"locale": "en-IN"})
    geo=DE   0
    geo=IN   1
    """

    kind: ClassVar[str] = "geo"
    countries: Values
    """Two letters each (ISO 3166), a column each."""

    def suffixes(self) -> tuple[str, ...]:
        """A column a country."""
        return hot_suffixes(self.countries)

    def usual_edges(self) -> tuple[float, ...]:
        """As flags are cut."""
        return FLAG_EDGES

    def context_fields(self) -> tuple[str, ...]:
        """Wherever a country may stand."""
        return (*COUNTRY_KEYS, *LANGUAGE_KEYS)

    @classmethod
    def compile(cls, declared: Sequence["Geo"]) -> Evaluate:
        """A look at the context a request."""
        return one_hot([one.countries for one in declared], lambda _, request: [country(dict(request.context))])


class ListSize(OfUser, frozen=True, kw_only=True):
    """log1p of how many items are to be ranked.

    >>> told('size = {kind = "list_size"}', ask=["i1", "i2", "i3"])
    size     1.3863
    """

    kind: ClassVar[str] = "list_size"

    def usual_edges(self) -> tuple[float, ...]:
        """As counts are cut."""
        return COUNT_EDGES

    @classmethod
    def compile(cls, declared: Sequence["ListSize"]) -> Evaluate:
        """The same for all."""
        return lambda rows: spread([np.log1p(rows.sizes)] * len(declared), len(rows.sizes))


def bucket_of(value: str, buckets: int) -> int:
    """The bucket of a value, the same on every machine."""
    return xxh3_64_intdigest(value.encode()) % buckets


def bucket_suffixes(buckets: int) -> tuple[str, ...]:
    """The suffixes of hashed columns."""
    return tuple(f"#{at}" for at in range(buckets))


def one_hot(columns: Sequence[Sequence[str]], told: "Any") -> Evaluate:
    """1 where `told(feature, request)` holds the column's value."""
    places = [{value: at for at, value in enumerate(values)} for values in columns]
    starts = np.cumsum([0, *map(len, columns)]).tolist()

    def evaluate(rows: Rows) -> Numbers:
        block = np.zeros((starts[-1], len(rows.requests)))
        for at, request in enumerate(rows.requests):
            for feature, place in enumerate(places):
                for value in told(feature, request):
                    found = place.get(as_text(value))
                    if found is not None:
                        block[starts[feature] + found, at] = 1.0
        return block

    return evaluate
