"""The messages that persona-stream writes for itself: data only, MessagePack, positional for speed.

A re-keyed record carries the partition and offset of the event it came from, so that its fold can skip what a
redelivery repeats.
"""

from typing import Any

import msgspec
from msgspec import Struct

NO_EXAMPLE, SHOWN = -1, -2
"""Labels that are none: nothing is learned from the event; or the item was shown, and what comes of it is not known."""
FROM_SHOWN = 1 << 20
"""Above every partition: an example that follows from partition p of `internal.shown` has the source FROM_SHOWN + p."""


class ItemEvent(Struct, array_like=True, gc=False):
    """An event re-keyed by item. Topic `internal.item-events`, key = item."""

    item: str
    kind: int
    """Index into `KINDS`; -1: nothing is counted; it is a negative for the learner, or tells neighbours of a visit."""
    ts_ms: int
    value_milli: int
    """The event's value in thousandths, 0 where it has none. Integers keep sums independent of order."""
    source_partition: int
    source_offset: int
    segment: str
    visitor: int = 0
    """Hash of the user, 0 where it was only shown: with the event's time, the visit that `neighbours` are told of."""
    neighbours: bytes = b""
    """Items that the user was with at about that time, by their hashes: as many as can be told by now, or more
    (`tables.covisits`)."""
    label: int = NO_EXAMPLE
    """The grade of an outcome, 0: a negative; or NO_EXAMPLE, or SHOWN."""
    group: str = ""
    """The id of what made the example (an event, a decision): rows of one group were alternatives."""
    user: str = ""
    user_features: bytes = b""
    """float32 vector of the user and user x item features as of just before the event; empty: not an example."""
    recent_items: bytes = b""
    """Of an example: the user's latest items just before, by their hashes, newest first."""


class Example(Struct, array_like=True, gc=False):
    """Rows that were alternatives to each other, features as logged. Topic `examples.v1`, key = user."""

    group: str
    user: str
    ts_ms: int
    feature_hash: str
    items: list[str]
    features: bytes
    """float32, row-major, `len(items)` rows."""
    labels: list[int]
    origin: str
    """`online` (an outcome, at once), `impression` (a whole list, when its window closed) or `backfill` (the log
    replayed)."""
    source_partition: int = -1
    source_offset: int = -1
    slot: str = ""
    positions: list[int] = []
    """Of a list shown, each item's 0-based place."""
    propensities: list[float] = []
    """Of a decision's list, each item's probability to stand where it stood."""
    weights: list[float] = []
    """How much each item counts; empty: all 1."""


class Opened(Struct, array_like=True, tag=1, gc=False):
    """A list was shown. Topic `internal.shown`, key = user, as of all three."""

    user: str
    group: str
    ts_ms: int
    source_offset: int
    """Of the event."""
    slot: str
    items: list[str]
    """Those whose rows are to come, in the order shown; of a decision's list, all."""


class ShownRows(Struct, array_like=True, tag=2, gc=False):
    """Rows of a list: some of them, from the partition of their items; or all, from the server that decided."""

    user: str
    group: str
    ts_ms: int
    """The moment that the features are of."""
    source_partition: int
    """Of `internal.item-events`; -1: from a server."""
    source_offset: int
    feature_hash: str
    items: list[str]
    features: bytes
    """float32, row-major, one row an item."""
    is_whole: bool = False
    """Whether no more rows of the list come."""
    propensities: list[float] = []


class Outcome(Struct, array_like=True, tag=3, gc=False):
    """A user did something with an item of a list."""

    user: str
    group: str
    ts_ms: int
    source_offset: int
    """Of the event."""
    item: str
    grade: int
    """How much it tells: see `vocabulary.events.grade_of`."""
    others: list[str] = []
    """The groups of further lists that it answers."""
    weight: float = 1.0
    """How much an example of it counts."""


class Positions(Struct, kw_only=True, omit_defaults=True, gc=False):
    """The source offset, by partition, up to which each table was folded in what a server held; -1: nothing yet."""

    users: list[int]
    items: list[int]
    catalogue: list[int]
    profiles: list[int]
    generations: dict[str, int] = {}
    """Of tables that were not in their first generation."""
    unsettled: list[str] = []
    """`table/partition` of which a change had been read in part: some of its keys were newer than the position."""


class Decision(Struct, kw_only=True, omit_defaults=True, gc=False):
    """What an answer showed and why. Topic `decisions.v1` (JSON), key = user.

    What has a default is younger than the topic, and left out where it is the default.
    """

    id: str
    user: str
    ts_ms: int
    """Wall clock of the server."""
    as_of_ms: int
    """Event time that the features were evaluated at."""
    slot: str
    policy: str
    model: str
    fallback: str | None
    items: list[str]
    scores: list[float]
    propensities: list[float]
    feature_hash: str
    features: bytes
    """float32, row-major, one row an item of `items` (base64 in the JSON)."""
    candidates: int
    """How many items were ranked; `items` holds those answered."""
    asked: str = ""
    """`rank`: the caller gave the items, in an order; `recommend`: the server found them."""
    k: int = 0
    """How many items were asked for."""
    ranked: list[str] = []
    """The items that were ranked, in the order given or found."""
    counted: list[int] = []
    """How many events were counted of each of `ranked`, where a table was unsettled: that tells each one's place."""
    withheld: list[str] = []
    """Items left out before that: the catalogue says that they may not be shown."""
    context: dict[str, Any] = {}
    """Of the request's context, the fields that features depend on."""
    segment: str | None = None
    """The user's segment, where the request's context told one."""
    user_applied: int = -1
    """The source offset up to which the user's own state was folded; -1: nothing was held of the user."""
    learner: list[int] = []
    """By partition of the examples, the offset up to which the online model had learned; -1: nothing."""
    state: Positions | None = None
    """What the server held then; None in decisions older than this field."""
    limits: dict[str, dict[str, Any]] = {}
    """The limits that held, in their order: name -> kind and parameters, as declared."""
    limited: dict[str, str] = {}
    """Of items logged, or that would have been by score alone: the limit that moved it behind lower scores."""


class ModelRecord(Struct, array_like=True):
    """One version of a ranker, or a promotion of one. Topic `models.v1`, key = `name/version` or `name/live`."""

    name: str
    version: str
    onnx: bytes
    """Empty in the `live` record, which only names the version to serve."""
    metadata: dict[str, str]
    created_ms: int


encode = msgspec.msgpack.Encoder().encode
encode_json = msgspec.json.Encoder().encode
decode_item_event = msgspec.msgpack.Decoder(ItemEvent).decode
Shown = Opened | ShownRows | Outcome
decode_shown = msgspec.msgpack.Decoder(Shown).decode
decode_example = msgspec.msgpack.Decoder(Example).decode
decode_decision = msgspec.json.Decoder(Decision).decode
decode_model = msgspec.msgpack.Decoder(ModelRecord).decode
