"""What the HTTP routes take and give; the OpenAPI description is generated from these."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from persona_stream.vocabulary.events import Id

MAX_CANDIDATES = 1000
MAX_EVENTS = 10_000

WindowName = Literal["5m", "1h", "1d", "7d"]


class RankRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which of these items, in which order, for this user now?"""

    user: Id
    items: Annotated[list[Id], Meta(min_length=1, max_length=MAX_CANDIDATES)]
    slot: Annotated[str, Meta(max_length=128)] = ""
    context: dict[str, Any] = {}
    k: Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)] | None = None
    """How many items to answer; all by default."""
    deadline_ms: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    explain: bool = False


class RankedItem(Struct, omit_defaults=True):
    """An item of an answer; `rank` counts from 1. `limited` names the limit that moved it behind lower scores."""

    item: str
    score: float
    rank: int
    features: dict[str, float | None] | None = None
    """With `explain`: what the item was scored with."""
    limited: str | None = None
    """The limit that moved it behind items with lower scores."""


class Answer(Struct):
    """A ranking or a recommendation. `fallback` says why the answer is plainer than it could be, null if it is not."""

    decision_id: str
    items: list[RankedItem]
    model: str
    policy: str
    fallback: str | None
    as_of: str
    """Event time that the answer is of, RFC 3339."""


class ScoredItem(Struct):
    """An item and how strongly it holds."""

    item: str
    score: float


class ItemList(Struct):
    """Answer of `/v1/similar` and `/v1/trending`."""

    items: list[ScoredItem]
    as_of: str


class UserView(Struct):
    """What is held of a user."""

    user: str
    features: dict[str, float | None]
    history: list[dict[str, Any]]
    """The latest interactions, newest first: `{"item", "type", "ts"}` (epoch milliseconds)."""
    windows: dict[str, dict[str, int]]
    """Events by type in each sliding window."""
    sessions: int
    segment: str
    traits: dict[str, Any]
    as_of: str


class ItemView(Struct):
    """What is held of an item."""

    item: str
    features: dict[str, float | None]
    windows: dict[str, dict[str, int]]
    attributes: dict[str, Any]
    shown: bool
    """False while the item is hidden, deleted or expired."""
    similar: list[ScoredItem]
    as_of: str


class Rejected(Struct):
    """An event that was not taken, by its place in the request."""

    index: int
    code: str
    detail: str


class EventsAnswer(Struct):
    """`accepted` events are in Kafka."""

    accepted: int
    rejected: list[Rejected]


class Problem(Struct, omit_defaults=True):
    """RFC 9457 problem details, with a stable `code` to match on."""

    type: str
    title: str
    status: int
    code: str
    detail: str = ""
    errors: list[dict[str, str]] = []
    """`{"pointer", "detail"}` for each part of the request that is wrong."""
