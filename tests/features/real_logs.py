"""The real logs of ../shared/data, as a producer of each would publish them. None of it is part of this repository."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

DATA = Path(__file__).parents[3] / "shared" / "data"
Fields = dict[str, Any]
Event = dict[str, Any]


class RealLog(Struct, frozen=True):
    """A log: how its lines become events, attributes and traits, and the features that suit it beside the shipped."""

    name: str
    events: Callable[[list[Fields]], Iterator[Event]]
    attributes: Callable[[Fields], Fields]
    features: str
    traits: Callable[[Fields], Fields] = lambda _: {}
    users: int | None = None
    """So many users, the first by id, if replaying all would take a minute."""
    sampled: int = 50
    """So many outcomes are compared with the oracle."""

    def read(self) -> tuple[list[Event], dict[str, Fields], dict[str, Fields]]:
        """Events in order, attributes by item, traits by user. Skips the test where there is no such log."""
        if not (DATA / self.name).is_dir():
            pytest.skip(f"there is no {DATA / self.name}")
        lines = list(_lines(self.name, "events"))
        events = list(self.events(lines))
        kept = set(sorted({event["user"] for event in events})[: self.users])
        traits = {fields["user"]: told for fields in lines if (told := self.traits(fields))}
        items = {fields["item"]: self.attributes(fields) for fields in _lines(self.name, "items")}
        return [event for event in events if event["user"] in kept], items, traits


def _lines(name: str, what: str) -> Iterator[Fields]:
    with gzip.open(DATA / name / f"{what}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _event(fields: Fields, **more: Any) -> Event:
    made = {"id": fields["event_id"], "type": fields["type"], "user": fields["user"], "ts": fields["ts"], **more}
    for name in ("item", "session"):
        if fields[name] is not None:
            made[name] = fields[name]
    return made


def _trivago(lines: list[Fields]) -> Iterator[Event]:
    shown: dict[str, Fields] = {}
    for fields in lines:
        context = dict(fields["context"])
        if fields["type"] == "impression":
            shown[fields["event_id"]] = context
            told = {name: value for name, value in context.items() if name != "items"}
            yield _event(fields, items=context["items"], context=_with_country(told), slot="results")
        elif fields["type"] == "click":
            # A page tells with a click what it told with the list.
            told = {name: value for name, value in shown[context["impression_id"]].items() if name != "items"}
            yield _event(fields, decision_id=context["impression_id"], context=_with_country(told), slot="results")
        else:
            yield _event(fields, context=_with_country(context))


def _with_country(context: Fields) -> Fields:
    return {**context, "country": context["platform"]}


def _grocery(lines: list[Fields]) -> Iterator[Event]:
    for fields in lines:
        context = {**fields["context"], "timezone": "America/New_York"}
        yield _event(fields, value=context.pop("value"), context=context)


def _grocery_item(fields: Fields) -> Fields:
    category = [fields.get("department"), fields.get("product_category")]
    return {**fields, "category": category, "title": fields.get("product_type")}


def _ratings(lines: list[Fields]) -> Iterator[Event]:
    for fields in lines:
        rating = fields["context"]["rating"]
        yield _event(fields, value=rating)
        if rating >= 4:
            # The log has no outcomes; that somebody liked a film is one, told by an event of its own.
            yield {**_event(fields), "id": f"{fields['event_id']}-like", "type": "click"}


def _film(fields: Fields) -> Fields:
    year = fields.get("year")
    return {**fields, "category": fields.get("genres"), "released": f"{year}-01-01" if year else None}


def _banners(lines: list[Fields]) -> Iterator[Event]:
    shown: dict[str, Fields] = {}
    for fields in lines:
        impression = fields["context"].get("impression_id", fields["event_id"])
        context = shown.setdefault(impression, fields["context"])
        # The log hides who they were: people of the same features are taken for one.
        user = "-".join(part[:6] for part in context["user_features"])
        made = _event({**fields, "user": user}, context=context)
        if fields["type"] == "click":
            made["decision_id"] = impression
        yield made


TRIVAGO = RealLog(
    "trivago",
    _trivago,
    lambda fields: {"category": fields.get("city"), "title": fields.get("city")},
    """
    city_hashed = { kind = "hashed", attribute = "category", buckets = 8 }
    city_words = { kind = "word_count", attribute = "title" }
    offer = { kind = "given", field = "prices", transform = "log" }
    offer_rank = { kind = "list_relative", field = "prices", measure = "rank" }
    offer_score = { kind = "list_relative", field = "prices", measure = "score" }
    offer_ratio = { kind = "list_relative", field = "prices", measure = "to_lowest" }
    asked_city = { kind = "field_match", attribute = "category", field = "city", method = "values" }
    asked_words = { kind = "field_match", attribute = "title", field = "city", method = "text" }
    device = { kind = "user_string", source = "context", field = "device", values = ["mobile", "tablet", "desktop"] }
    way = { kind = "user_hashed", source = "context", field = "platform", buckets = 6 }
    step = { kind = "user_number", source = "context", field = "step", transform = "log" }
    land = { kind = "geo", countries = ["BR", "US", "AU", "IT"] }
    place_for = { kind = "slot", values = ["results"] }
    noise = { kind = "random" }
    unshown = { kind = "shown_count", within = "1d" }
    """,
)
GROCERY = RealLog(
    "completejourney",
    _grocery,
    _grocery_item,
    """
    department = { kind = "string", attribute = "department", values = ["GROCERY", "DRUG GM", "PRODUCE", "DELI"] }
    maker = { kind = "hashed", attribute = "manufacturer_id", buckets = 16 }
    maker_bought = { kind = "interacted_with", attribute = "manufacturer_id", latest = 64, within = "30d" }
    maker_number = { kind = "number", attribute = "manufacturer_id", transform = "standard" }
    maker_diversity = { kind = "diversity", attribute = "manufacturer_id", of = "number" }
    maker_score = { kind = "list_relative", attribute = "manufacturer_id", measure = "score" }
    is_made = { kind = "boolean", attribute = "manufacturer_id" }
    month = { kind = "local_time", measure = "month" }
    weekend = { kind = "local_time", measure = "weekend" }
    store = { kind = "user_hashed", source = "context", field = "store", buckets = 8 }
    noise = { kind = "random", salt = "grocery" }
    """,
    users=20,
    sampled=40,
)
FILMS = RealLog(
    "ml100k",
    _ratings,
    _film,
    """
    genres = { kind = "string", attribute = "genres", values = ["Drama", "Comedy", "Action", "Children's"] }
    genres_hashed = { kind = "hashed", attribute = "genres", buckets = 8 }
    genres_diverse = { kind = "diversity", attribute = "genres" }
    age = { kind = "item_age", attribute = "released" }
    year = { kind = "number", attribute = "year", transform = "standard" }
    year_level = { kind = "number", attribute = "year", transform = "quantile" }
    year_for_me = { kind = "relative_number", attribute = "year", latest = 64 }
    year_apart = { kind = "diversity", attribute = "year", of = "number" }
    year_score = { kind = "list_relative", attribute = "year", measure = "score" }
    words = { kind = "word_count", attribute = "title" }
    mine = { kind = "field_match", attribute = "genres", field = "wanted", method = "values" }
    old = { kind = "user_number", field = "age" }
    work = { kind = "user_hashed", field = "occupation", buckets = 8 }
    sex = { kind = "user_string", field = "gender", values = ["F", "M"] }
    noise = { kind = "random" }
    """,
    traits=lambda fields: {name: fields["context"][name] for name in ("age", "gender", "occupation")},
    users=100,
    sampled=60,
)
BANNERS = RealLog(
    "obd_small",
    _banners,
    lambda fields: {**fields, "category": [fields.get("item_feature_1"), fields.get("item_feature_2")]},
    """
    size = { kind = "number", attribute = "item_feature_0" }
    size_level = { kind = "number", attribute = "item_feature_0", transform = "quantile" }
    size_standard = { kind = "number", attribute = "item_feature_0", transform = "standard" }
    size_rank = { kind = "list_relative", attribute = "item_feature_0", measure = "rank" }
    size_apart = { kind = "diversity", attribute = "item_feature_0", of = "number" }
    sort = { kind = "hashed", attribute = "item_feature_3", buckets = 4 }
    sort_shown = { kind = "shown_alike", attribute = "item_feature_3", within = "1d" }
    chance = { kind = "user_number", source = "context", field = "propensity" }
    policy = { kind = "user_string", source = "context", field = "policy", values = ["bts", "random"] }
    noise = { kind = "random" }
    """,
    sampled=40,
)
LOGS = (TRIVAGO, GROCERY, FILMS, BANNERS)
