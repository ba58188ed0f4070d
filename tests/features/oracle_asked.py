"""The oracle of what a question brings along. What user agents, referers and locales tell is written down by hand."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from world import Asked, Columns, Params, World, number_of, signed_log, values_of
from xxhash import xxh3_64_intdigest

ZONES = ("Asia/Kolkata", "America/New_York", "Europe/Berlin", "UTC")
USER_AGENTS = {
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 "
    "Mobile/15E148 Safari/604.1": ("mobile", "ios", "safari"),
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36": (
        "mobile",
        "android",
        "chrome",
    ),
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:132.0) Gecko/20100101 Firefox/132.0": (
        "desktop",
        "windows",
        "firefox",
    ),
    "Mozilla/5.0 (iPad; CPU OS 12_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1.2 "
    "Mobile/15E148 Safari/604.1": ("tablet", "ios", "safari"),
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)": ("bot", "other", "other"),
    "something else": ("other", "other", "other"),
}
REFERERS = {
    "": "direct",
    "https://www.google.de/": "search",
    "https://www.facebook.com/": "social",
    "https://shop.example/?gclid=Cj0": "paid",
    "https://elsewhere.example/page": "external",
    "https://[": "external",
}
OWN_HOST = "shop.example"
OWN_REFERER = "https://m.shop.example/cart"
COUNTRIES = (
    ({"country": "de"}, "DE"),
    ({"cf-ipcountry": "XX", "locale": "pt_BR"}, "BR"),
    ({"CF-IPCountry": "in"}, "IN"),
    ({"accept-language": "en,zh-Hant-TW;q=0.9"}, "TW"),
    ({"locale": "es-419"}, ""),
    ({"country": 7}, ""),
    ({}, ""),
)
COUNTRY_FIELDS = frozenset(name for fields, _ in COUNTRIES for name in fields)


def local_time(world: World, asked: Asked, params: Params) -> Columns:
    name = params.get("zone", "timezone")
    told = asked.context.get(name)
    zone = _zone(world.traits.get(asked.user, {}).get(name) if told is None else told)
    now = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=asked.as_of_ms)).astimezone(zone)
    since_midnight = timedelta(hours=now.hour, minutes=now.minute, seconds=now.second, microseconds=now.microsecond)
    measures = {
        "hour": since_midnight / timedelta(hours=1),
        "weekday": now.weekday(),
        "weekend": now.weekday() >= 5,
        "month": now.month,
    }
    return _of_user(asked, float(measures[params["measure"]]))


def _zone(told: Any) -> tzinfo:
    if isinstance(told, str):
        return ZoneInfo(told) if told in ZONES else UTC
    if isinstance(told, int | float) and not isinstance(told, bool) and abs(told) < 24 * 60:
        return timezone(timedelta(minutes=told))
    return UTC


def slot(world: World, asked: Asked, params: Params) -> Columns:
    return _hot(asked, params["values"], [asked.slot])


def ua(world: World, asked: Asked, params: Params) -> Columns:
    told = asked.context.get(params.get("source", "user_agent"))
    found = USER_AGENTS[told] if isinstance(told, str) and told else ()
    part = ("platform", "os", "browser").index(params.get("part", "platform"))
    return _hot(asked, params.get("values", ("desktop", "mobile", "tablet", "bot")), found[part : part + 1])


def referer(world: World, asked: Asked, params: Params) -> Columns:
    told = asked.context.get(params.get("source", "referer"))
    found: list[str] = []
    if told == OWN_REFERER:
        found = ["internal" if OWN_HOST in params.get("own_hosts", ()) else "external"]
    elif isinstance(told, str):
        found = [REFERERS[told]]
    mediums = ("direct", "internal", "search", "social", "email", "paid", "external")
    return _hot(asked, params.get("values", mediums), found)


def geo(world: World, asked: Asked, params: Params) -> Columns:
    told = {name: value for name, value in asked.context.items() if name in COUNTRY_FIELDS}
    by_hand = [code for fields, code in COUNTRIES if fields == told]
    return _hot(asked, params["countries"], by_hand or [told["country"]])


def _told(world: World, asked: Asked, params: Params) -> Any:
    held = asked.context if params.get("source") == "context" else world.traits.get(asked.user, {})
    return held.get(params["field"])


def user_number(world: World, asked: Asked, params: Params) -> Columns:
    value = number_of(_told(world, asked, params))
    return _of_user(asked, signed_log(value) if params.get("transform") == "log" else value)


def user_string(world: World, asked: Asked, params: Params) -> Columns:
    return _hot(asked, params["values"], values_of(_told(world, asked, params)))


def user_hashed(world: World, asked: Asked, params: Params) -> Columns:
    buckets = params["buckets"]
    found = [xxh3_64_intdigest(value.encode()) % buckets for value in values_of(_told(world, asked, params))]
    return _hot(asked, range(buckets), found)


def list_size(world: World, asked: Asked, params: Params) -> Columns:
    return _of_user(asked, math.log1p(len(asked.items)))


def python(world: World, asked: Asked, params: Params) -> Columns:
    """Of `own_function.price_and_place`."""
    numbers = [world.catalogue.number(item, "price") for item in asked.items]
    return [[2 * value + at for at, value in enumerate(numbers)]]


def _of_user(asked: Asked, value: float) -> Columns:
    return [[value] * len(asked.items)]


def _hot(asked: Asked, values: Iterable[Any], found: Iterable[Any]) -> Columns:
    return [[float(value in list(found))] * len(asked.items) for value in values]
