"""The ways in to a site, by the hosts that refer to it and by the tags of campaigns."""

import re
from typing import Literal, get_args

Medium = Literal["direct", "internal", "search", "social", "email", "paid", "external"]
MEDIUMS: tuple[Medium, ...] = get_args(Medium)

_SEARCH = """
    bing.com duckduckgo.com baidu.com ecosia.org qwant.com startpage.com search.brave.com kagi.com swisscows.com ya.ru
    go.mail.ru naver.com search.daum.net sogou.com so.com seznam.cz ask.com search.aol.com dogpile.com mojeek.com
    coccoc.com
"""
_SOCIAL = """
    facebook.com fb.com fb.me messenger.com instagram.com threads.net threads.com whatsapp.com wa.me t.co x.com
    twitter.com reddit.com linkedin.com lnkd.in pin.it tiktok.com musically.zhiliaoapp.com youtube.com youtu.be
    youtube.android.google.com snapchat.com tumblr.com vk.com ok.ru weibo.com weibo.cn telegram.org t.me bsky.app
    mastodon.social discord.com quora.com twitch.tv xing.com nextdoor.com line.me news.ycombinator.com
"""
_EMAIL = """
    mail.google.com gm.android.google.com outlook.live.com outlook.office.com outlook.office365.com
    outlook.office.microsoft.com navigator.gmx.net navigator.web.de deref-gmx.net deref-web.de
"""
# Documents and programs of those who also run a search engine, YouTube apart.
_EXTERNAL = """
    docs.google.com drive.google.com sites.google.com accounts.google.com classroom.google.com meet.google.com
    calendar.google.com chat.google.com apps.android.google.com
"""
_MEDIUM_OF: dict[str, Medium] = {
    **dict.fromkeys(_SEARCH.split(), "search"),
    **dict.fromkeys(_SOCIAL.split(), "social"),
    **dict.fromkeys(_EMAIL.split(), "email"),
    **dict.fromkeys(_EXTERNAL.split(), "external"),
}
# These have a domain in many countries.
_MANY_DOMAINS = re.compile(r"(?:^|\.)(google|yandex|yahoo|pinterest)\.(?:com?\.)?[a-z]{2,3}$")
_MANY_DOMAINS_MEDIUM: dict[str, Medium] = {
    "google": "search",
    "yandex": "search",
    "yahoo": "search",
    "pinterest": "social",
}
_MAIL_LABELS = frozenset({"mail", "webmail"})

_TAG = re.compile(r"(?:^|[&;])([a-z_]+)=([^&;]*)")
# Advertisers' click ids: Google, Microsoft, Yandex, TikTok, X, LinkedIn, Reddit, Snapchat.
_PAID_CLICKS = frozenset(
    {"gclid", "gbraid", "wbraid", "dclid", "msclkid", "yclid", "ttclid", "twclid", "li_fat_id", "rdt_cid", "sccid"}
)
_UTM_MEDIUMS: tuple[tuple[re.Pattern[str], Medium], ...] = (
    (re.compile(r"cp[acmv]|ppc|display|banner|retargeting|paid.*"), "paid"),
    (re.compile(r"e[-_]?mail|newsletter"), "email"),
    (re.compile(r"social.*"), "social"),
    (re.compile(r"organic|search"), "search"),
)


def campaign_medium(query: str) -> Medium | None:
    """The medium that the tags in an address's query name.

    >>> campaign_medium("utm_source=mc&utm_medium=email"), campaign_medium("id=7&msclkid=5f"), campaign_medium("q=tea")
    ('email', 'paid', None)
    """
    tags = dict(_TAG.findall(query.lower()))
    if not _PAID_CLICKS.isdisjoint(tags):
        return "paid"
    named = tags.get("utm_medium", "")
    for values, medium in _UTM_MEDIUMS:
        if values.fullmatch(named):
            return medium
    # Facebook adds it to every link that leads out, not to advertisements alone.
    return "social" if "fbclid" in tags else None


def host_medium(host: str, own_hosts: frozenset[str]) -> Medium:
    """The medium of a referring host in lower case; `own_hosts` stand for their subdomains too.

    >>> own = frozenset({"shop.example"})
    >>> host_medium("l.facebook.com", own), host_medium("shop.example", own), host_medium("notshop.example", own)
    ('social', 'internal', 'external')
    """
    labels = host.split(".")
    domains = [".".join(labels[at:]) for at in range(len(labels))]
    if not own_hosts.isdisjoint(domains):
        return "internal"
    for domain in domains:
        if domain in _MEDIUM_OF:
            return _MEDIUM_OF[domain]
    if not _MAIL_LABELS.isdisjoint(labels[:-1]):
        return "email"
    found = _MANY_DOMAINS.search(host)
    return _MANY_DOMAINS_MEDIUM[found[1]] if found else "external"
