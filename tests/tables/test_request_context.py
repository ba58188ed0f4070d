"""What a request's context tells: real headers, any text at all, and the standard library's own clock."""

import doctest
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from types import ModuleType
from zoneinfo import ZoneInfo, reset_tzpath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables import referers, request_context
from tables.request_context import (
    BROWSERS,
    OSES,
    PLATFORMS,
    LocalTimes,
    Zone,
    country,
    local_time,
    referer_medium,
    user_agent,
)

# Platform, os and browser, or the first of them, then the header; WEBKIT and APPLE stand for what is always there.
USER_AGENTS = """
desktop windows chrome | Mozilla/5.0 (Windows NT 10.0; Win64; x64) WEBKIT Chrome/131.0.0.0 Safari/537.36
desktop windows edge | Mozilla/5.0 (Windows NT 10.0; Win64; x64) WEBKIT Chrome/130.0.0.0 Safari/537.36 Edg/130.0.2849.80
desktop windows opera | Mozilla/5.0 (Windows NT 10.0; Win64; x64) WEBKIT Chrome/129.0.0.0 Safari/537.36 OPR/115.0.0.0
desktop windows firefox | Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0
desktop macos chrome | Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) WEBKIT Chrome/140.0.0.0 Safari/537.36
desktop macos safari | Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) APPLE Version/18.1 Safari/605.1.15
desktop macos firefox | Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:132.0) Gecko/20100101 Firefox/132.0
desktop linux chrome | Mozilla/5.0 (X11; Linux x86_64) WEBKIT Chrome/131.0.0.0 Safari/537.36
desktop linux firefox | Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0
desktop chromeos chrome | Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) WEBKIT Chrome/131.0.0.0 Safari/537.36
mobile ios safari | Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) APPLE Version/18.1 Mobile/15E148 Safari/604.1
mobile ios safari | Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) APPLE Version/26.0 Mobile/15E148 Safari/604.1
mobile ios chrome | Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) APPLE CriOS/131.0.6778.73 Mobile/15E148 \
Safari/604.1
mobile ios firefox | Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) APPLE FxiOS/133.0 Mobile/15E148 \
Safari/605.1.15
mobile ios edge | Mozilla/5.0 (iPhone; CPU iPhone OS 17_7_1 like Mac OS X) APPLE Version/17.0 EdgiOS/130.0.2849.80 \
Mobile/15E148 Safari/605.1.15
mobile ios other | Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) APPLE Mobile/22A3354 [FBAN/FBIOS;\
FBAV/489.0.0.53.77;FBBV/658192351;FBDV/iPhone15,2;FBMD/iPhone;FBSN/iOS;FBSV/18.0;FBSS/3;FBID/phone;FBLC/en_GB;FBOP/5]
tablet ios safari | Mozilla/5.0 (iPad; CPU OS 17_7_1 like Mac OS X) APPLE Version/17.7 Mobile/15E148 Safari/604.1
mobile android chrome | Mozilla/5.0 (Linux; Android 10; K) WEBKIT Chrome/131.0.0.0 Mobile Safari/537.36
tablet android chrome | Mozilla/5.0 (Linux; Android 10; K) WEBKIT Chrome/131.0.0.0 Safari/537.36
mobile android samsung | Mozilla/5.0 (Linux; Android 14; SM-S921B) WEBKIT SamsungBrowser/27.0 Chrome/125.0.0.0 Mobile \
Safari/537.36
tablet android samsung | Mozilla/5.0 (Linux; Android 13; SM-X700) WEBKIT SamsungBrowser/26.0 Chrome/122.0.0.0 \
Safari/537.36
mobile android firefox | Mozilla/5.0 (Android 14; Mobile; rv:133.0) Gecko/133.0 Firefox/133.0
tablet android firefox | Mozilla/5.0 (Android 14; Tablet; rv:133.0) Gecko/133.0 Firefox/133.0
mobile android opera | Mozilla/5.0 (Linux; Android 10; VOG-L29) WEBKIT Chrome/131.0.6778.81 Mobile Safari/537.36 \
OPR/86.0.0.0
mobile android chrome | Mozilla/5.0 (Linux; Android 14; Pixel 8 Build/AP2A.240805.005; wv) WEBKIT Version/4.0 \
Chrome/130.0.6723.102 Mobile Safari/537.36
mobile android chrome | Mozilla/5.0 (Linux; Android 11; CUBOT NOTE 20) WEBKIT Chrome/130.0.0.0 Mobile Safari/537.36
tablet android other | Mozilla/5.0 (Linux; Android 9; KFMAWI) WEBKIT Silk/131.4.1 like Chrome/131.0.0.0 Safari/537.36
mobile android other | Dalvik/2.1.0 (Linux; U; Android 14; SM-A546B Build/UP1A.231005.007)
other | Mozilla/5.0 (Web0S; Linux/SmartTV) WEBKIT Chrome/108.0.5359.211 Safari/537.36
other android | Mozilla/5.0 (Linux; Android 12; AFTKRT) WEBKIT Chrome/128.0.0.0 Mobile Safari/537.36
bot other other | Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)
bot android | Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) WEBKIT Chrome/131.0.6778.69 Mobile \
Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)
bot other | Mozilla/5.0 WEBKIT; compatible; GPTBot/1.2; +https://openai.com/gptbot)
bot other | Mozilla/5.0 WEBKIT; compatible; Claude-User/1.0; +Claude-User@anthropic.com)
bot | facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)
bot | meta-externalagent/1.1 (+https://developers.facebook.com/docs/sharing/webmasters/crawler)
bot linux chrome | Mozilla/5.0 (X11; Linux x86_64) WEBKIT HeadlessChrome/131.0.0.0 Safari/537.36
bot | curl/8.5.0
bot | python-requests/2.32.3
other other other |
other other other | -
other other other | Opera
"""
WHOLE = {"WEBKIT": "AppleWebKit/537.36 (KHTML, like Gecko)", "APPLE": "AppleWebKit/605.1.15 (KHTML, like Gecko)"}


@pytest.mark.parametrize("line", USER_AGENTS.strip().splitlines())
def test_real_user_agents(line: str) -> None:
    device, _, text = line.partition("|")
    for short, whole in WHOLE.items():
        text = text.replace(short, whole)
    found = user_agent(text.strip())
    assert f"{found.platform} {found.os} {found.browser}".startswith(device.strip())


# What takes longest takes 3 ms; a pause of the garbage collector may fall within.
BOUND_S = 0.5
# Pieces that the library's expressions look for, many times over: what would make them search long.
PIECES = ["Mozilla/5.0 (", "Android ", "iPad", "; ", "CFNetwork", "1.", "1", "a", " ", "Spider", "bot", "ss", "TV", "/"]
HEADERS = st.one_of(
    st.text(),
    st.builds(lambda head, piece: head + piece * 5000, st.text(max_size=20), st.sampled_from(PIECES)),
    st.lists(st.sampled_from(PIECES), max_size=400).map("".join),
    st.text(st.characters(codec=None), max_size=300),  # lone surrogates too, as JSON may bring
)


@given(HEADERS)
@settings(deadline=None)
def test_any_user_agent_is_read_in_bounded_time(text: str) -> None:
    user_agent("warm")
    started_s = time.process_time()
    found = user_agent(text)
    assert time.process_time() - started_s < BOUND_S
    assert found.platform in PLATFORMS
    assert found.os in OSES
    assert found.browser in BROWSERS


def test_little_of_long_user_agents_is_kept() -> None:
    parsed = request_context._parsed
    parsed.cache_clear()
    for at in range(20):
        user_agent("x" * 10_000 + str(at))
    assert parsed.cache_info().currsize == 1
    assert parsed.cache_info().maxsize is not None


OWN = frozenset({"shop.example", "shop.co.uk"})


@pytest.mark.parametrize(
    ("url", "medium"),
    [
        ("", "direct"),
        ("  ", "direct"),
        ("https://shop.example/cart?id=7", "internal"),
        ("https://WWW.Shop.Example:8443/", "internal"),
        ("https://m.shop.co.uk./", "internal"),
        ("https://notshop.example/", "external"),
        ("android-app://example.shop/", "internal"),
        ("https://www.google.com/", "search"),
        ("https://www.google.co.uk/search?q=tea", "search"),
        ("https://google.com.br/", "search"),
        ("www.google.de/search", "search"),
        ("//duckduckgo.com/", "search"),
        ("https://yandex.ru/", "search"),
        ("https://ya.ru/", "search"),
        ("https://go.mail.ru/search", "search"),
        ("https://de.search.yahoo.com/", "search"),
        ("https://cn.bing.com/search", "search"),
        ("android-app://com.google.android.googlequicksearchbox/", "search"),
        ("https://l.facebook.com/l.php?u=x", "social"),
        ("https://t.co/abc", "social"),
        ("https://x.com/someone", "social"),
        ("https://www.pinterest.co.uk/", "social"),
        ("https://out.reddit.com/", "social"),
        ("android-app://com.facebook.katana/", "social"),
        ("android-app://com.google.android.youtube/", "social"),
        ("android-app://org.telegram.messenger", "social"),
        ("https://mail.google.com/mail/u/0/", "email"),
        ("https://us-mg5.mail.yahoo.com/", "email"),
        ("https://webmail.university.example/", "email"),
        ("https://e.mail.ru/", "email"),
        ("android-app://com.google.android.gm/", "email"),
        ("https://shop.example/?utm_source=n&utm_medium=email", "email"),
        ("https://shop.example/?GCLID=Cj0&utm_medium=organic", "paid"),
        ("https://shop.example/?utm_medium=Paid_Social&fbclid=x", "paid"),
        ("https://other.example/?a=1&utm_medium=cpc#top", "paid"),
        ("https://shop.example/?fbclid=IwAR0", "social"),
        ("https://shop.example/?utm_medium=qr&agclid=1", "internal"),
        ("https://docs.google.com/document/d/1", "external"),
        ("https://google.evil.example/", "external"),
        ("https://notgoogle.com/", "external"),
        ("https://www.google.com@evil.example/", "external"),
        ("https://max.com/", "external"),
        ("https://[::1", "external"),
        ("https://:80", "external"),
        ("about:blank", "external"),
        ("mailto:a@b.example", "external"),
        ("no address", "external"),
        ("https://" + "a." * 100_000 + "google.com/", "external"),
    ],
)
def test_ways_in(url: str, medium: str) -> None:
    assert referer_medium(url, OWN) == medium


URLS = st.one_of(
    HEADERS,
    st.builds("{}://{}/{}?{}".format, st.sampled_from(["http", "android-app", ""]), st.text(), st.text(), st.text()),
    st.builds(lambda piece: "https://" + piece * 5000, st.sampled_from(["a.", "[", "@", "?gclid=", "&a=", "//", ":"])),
)


@given(URLS)
@settings(deadline=None)
def test_any_referer_has_a_medium_in_bounded_time(url: str) -> None:
    started_s = time.process_time()
    medium = referer_medium(url, OWN)
    assert time.process_time() - started_s < BOUND_S
    assert medium in referers.MEDIUMS


@pytest.mark.parametrize(
    ("context", "code"),
    [
        ({}, ""),
        ({"country": "gb"}, "GB"),
        ({"country": "UK"}, "GB"),
        ({"country": "DEU"}, ""),
        ({"country": "ÅÅ"}, ""),
        ({"country": 49, "locale": None}, ""),
        ({"country": "FR", "cf-ipcountry": "DE"}, "FR"),
        ({"country": "", "cloudfront-viewer-country": "DE", "locale": "en-GB"}, "DE"),
        ({"CF-IPCountry": "T1", "locale": "en-GB"}, "GB"),
        ({"X-Vercel-IP-Country": "US"}, "US"),
        ({"x-country-code": "ZZ"}, ""),
        ({"locale": "pt_BR.UTF-8"}, "BR"),
        ({"locale": "C.UTF-8"}, ""),
        ({"locale": "sr-Latn-RS"}, "RS"),
        ({"locale": "ca-ES-valencia"}, "ES"),
        ({"language": "en"}, ""),
        ({"language": "es-419"}, ""),
        ({"language": "en-USA"}, ""),
        ({"language": "de, de-CH;q=0.9, fr-FR;q=0.5"}, "CH"),
        ({"Accept-Language": "en-US,en;q=0.5"}, "US"),
        ({"Accept-Language": "*"}, ""),
    ],
)
def test_countries(context: dict[str, object], code: str) -> None:
    assert country(context) == code


@given(
    st.dictionaries(
        st.sampled_from(["country", "CF-IPCountry", "locale", "language", "Accept-Language"]) | st.text(),
        st.text() | st.integers() | st.none() | st.lists(st.text()) | st.just("en-" * 10_000) | st.just("en," * 10_000),
    )
)
@settings(deadline=None)
def test_any_context_has_a_country_or_none(context: dict[str, object]) -> None:
    started_s = time.process_time()
    code = country(context)
    assert time.process_time() - started_s < BOUND_S
    assert code == "" or (len(code) == 2 and code.isascii() and code.isupper())


def _told(moment: datetime) -> tuple[float, int, int]:
    ms = moment.microsecond // 1000
    hour = (((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1000 + ms) / 3_600_000
    return hour, moment.weekday(), moment.month


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


NAMES = sorted(request_context._zone_names())
TIMES_MS = st.integers(0, 4_102_444_800_000)


@pytest.fixture(scope="module")
def packaged_zones() -> Iterator[None]:
    """The standard library reads the package too, and not the machine's database."""
    reset_tzpath(to=[])
    ZoneInfo.clear_cache()
    yield
    reset_tzpath()
    ZoneInfo.clear_cache()


@pytest.mark.usefixtures("packaged_zones")
@given(TIMES_MS, st.sampled_from(NAMES))
def test_local_time_is_that_of_the_standard_library(as_of_ms: int, name: str) -> None:
    moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=as_of_ms)).astimezone(ZoneInfo(name))
    found = local_time(as_of_ms, name)
    assert (found.hour, found.weekday, found.month) == _told(moment)


@given(TIMES_MS, st.integers(-1439, 1439))
def test_local_time_at_an_offset(as_of_ms: int, minutes: int) -> None:
    zone = timezone(timedelta(minutes=minutes))
    moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=as_of_ms)).astimezone(zone)
    for given_as in (minutes, float(minutes)):
        found = local_time(as_of_ms, given_as)
        assert (found.hour, found.weekday, found.month) == _told(moment)


@pytest.mark.parametrize(
    ("utc", "zone", "hour"),
    [
        # Clocks went from 2:00 to 3:00.
        ("2026-03-29T00:59:59Z", "Europe/Berlin", 1 + 59 / 60 + 59 / 3600),
        ("2026-03-29T01:00:00Z", "Europe/Berlin", 3.0),
        # Half past two came twice.
        ("2026-10-25T00:30:00Z", "Europe/Berlin", 2.5),
        ("2026-10-25T01:30:00Z", "Europe/Berlin", 2.5),
        ("2026-10-25T02:30:00Z", "Europe/Berlin", 3.5),
        # The change of Lord Howe is half an hour.
        ("2026-04-04T14:45:00Z", "Australia/Lord_Howe", 1.75),
        ("2026-04-04T15:15:00Z", "Australia/Lord_Howe", 1.75),
        # By the rule for years that the database does not list.
        ("2060-07-01T12:00:00Z", "America/New_York", 8.0),
        ("2060-01-01T12:00:00Z", "America/New_York", 7.0),
        ("2026-01-01T12:00:00Z", "Asia/Kathmandu", 17.75),
    ],
)
def test_clocks_that_change(utc: str, zone: str, hour: float) -> None:
    assert local_time(_ms(datetime.fromisoformat(utc)), zone).hour == pytest.approx(hour, abs=1e-9)


ZONES = st.one_of(
    st.none(),
    st.sampled_from(NAMES),
    st.text(),
    st.sampled_from(["America", "../UTC", "/etc/localtime", "zone.tab", "\0", "UTC\n", "x" * 10_000]),
    st.integers(),
    st.floats(),
    st.booleans(),
)


@given(st.lists(st.tuples(TIMES_MS, ZONES)))
def test_many_local_times_are_each_of_them(moments: list[tuple[int, Zone]]) -> None:
    local = LocalTimes(np.array([at for at, _ in moments], np.int64), [zone for _, zone in moments])
    assert (local.hour.dtype, local.weekday.dtype, local.month.dtype) == (np.float64, np.int64, np.int64)
    for at, (as_of_ms, zone) in enumerate(moments):
        found = local_time(as_of_ms, zone)
        assert (local.hour[at], local.weekday[at], local.month[at]) == (found.hour, found.weekday, found.month)
        assert local.weekend[at] == (found.weekday in {5, 6})
        assert 0 <= found.hour < 24
        if zone is None or isinstance(zone, bool) or (isinstance(zone, str) and zone not in NAMES):
            assert found == local_time(as_of_ms, 0)


def test_zones_need_no_database_of_the_machine() -> None:
    program = "from tables.request_context import local_time; print(local_time(1767225600000, 'America/New_York').hour)"
    without = {**os.environ, "PYTHONTZPATH": ""}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=without)
    assert ran.stdout == b"19.0\n"


def test_every_zone_opens() -> None:
    for name in NAMES:
        local_time(0, name)


@pytest.mark.parametrize("module", [request_context, referers])
def test_the_examples_hold(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
