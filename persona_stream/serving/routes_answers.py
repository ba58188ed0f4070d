"""What should this user see now? The routes that answer from the replica."""

import time
from collections.abc import Sequence

import msgspec
import structlog

from persona_stream.serving.endpoint import NONE, Call, Reply, Route
from persona_stream.serving.problem import ProblemError, misfit
from persona_stream.serving.queries import Query, RecommendQuery, SimilarQuery, TrendingQuery
from persona_stream.serving.schemas import Answer, ItemList, ItemView, RankedItem, RankRequest, UserView
from persona_stream.serving.views import rfc3339
from persona_stream.vocabulary.ids import new_id

_encode = msgspec.json.Encoder().encode
_decode_rank = msgspec.json.Decoder(RankRequest).decode

_log = structlog.get_logger(__name__)


async def rank(call: Call) -> Reply:
    """Order the caller's items for a user."""
    body = await call.request.read()
    try:
        request = _decode_rank(body)
    except msgspec.ValidationError as error:
        raise misfit(error, "body") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError("bad-json", str(error)) from None
    try:
        answer = await call.state.turns.rank(request, started_s=call.started_s)
    except Exception:
        # A frontend must always get a list, and the caller's own order is one.
        _log.exception("ranking failed", items=len(request.items))
        answer = _given_order(request.items[: request.k])
    return _reply(answer)


async def recommend(call: Call) -> Reply:
    """Find items for a user, and order them."""
    query: RecommendQuery = call.query
    state = call.state
    context = {} if query.segment is None else {state.settings.segment_field: query.segment}
    try:
        answer = state.engine.recommend(
            call.path("user"),
            k=query.k,
            slot=query.slot,
            context=context,
            deadline_ms=query.deadline_ms,
            started_s=call.started_s,
        )
    except Exception:
        _log.exception("recommending failed")
        answer = _given_order([])
    return _reply(answer)


async def similar(call: Call) -> Reply:
    """Items that go with an item; empty for one that nothing is known of."""
    return Reply(_encode(call.state.engine.similar(call.path("item"), k=call.query.k)))


async def trending(call: Call) -> Reply:
    """The most active items."""
    query: TrendingQuery = call.query
    found = await call.state.engine.trending(window=query.window, segment=query.segment, k=query.k)
    return Reply(_encode(found))


async def user(call: Call) -> Reply:
    """What is held of a user."""
    name = call.path("user")
    found = call.state.engine.user(name)
    if found is None:
        raise ProblemError("unknown-user", f"No event of user {name[:256]!r} is in the state that this server holds.")
    return Reply(_encode(found))


async def item(call: Call) -> Reply:
    """What is held of an item."""
    name = call.path("item")
    found = call.state.engine.item(name)
    if found is None:
        raise ProblemError("unknown-item", f"No event and no catalogue entry of item {name[:256]!r} is in the state.")
    return Reply(_encode(found))


def _reply(answer: Answer) -> Reply:
    return Reply(_encode(answer), fallback=answer.fallback or NONE, model=answer.model)


def _given_order(items: Sequence[str]) -> Answer:
    ranked = [RankedItem(name, 0.0, place) for place, name in enumerate(items, start=1)]
    now_ms = time.time_ns() // 1_000_000
    return Answer(new_id(now_ms), ranked, model="", policy="given-order", fallback="error", as_of=rfc3339(now_ms))


_STALE = ("bad-request", "stale-state")

ANSWER_ROUTES = (
    Route(
        method="POST",
        path="/v1/rank",
        handler=rank,
        name="rank",
        summary="Order items for a user. An answer always comes: `fallback` says if and why it is a plainer one.",
        query=Query,
        body=RankRequest,
        answer=Answer,
        problems=("bad-json", "too-large", *_STALE),
    ),
    Route(
        method="GET",
        path="/v1/recommend/{user}",
        handler=recommend,
        name="recommend",
        summary="Find items for a user, best first.",
        query=RecommendQuery,
        answer=Answer,
        problems=_STALE,
    ),
    Route(
        method="GET",
        path="/v1/similar/{item}",
        handler=similar,
        name="similar",
        summary="Items that users were with next to this one.",
        query=SimilarQuery,
        answer=ItemList,
        problems=_STALE,
    ),
    Route(
        method="GET",
        path="/v1/trending",
        handler=trending,
        name="trending",
        summary="The most active items of a window, or of a segment's week.",
        query=TrendingQuery,
        answer=ItemList,
        problems=_STALE,
    ),
    Route(
        method="GET",
        path="/v1/users/{user}",
        handler=user,
        name="user",
        summary="The features held of a user.",
        query=Query,
        answer=UserView,
        problems=("unknown-user", *_STALE),
    ),
    Route(
        method="GET",
        path="/v1/items/{item}",
        handler=item,
        name="item",
        summary="The features held of an item.",
        query=Query,
        answer=ItemView,
        problems=("unknown-item", *_STALE),
    ),
)
