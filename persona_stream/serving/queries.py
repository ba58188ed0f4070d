"""The query parameters of each route, as typed as the bodies are; the OpenAPI description is generated from these."""

from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from persona_stream.serving.problem import misfit
from persona_stream.serving.schemas import MAX_CANDIDATES, WindowName

Count = Annotated[int, Meta(ge=1, le=MAX_CANDIDATES, description="How many items to answer.")]
Slot = Annotated[str, Meta(max_length=128, description="Where the items are shown.")]
Segment = Annotated[str, Meta(max_length=256, description="The user's segment, where the caller knows it.")]
Deadline = Annotated[int, Meta(ge=1, le=10_000, description="After this many milliseconds a plainer answer comes.")]
Window = Annotated[WindowName, Meta(description="The sliding window, in event time.")]
MaxLag = Annotated[int, Meta(ge=0, description="Refuse (503 `stale-state`) to answer from state older than this.")]


class Query(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What every answer takes."""

    max_lag_ms: MaxLag | None = None


class RecommendQuery(Query, frozen=True):
    """Parameters of `/v1/recommend/{user}`."""

    k: Count = 10
    slot: Slot = ""
    segment: Segment | None = None
    deadline_ms: Deadline | None = None


class SimilarQuery(Query, frozen=True):
    """Parameters of `/v1/similar/{item}`."""

    k: Count = 10


class TrendingQuery(Query, frozen=True):
    """Parameters of `/v1/trending`."""

    k: Count = 10
    slot: Annotated[Slot, Meta(description="Taken and unused: trending is kept by segment, not by slot.")] = ""
    window: Window = "1d"
    segment: Segment = ""


Q = TypeVar("Q", bound=Query)


def read_query(request: web.BaseRequest, kind: type[Q]) -> Q:
    """The request's query parameters. Raises ProblemError `bad-request` for one unknown, repeated or malformed."""
    if not request.query_string:
        return kind()
    values = dict(request.query)
    if len(values) != len(request.query):
        repeated = next(name for name in values if len(request.query.getall(name)) > 1)
        raise misfit(msgspec.ValidationError(f"Expected one value - at `$.{repeated}`"), "query")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise misfit(error, "query") from None
