"""Random worlds and questions about them, each from a seed, and the real system that is asked.

Users have several events in one millisecond now and then: baskets. Their order is no accident, a visit stands by time,
then item, then kind. Event ids are unique but for events told twice, as a producer's retry does.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from declared import Features, toml
from hypothesis import strategies as st
from oracle_asked import COUNTRIES, OWN_REFERER, REFERERS, USER_AGENTS, ZONES
from world import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Asked, Catalogue, World

from persona_stream.in_process import InProcess
from persona_stream.kafka.writer import Record
from persona_stream.stream.slices import LogRecord
from persona_stream.vocabulary.config import Settings

T0_MS = 1_700_000_000_000
LATENESS_MS = HOUR_MS
GAP_MS = 30 * MINUTE_MS
USERS = ("u0", "u1", "u2")
ITEMS = tuple(f"i{n}" for n in range(9))
ATTRIBUTES = ("genres", "price", "flag", "title", "vector", "born")
_TYPES = ("view", "view", "view", "impression", "impression", "click", "add_to_cart", "purchase", "rating", "search")
_GENRES: tuple[Any, ...] = ("War", "Drama", "Noir", True, 7, None, "", 2.5)
_WORDS = ("red", "blue", "warm", "small", "wool", "hat", "Shoe", "coat")
_PRICES: tuple[Any, ...] = (0, -3, 1, 9.99, "9.50", 12.3456, 0.1, 1e-9, 250, -0.7, True, None, "cheap", 1e20, [1], 1e12)
_ODD_PRICES: tuple[Any, ...] = ("-inf", "nan", 10**400, 10**30, "1_000", {}, [1, 2], "")
_BORN = ("2023-11-01", "2023-11-14T12:30:00+02:00", 1_699_999_000_000, T0_MS + 400 * DAY_MS, "soon", True, None, -5)
_FILLERS = 1100
"""More items than the columns have rows at first."""

sizes = st.sampled_from([0, 3, 20, 20, 80, 80, 300, 1200])
seeds = st.integers(0, 1 << 32)


def made_events(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Events out of order by less than the lateness, every type, some of them told twice."""
    made: list[dict[str, Any]] = []
    now_ms, step_ms = T0_MS, rng.choice([SECOND_MS, MINUTE_MS, MINUTE_MS, 5 * MINUTE_MS, 7 * HOUR_MS])
    disorder_ms = rng.choice([0, MINUTE_MS, LATENESS_MS])
    # Alone, a user has more visits than are kept.
    users = rng.choice([USERS, USERS, USERS[:1]])
    for number in range(count):
        if made and rng.random() < 0.05:
            # One of the latest, so that it is not late.
            again = rng.choice(made[-5:])
            if now_ms - again["ts"] <= LATENESS_MS:
                made.append(again)
                continue
        now_ms += rng.choice([0, 0, step_ms, rng.randrange(1, 2 * step_ms)])
        ts_ms = now_ms - rng.choice([0, 0, rng.randrange(disorder_ms + 1)])
        made.append(_event(rng, number, rng.choice(users), ts_ms))
    return made


def _event(rng: random.Random, number: int, user: str, ts_ms: int) -> dict[str, Any]:
    kind = rng.choice(_TYPES)
    made: dict[str, Any] = {"id": f"e{number}", "type": kind, "user": user, "ts": ts_ms}
    if kind == "impression" and rng.random() < 0.9:
        made["items"] = [rng.choice(ITEMS) for _ in range(rng.randint(1, 6))]
    elif kind != "search" or rng.random() < 0.3:
        made["item"] = rng.choice(ITEMS)
    elif rng.random() < 0.5:
        # Only of impressions are `items` read.
        made["items"] = list(ITEMS[:3])
    if rng.random() < 0.3:
        # Thousandths are kept; a value of 0 is none.
        made["value"] = rng.choice([0, -2.5, 3.125, 9.99, 0.001, 1000])
    if rng.random() < 0.2:
        made["decision_id"] = f"d{number % 7}"
    if rng.random() < 0.2:
        made["context"] = made_context(rng, rng.randint(1, 5))
    if rng.random() < 0.3:
        made["slot"] = rng.choice(["home", "cart"])
    return made


def _some(rng: random.Random, values: tuple[Any, ...], most: int) -> Any:
    """One of the values, or a list of several; lists may be empty and repeat themselves."""
    return rng.choice(values) if rng.random() < 0.4 else [rng.choice(values) for _ in range(rng.randint(0, most))]


def _vector(rng: random.Random) -> Any:
    # The second component keeps vectors from cancelling each other out to a rounding, which has no direction.
    vector = [rng.choice([-1, 0, 1.5, 2]), rng.choice([1, 2.5, 3]), rng.choice([0, -0.5, 1])]
    return rng.choice([vector, vector, vector, vector[:2], [0, 0, 0], [], "x", None])


def _price(rng: random.Random) -> Any:
    return rng.choice([rng.choice(_PRICES), round(rng.uniform(-2, 30), 5), 0.1])


def made_attributes(rng: random.Random) -> dict[str, Any]:
    """Attributes of an item, each at times missing, empty or of the wrong type."""
    attributes = {
        "genres": _some(rng, _GENRES, 10),
        "price": _price(rng),
        "flag": rng.choice([True, False, 0, 1, -1, "false", None]),
        "title": _some(rng, tuple(" ".join(rng.sample(_WORDS, rng.randint(0, 4))) for _ in range(3)), 3),
        "vector": _vector(rng),
        "born": rng.choice(_BORN),
    }
    return {name: value for name, value in attributes.items() if rng.random() < 0.85}


def _puts(rng: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """The versions of the catalogue's entries in the order in which they come; the last one of an item holds."""
    fillers = _FILLERS if rng.random() < 0.05 else 0
    names = [*ITEMS[:-1], "unvisited", *(f"filler{n}" for n in range(fillers))]
    for item in names:
        yield item, made_attributes(rng)
    for _ in range(rng.choice([0, 5, 20])):
        yield rng.choice(names), {} if rng.random() < 0.3 else made_attributes(rng)


def made_traits(rng: random.Random) -> dict[str, Any]:
    """What is known of a user from elsewhere."""
    traits = {
        "age": rng.choice([34, -2.5, 0, "41", "old", True, None, 1e20]),
        "job": _some(rng, _GENRES, 10),
        "wanted": _some(rng, _GENRES, 3),
        "tz": _time_zone(rng),
        "timezone": _time_zone(rng),
    }
    return {name: value for name, value in traits.items() if rng.random() < 0.7}


def _time_zone(rng: random.Random) -> Any:
    return rng.choice([*ZONES, -90, 330, 345.5, 100_000, True, "Mars/Olympus", None, [60]])


def made_context(rng: random.Random, size: int) -> dict[str, Any]:
    """What a question about `size` items brings along."""
    of = rng.choice([(0.1,), _PRICES[:10], _PRICES, (*_PRICES, *_ODD_PRICES)])
    prices = [rng.choice(of) for _ in range(size)]
    context = {
        "prices": rng.choice([prices, prices, prices, prices[1:], [*prices, 1], 5, "x", None, {}]),
        "wanted": _some(rng, _GENRES, 4),
        "query": _some(rng, (*_WORDS, "RED hat!", "unheard of", ""), 3),
        "vec": _vector(rng),
        "age": rng.choice([34, "x", None]),
        "job": _some(rng, _GENRES, 3),
        "tz": _time_zone(rng),
        "timezone": _time_zone(rng),
        "user_agent": rng.choice([*USER_AGENTS, "", 7, None]),
        "referer": rng.choice([*REFERERS, OWN_REFERER, 7, None]),
    }
    told = {name: value for name, value in context.items() if rng.random() < 0.8}
    return told | rng.choice(COUNTRIES)[0]


def made_question(rng: random.Random, events: list[dict[str, Any]]) -> Asked:
    """A question at a moment after all events, by a user that may be unknown, about items that may be."""
    last_ms = max((made["ts"] for made in events), default=T0_MS)
    later_ms = rng.choice([0, 1, rng.randrange(GAP_MS), GAP_MS, rng.randrange(DAY_MS), rng.randrange(10 * DAY_MS)])
    items = rng.sample([*ITEMS, "unvisited", "unheard of"], rng.randint(1, 8))
    places = list(range(len(items))) if rng.random() < 0.7 else [-1] * len(items)
    return Asked(
        user=rng.choice([*USERS, "nobody"]),
        items=items,
        as_of_ms=last_ms + later_ms,
        places=places,
        context=made_context(rng, len(items)),
        slot=rng.choice(["home", "cart", "elsewhere", ""]),
    )


def records(events: list[dict[str, Any]]) -> list[LogRecord]:
    """Events as records of a partition."""
    return [
        LogRecord(offset, made["ts"], made["user"].encode(), json.dumps(made).encode())
        for offset, made in enumerate(events)
    ]


def fold_in_slices(system: InProcess, log: list[LogRecord], rng: random.Random) -> list[Record]:
    """Fold a log that is cut at random places; returns the examples made."""
    made = []
    at = 0
    while at < len(log):
        size = rng.choice([1, 3, 50, 400])
        made += system.fold(log[at : at + size])
        at += size
    return made


def system_of(features: Features | str, *, with_examples: bool = False, lateness_ms: int = LATENESS_MS) -> InProcess:
    """The agents' folds and the engine on a catalogue of features."""
    with TemporaryDirectory() as folder:
        # A path of its own: plans are kept by path.
        path = Path(folder) / "features.toml"
        path.write_text(features if isinstance(features, str) else toml(features), encoding="utf-8")
        settings = Settings(features=path, allowed_lateness_ms=lateness_ms, session_gap_ms=GAP_MS)
        return InProcess(settings, with_examples=with_examples)


class Drawn:
    """A world told to a system, and the same as an oracle knows it."""

    def __init__(self, seed: int, count: int) -> None:
        self.rng = random.Random(seed)
        self.events = made_events(self.rng, count)
        self.puts = list(_puts(self.rng))
        self.traits = {user: made_traits(self.rng) for user in USERS[:-1]}

    def tell_what_is_known(self, system: InProcess) -> None:
        """The catalogue and the traits."""
        for item, attributes in self.puts:
            system.put_item(item, attributes)
        for user, traits in self.traits.items():
            system.put_traits(user, traits)

    def world(self) -> World:
        """All of it."""
        return World(self.events, Catalogue(dict(self.puts)), self.traits, GAP_MS)
