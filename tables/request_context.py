"""What the context of a ranking request or an event tells of the visit: device, way in, country, local time.

Pure functions of what a browser or an edge server says. Nothing in a context is an error: what can't be read is
`other`, `external`, "" or UTC. All rules come with pinned packages and none from the machine, so servers, workers and
trainings agree.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from typing import Literal, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from ua_parser import BasicResolver, Domain, load_lazy_builtins

from tables.referers import Medium, campaign_medium, host_medium

Platform = Literal["desktop", "mobile", "tablet", "bot", "other"]
Os = Literal["android", "ios", "windows", "macos", "linux", "chromeos", "other"]
Browser = Literal["chrome", "safari", "firefox", "edge", "samsung", "opera", "other"]
Zone = str | int | float | None
"""An IANA name, or minutes east of UTC (the negative of JavaScript's `getTimezoneOffset()`)."""

PLATFORMS: tuple[Platform, ...] = get_args(Platform)
OSES: tuple[Os, ...] = get_args(Os)
BROWSERS: tuple[Browser, ...] = get_args(Browser)

# Real user agents are shorter. It bounds the time of the library's expressions, most of which are linear.
_USER_AGENT_CHARS = 512
_URL_CHARS = 2048
_HOST_CHARS = 253
_LANGUAGES_CHARS = 256

_OFFSETS_KEPT = 1024
_MINUTE_MS = 60_000
_USER_AGENTS_KEPT = 4096
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_DAY_MINUTES = 24 * 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH_WEEKDAY = 3  # a Thursday
_SATURDAY = 5

_OS_OF: dict[str, Os] = {
    "Android": "android",
    "iOS": "ios",
    "Windows": "windows",
    "Mac OS": "macos",
    "Mac OS X": "macos",
    "Chrome OS": "chromeos",
    **dict.fromkeys(
        ("Linux", "Ubuntu", "Kubuntu", "Debian", "Fedora", "Red Hat", "CentOS", "SUSE", "Gentoo", "Linux Mint"), "linux"
    ),
}
# The library's names go on: `Chrome Mobile iOS`, `Mobile Safari UI/WKWebView`.
_BROWSER_OF: tuple[tuple[str, Browser], ...] = (
    ("Chrome", "chrome"),
    ("Chromium", "chrome"),
    ("HeadlessChrome", "chrome"),
    ("Mobile Safari", "safari"),
    ("Safari", "safari"),
    ("Firefox", "firefox"),
    ("Edge", "edge"),
    ("Samsung Internet", "samsung"),
    ("Opera", "opera"),
)
# Nearly every well-behaved robot gives an address after a plus. Cubot makes phones.
_BOT = re.compile(
    r"(?<!cu)bot|\+https?:|crawl|spider|slurp|scrap|headless|lighthouse|bingpreview|externalhit|phantomjs|(?:gpt|claude"
    r"|perplexity)-user|^(?:curl|wget|python|java|go-http|ruby|php|perl|libwww|axios|node|whatsapp|postman)",
    re.IGNORECASE,
)
_TV_CONSOLE_OR_WATCH = re.compile(
    r"\bTV\b|SmartTV|GoogleTV|AppleTV|HbbTV|Web0S|BRAVIA|CrKey|Roku|\bAFT[A-Z]|PlayStation|Xbox|Nintendo|Watch"
)
_TABLET = re.compile(r"iPad|Tablet(?! PC)|PlayBook|Kindle")
_HANDHELD = re.compile(r"Mobile|Phone")


class UserAgent(Struct, frozen=True):
    """What a User-Agent header tells of a visitor's device."""

    platform: Platform = "other"
    os: Os = "other"
    browser: Browser = "other"


class LocalTime(Struct, frozen=True):
    """A moment on the visitor's clock: `hour` in [0, 24), `weekday` 0 = Monday, `month` 1 to 12."""

    hour: float
    weekday: int
    month: int


def user_agent(text: str) -> UserAgent:
    """The device behind a User-Agent header. Only the first 512 characters are read.

    The first call compiles the library's expressions.

    >>> user_agent("Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/131.0.0.0 Mobile Safari/537.36")
    UserAgent(platform='mobile', os='android', browser='chrome')
    >>> user_agent("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)").platform
    'bot'
    >>> user_agent("")
    UserAgent(platform='other', os='other', browser='other')
    """
    return _parsed(text[:_USER_AGENT_CHARS])


def referer_medium(url: str, own_hosts: frozenset[str]) -> Medium:
    """The way in that a referring address tells of; `own_hosts`, in lower case, stand for their subdomains too.

    A campaign's tags in the query decide before the host does, so the landing page's own address may be given as well.

    >>> own = frozenset({"shop.example"})
    >>> referer_medium("https://www.google.co.uk/", own), referer_medium("https://m.shop.example/cart", own)
    ('search', 'internal')
    >>> referer_medium("https://shop.example/?gclid=Cj0", own), referer_medium("android-app://com.pinterest/", own)
    ('paid', 'social')
    >>> referer_medium("", own), referer_medium("https://[", own)
    ('direct', 'external')
    """
    url = url[:_URL_CHARS].strip()
    if not url:
        return "direct"
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return "external"
    if len(host) > _HOST_CHARS:
        return "external"
    if parts.scheme == "android-app":
        # A package is named like its maker's domain, backwards.
        host = ".".join(reversed(host.split(".")))
    return campaign_medium(parts.query) or host_medium(host, own_hosts)


def country(context: Mapping[str, object]) -> str:
    """The visitor's country, ISO 3166 alpha-2 in upper case; "" if unknown.

    It is that of `country`, else of the headers that edge servers add, else the region of `locale`, `language` or
    `accept-language`; keys in any case.

    >>> country({"country": "de"}), country({"CF-IPCountry": "XX", "locale": "pt_BR"})
    ('DE', 'BR')
    >>> country({"accept-language": "en,zh-Hant-TW;q=0.9"}), country({"locale": "es-419"})
    ('TW', '')
    """
    folded = {key.lower(): value for key, value in context.items() if isinstance(value, str)}
    for key in COUNTRY_KEYS:
        code = _country_code(folded.get(key, ""))
        if code:
            return code
    for key in LANGUAGE_KEYS:
        # Browsers write the most preferred first.
        for tag in folded.get(key, "")[:_LANGUAGES_CHARS].split(","):
            found = _REGION.match(tag)
            code = _country_code(found[1]) if found else ""
            if code:
                return code
    return ""


def local_time(as_of_ms: int, zone: Zone) -> LocalTime:
    """Hour, weekday and month at a time (epoch milliseconds) in a zone; UTC if the zone is unknown.

    >>> local_time(1767225600000, "America/New_York")
    LocalTime(hour=19.0, weekday=2, month=12)
    >>> local_time(1767225600000, 330), local_time(1767225600000, "Mars/Olympus").hour
    (LocalTime(hour=5.5, weekday=3, month=1), 0.0)
    """
    day, ms = divmod(as_of_ms + _offset_ms(as_of_ms, zone), _DAY_MS)
    return LocalTime(ms / _HOUR_MS, (day + _EPOCH_WEEKDAY) % 7, date.fromordinal(_EPOCH_DAY + day).month)


class LocalTimes:
    """`local_time` of n moments, each in its zone: arrays `[n]`, each worked out when it is asked for.

    >>> local = LocalTimes(np.array([1767225600000, 1767225600000]), ["Asia/Tokyo", -60])
    >>> local.hour.tolist(), local.weekday.tolist(), local.month.tolist()
    ([9.0, 23.0], [3, 2], [1, 12])
    """

    def __init__(self, as_of_ms: NDArray[np.int64], zones: Sequence[Zone]) -> None:
        offsets_ms = [_offset_ms(at_ms, zone) for at_ms, zone in zip(as_of_ms.tolist(), zones, strict=True)]
        self._days, self._ms = np.divmod(as_of_ms + np.array(offsets_ms, dtype=np.int64), _DAY_MS)

    @property
    def hour(self) -> NDArray[np.float64]:
        """In [0, 24)."""
        return self._ms / _HOUR_MS

    @property
    def weekday(self) -> NDArray[np.int64]:
        """0 = Monday."""
        return (self._days + _EPOCH_WEEKDAY) % 7

    @property
    def weekend(self) -> NDArray[np.bool_]:
        """Whether it is Saturday or Sunday."""
        return self.weekday >= _SATURDAY

    @property
    def month(self) -> NDArray[np.int64]:
        """1 to 12."""
        return self._days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12 + 1


@cache
def _resolver() -> BasicResolver:
    # The best available one would vary with what else is installed. The devices' expressions, half of all, stay unused
    # and uncompiled; a text that matches nothing compiles the others.
    resolver = BasicResolver(load_lazy_builtins())
    resolver("", Domain.USER_AGENT | Domain.OS)
    return resolver


@lru_cache(maxsize=_USER_AGENTS_KEPT)
def _parsed(text: str) -> UserAgent:
    if not text or text.isspace():
        return UserAgent()
    found = _resolver()(text, Domain.USER_AGENT | Domain.OS)
    os = _OS_OF.get(found.os.family, "other") if found.os else "other"
    return UserAgent(_platform(text, os), os, _browser(found.user_agent.family) if found.user_agent else "other")


def _browser(family: str) -> Browser:
    for name, browser in _BROWSER_OF:
        if family.startswith(name):
            return browser
    return "other"


def _platform(text: str, os: Os) -> Platform:
    if _BOT.search(text):
        return "bot"
    if _TV_CONSOLE_OR_WATCH.search(text):
        return "other"
    # Tablets that ask for a desktop's pages, as iPads do by default, give a desktop's header.
    if _TABLET.search(text):
        return "tablet"
    if os == "ios" or _HANDHELD.search(text):
        return "mobile"
    if os == "android":
        # A browser says Mobile on phones only; apps say it nowhere.
        return "tablet" if text.startswith("Mozilla/") else "mobile"
    return "desktop" if os != "other" else "other"


COUNTRY_KEYS = (
    "country",
    "cf-ipcountry",
    "cloudfront-viewer-country",
    "x-vercel-ip-country",
    "x-appengine-country",
    "x-country-code",
    "x-country",
    "x-geo-country",
    "x-geoip-country",
)
LANGUAGE_KEYS = ("locale", "language", "accept-language")
# Unknown; unknown; several countries; the same.
_NO_COUNTRY = frozenset({"XX", "ZZ", "EU", "AP"})
# Language, script, then the region (RFC 5646), or a POSIX locale.
_REGION = re.compile(r"\s*[A-Za-z]{2,3}(?:[-_][A-Za-z]{4})?[-_]([A-Za-z]{2})(?![A-Za-z0-9])")


def _country_code(text: str) -> str:
    code = text.upper()
    if len(text) != 2 or not (text.isascii() and text.isalpha()) or code in _NO_COUNTRY:
        return ""
    return "GB" if code == "UK" else code


def _offset_ms(as_of_ms: int, zone: Zone) -> int:
    """What the zone's clocks are ahead of UTC."""
    if isinstance(zone, str):
        # Only real names are kept in the cache.
        if zone not in _zone_names():
            return 0
        return _zone_offset_ms(as_of_ms // _MINUTE_MS, zone)
    if isinstance(zone, bool) or not isinstance(zone, int | float) or not -_DAY_MINUTES < zone < _DAY_MINUTES:
        return 0
    return round(zone * 60_000)


@lru_cache(maxsize=_OFFSETS_KEPT)
def _zone_offset_ms(minute: int, zone: str) -> int:
    # Clocks have changed at whole minutes only since 1972.
    offset = (_EPOCH + timedelta(minutes=minute)).astimezone(_zone(zone)).utcoffset()
    return offset // timedelta(milliseconds=1) if offset else 0


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(files("tzdata").joinpath("zones").read_text().split())


@cache
def _zone(name: str) -> ZoneInfo:
    # `ZoneInfo(name)` would prefer the machine's database, which may be another year's.
    with files("tzdata").joinpath(f"zoneinfo/{name}").open("rb") as rules:
        return ZoneInfo.from_file(rules, key=name)
