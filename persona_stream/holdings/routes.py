"""Holdings over HTTP: read-only, the same of a worker and of a server.

What is told is digests and keys. A value is shown only where the setting `audit_values` allows it.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from persona_stream.holdings.digests import (
    BUCKETS,
    Bucket,
    Holding,
    Holdings,
    MovedError,
    Stand,
    digest_text,
    field_digests,
    steps,
    sum_buckets,
)
from persona_stream.stream.partition import entry_digest

HOLDINGS: web.AppKey[Holdings] = web.AppKey("holdings")
SHOWS_VALUES = web.AppKey("shows_values", bool)

LISTED = "/internal/holdings"
_ONE = LISTED + "/{table}/{partition}"
ALL_PARTITIONS = "all"
"""In a path, where partitions are not told apart."""

WRITE_S = 5.0

REFUSALS = {
    404: f"Not held here: {LISTED} lists what is.",
    503: "It is being read back, or another process has it now.",
}
"""What a status other than 200 means, of the routes that name a holding."""

_encode = msgspec.json.Encoder().encode


class HoldingView(Struct):
    """One holding: what it is of, where it stands, how many keys it has."""

    table: str
    partition: int | None
    changelog: str
    stand: Stand | None
    """Partition -> offset; null while it is read back."""
    keys: int
    digest: str | None
    """As kept change by change, 16 hexadecimal digits; null where none is kept."""


class HoldingsAnswer(Struct):
    """Everything that this process holds."""

    stands_in: str
    """Whose offsets `stand` tells: `source` (up to which all is applied), or `changelog` (of the next to be read)."""
    holdings: list[HoldingView]


class BucketsAnswer(Struct):
    """Digests of a holding by bucket of the key's hash, computed from its values."""

    first: Stand
    """Where it stood at the first key; equal to `last` where nothing moved."""
    last: Stand
    buckets: list[Bucket]


class EntryAnswer(Struct):
    """One key. `digest` null: it is not held."""

    stand: Stand
    digest: str | None = None
    fields: dict[str, str] | None = None
    """The digest of each field; null where the value can't be decoded."""
    value: bytes | None = None
    """The encoded value (base64), where `PERSONA_AUDIT_VALUES` allows it."""


async def listed(request: web.Request) -> web.Response:
    """Everything held."""
    holdings = request.app[HOLDINGS]
    return _json(HoldingsAnswer(holdings.stands_in, [_view(holding) for holding in holdings.all()]))


def _view(holding: Holding) -> HoldingView:
    kept = holding.kept_digest()
    return HoldingView(
        table=holding.table,
        partition=holding.partition,
        changelog=holding.changelog,
        stand=holding.stand(),
        keys=len(holding),
        digest=None if kept is None else digest_text(kept),
    )


async def buckets(request: web.Request) -> web.StreamResponse:
    """Digests by bucket."""
    holding = _asked(request)
    if holding is None:
        return _not_held()
    entries: list[tuple[bytes, int]] = []
    stands: list[Stand] = []
    try:
        async for step in steps(holding):
            stands.append(step.stand)
            entries += [(key.encode(), int(digest, 16)) for key, digest in step.entries]
    except MovedError:
        return _moved()
    return _json(BucketsAnswer(stands[0], stands[-1], sum_buckets(entries)))


async def entries(request: web.Request) -> web.StreamResponse:
    """Keys and digests of the buckets asked for, a line a step."""
    holding = _asked(request)
    if holding is None:
        return _not_held()
    if holding.stand() is None:
        return _moved()
    wanted = {int(text) for text in request.query.get("buckets", "").split(",") if text.isdigit()}
    answer = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/x-ndjson"})
    await answer.prepare(request)
    try:
        async for step in steps(holding, wanted if "buckets" in request.query else range(BUCKETS)):
            # Whoever reads slowly must not keep files of a store open that is another worker's by then.
            await asyncio.wait_for(answer.write(_encode(step) + b"\n"), WRITE_S)
        await answer.write(b"{}\n")
    except (MovedError, TimeoutError):
        # Without the last, empty line it is not whole.
        pass
    await answer.write_eof()
    return answer


async def entry(request: web.Request) -> web.StreamResponse:
    """One key."""
    holding = _asked(request)
    if holding is None:
        return _not_held()
    stand = holding.stand()
    if stand is None:
        return _moved()
    key = request.query.get("key", "")
    raw = holding.encoded(key)
    if raw is None:
        return _json(EntryAnswer(stand))
    try:
        fields = field_digests(holding.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError):
        fields = None
    value = raw if request.app[SHOWS_VALUES] else None
    return _json(EntryAnswer(stand, digest_text(entry_digest(key.encode(), raw)), fields, value))


def _asked(request: web.Request) -> Holding | None:
    table, partition = request.match_info["table"], request.match_info["partition"]
    for holding in request.app[HOLDINGS].all():
        number = ALL_PARTITIONS if holding.partition is None else str(holding.partition)
        if (holding.table, number) == (table, partition):
            return holding
    return None


def _not_held() -> web.Response:
    return web.Response(status=404, text=f"{REFUSALS[404]}\n")


def _moved() -> web.Response:
    return web.Response(status=503, text=f"{REFUSALS[503]}\n")


def _json(answer: Struct) -> web.Response:
    return web.Response(body=_encode(answer), content_type="application/json")


class HoldingRoute(Struct, frozen=True):
    """A GET route, and what it answers; None: a line of JSON a step."""

    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    name: str
    summary: str
    answer: type | None
    query: dict[str, str] = {}
    """Parameter -> what it means."""

    @property
    def refusals(self) -> dict[int, str]:
        """Statuses other than 200."""
        return {} if self.path == LISTED else REFUSALS


ROUTES = (
    HoldingRoute(LISTED, listed, "holdings", "What this process holds of each table.", HoldingsAnswer),
    HoldingRoute(_ONE + "/buckets", buckets, "buckets", "Digests by bucket of the key's hash.", BucketsAnswer),
    HoldingRoute(
        _ONE + "/entries",
        entries,
        "entries",
        "Keys and digests, a line of JSON for each moment at which some were read; an empty object ends it.",
        None,
        {"buckets": "Only of these buckets, such as `7,12`."},
    ),
    HoldingRoute(
        _ONE + "/entry", entry, "entry", "Digests of one key's fields.", EntryAnswer, {"key": "The key, whole."}
    ),
)


def provide(app: web.Application, holdings: Holdings, *, shows_values: bool) -> None:
    """Give the handlers of `app` what they tell of."""
    app[HOLDINGS], app[SHOWS_VALUES] = holdings, shows_values
