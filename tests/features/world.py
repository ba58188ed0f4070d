"""What a question is about, as plain facts: the raw events, the catalogue, the traits, and the question itself.

Nothing here is taken from `tables`: sizes are restated with their meaning, so that an oracle can be wrong only on its
own account.
"""

import math
import re
from bisect import insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from xxhash import xxh3_64_intdigest

KINDS = ("impression", "view", "click", "add_to_cart", "purchase", "other")
"""Counted apart, in this order; every other type is `other`."""
SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1000, 60_000, 3_600_000, 86_400_000
VISITS_KEPT = 512
"""So many of a user's latest visits are known."""
LISTS_KEPT = 8
"""So many of the latest lists shown."""
VALUES_KEPT, WORDS_KEPT = 8, 24
LARGEST = 1e13
"""A number beyond it is none."""

Visit = tuple[int, str, str]
"""(event time in ms, item, kind)"""
Shown = tuple[int, str, list[str]]
"""(event time in ms, decision or event id, distinct items)"""
Params = Mapping[str, Any]
Columns = list[list[float]]


@dataclass
class Asked:
    """A question: `places` holds the 0-based place of each item in the list, -1 where it is in none."""

    user: str
    items: list[str]
    as_of_ms: int
    places: list[int]
    context: Mapping[str, Any] = field(default_factory=dict)
    slot: str = ""


class Catalogue:
    """The attributes of items as they are now."""

    def __init__(self, attributes: Mapping[str, Mapping[str, Any]]) -> None:
        self.attributes = attributes
        self._numbers: dict[str, list[float]] = {}
        self._texts: dict[str, tuple[int, Counter[int]]] = {}

    def _held(self, item: str, name: str) -> Any:
        return self.attributes.get(item, {}).get(name)

    def number(self, item: str, name: str) -> float:
        """NaN without one."""
        return number_of(self._held(item, name))

    def values(self, item: str, name: str) -> list[str]:
        """Distinct values as texts."""
        return values_of(self._held(item, name))

    def words(self, item: str, name: str) -> list[int]:
        """Distinct words."""
        return words_of(self._held(item, name))

    def vector(self, item: str, name: str) -> list[float]:
        """Of length 1; empty without one."""
        return vector_of(self._held(item, name))

    def time_ms(self, item: str, name: str) -> float:
        """NaN without one."""
        return time_of(self._held(item, name))

    def numbers(self, name: str) -> list[float]:
        """All numbers that the catalogue holds, ascending."""
        if name not in self._numbers:
            held = [self.number(item, name) for item in self.attributes]
            self._numbers[name] = sorted(number for number in held if not math.isnan(number))
        return self._numbers[name]

    def rarity(self, word: int, name: str) -> float:
        """`log((1 + texts) / (1 + texts with the word)) + 1`."""
        if name not in self._texts:
            texts = [words for item in self.attributes if (words := self.words(item, name))]
            self._texts[name] = len(texts), Counter(word for words in texts for word in words)
        count, having = self._texts[name]
        return math.log((1 + count) / (1 + having[word])) + 1


class World:
    """All that happened, in the order of arrival, and what is known besides."""

    def __init__(
        self,
        events: Sequence[Mapping[str, Any]],
        catalogue: Catalogue,
        traits: Mapping[str, Mapping[str, Any]],
        gap_ms: int,
    ) -> None:
        self.events = list({(made["user"], made["id"]): made for made in reversed(events)}.values())
        """Every id of a user once."""
        self.catalogue = catalogue
        self.traits = traits
        self.gap_ms = gap_ms

    @cached_property
    def touches(self) -> list[tuple[str, str, str, int, float]]:
        """(`user` or `item`, name, kind, event time in ms, value): an event is one of its user and of each item."""
        made = []
        for event in self.events:
            fact = (kind_of(event), event["ts"], event.get("value") or 0.0)
            made.append(("user", event["user"], *fact))
            made += [("item", item, *fact) for item in items_of(event)]
        return made

    @cached_property
    def visits_by_user(self) -> dict[str, list[Visit]]:
        """What each user did with items, oldest first; at one time by item, then by kind."""
        found: dict[str, list[tuple[int, str, int]]] = {}
        for event in self.events:
            kind, item = kind_of(event), event.get("item")
            if kind != "impression" and item is not None:
                insort(found.setdefault(event["user"], []), (event["ts"], item, KINDS.index(kind)))
        return {user: [(ts_ms, item, KINDS[kind]) for ts_ms, item, kind in visits] for user, visits in found.items()}

    @cached_property
    def visitors(self) -> dict[str, set[str]]:
        """The users that visited each item."""
        found: dict[str, set[str]] = {}
        for user, visits in self.visits_by_user.items():
            for _, item, _ in visits:
                found.setdefault(item, set()).add(user)
        return found

    def visits(self, user: str) -> list[Visit]:
        """The user's latest visits, oldest first."""
        return self.visits_by_user.get(user, [])[-VISITS_KEPT:]

    def lists(self, user: str) -> list[Shown]:
        """The latest lists shown to the user, oldest first."""
        shown = [
            (event["ts"], event.get("decision_id") or event["id"], list(items_of(event)))
            for event in self.events
            if event["user"] == user and event["type"] == "impression"
        ]
        return sorted(shown)[-LISTS_KEPT:]


def kind_of(event: Mapping[str, Any]) -> str:
    """The kind that an event is counted as."""
    return event["type"] if event["type"] in KINDS else "other"


def items_of(event: Mapping[str, Any]) -> Iterator[str]:
    """The items that an event is about, each once."""
    shown = event.get("items") if event["type"] == "impression" else None
    return iter(dict.fromkeys(shown or [event["item"]] if shown or event.get("item") is not None else []))


def chosen_kinds(params: Params) -> set[str]:
    """The kinds that a feature looks at: none named are all but impressions."""
    return set(params.get("events") or KINDS[1:])


def span_ms(text: str) -> int:
    """Milliseconds of a duration as catalogues write it."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text).groups()
    return int(number) * {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}[unit]


def log_hours(elapsed_ms: float) -> float:
    """log1p of hours; what lies ahead counts as now."""
    return math.log1p(max(elapsed_ms, 0) / HOUR_MS)


NEVER = math.log1p(100_000)


def signed_log(value: float) -> float:
    """log1p of the size, with the sign."""
    return math.copysign(math.log1p(abs(value)), value)


def number_of(value: Any) -> float:
    """A number, a truth value, or a text that tells a number; NaN for all else."""
    if not isinstance(value, int | float | str):
        return math.nan
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return number if abs(number) <= LARGEST else math.nan


def values_of(value: Any) -> list[str]:
    """Distinct values as texts; neither null nor the empty text is one."""
    held = value if isinstance(value, list) else [value]
    told = [str(one).lower() if isinstance(one, bool) else str(one) for one in held if one not in (None, "")]
    return list(dict.fromkeys(told))[:VALUES_KEPT]


def words_of(value: Any) -> list[int]:
    """Distinct words of a text, or of several; words are told apart by 16 bits of their hash."""
    texts = value if isinstance(value, list) else [value]
    words = [word for text in texts if isinstance(text, str) for word in re.findall(r"\w+", text.lower())]
    return list(dict.fromkeys(xxh3_64_intdigest(word.encode()) % (1 << 16) for word in words))[:WORDS_KEPT]


def vector_of(value: Any) -> list[float]:
    """A list of numbers made to be of length 1."""
    if not isinstance(value, list) or not all(isinstance(one, int | float) for one in value):
        return []
    size = math.sqrt(sum(one * one for one in value))
    return [one / size for one in value] if size > 0 else []


def time_of(value: Any) -> float:
    """Epoch milliseconds of RFC 3339, a day, or epoch milliseconds."""
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return math.nan
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000
    return number_of(value)
