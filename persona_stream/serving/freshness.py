"""How fresh the answers are: what each table holds, and what it does not hold yet."""

import time

from msgspec import Struct

from persona_stream.serving.replica import Replica, TableView

STALE_POLL_S = 5.0
"""Without news of the topics' ends for this long, Kafka is out of reach: age counts from then."""


class TableFreshness(Struct):
    """One table of the replica."""

    generation: int
    """The fold of the log that answers are made from: `persona-stream rebuild --list`."""
    keys: int
    lag_events: int
    """Source records not folded into what the replica holds."""
    changelog_lag: int
    """Changelog records not read yet."""
    watermark_ms: int
    """Newest event time folded, epoch milliseconds."""
    applied_ms: int
    """Kafka timestamp of the newest source record held, epoch milliseconds."""
    events: int
    """Source records folded, ever."""


class Freshness(Struct):
    """The replica as a whole. `state_age_ms` is 0 while answers know of every event that Kafka has."""

    state_age_ms: int
    lag_events: int
    """Events that answers do not know of yet."""
    ready: bool
    missing: list[str]
    """What readiness waits for."""
    tables: dict[str, TableFreshness]
    model: str
    """What answers are scored with: `ranker/v3+online`; empty without a model."""


def freshness(replica: Replica, model: str) -> Freshness:
    """The state of a replica now."""
    tables = {name: _table(view, replica.generations[name]) for name, view in replica.tables.items()}
    missing = _missing(replica, tables)
    return Freshness(
        state_age_ms=state_age_ms(replica),
        lag_events=tables["users"].lag_events,
        ready=not missing,
        missing=missing,
        tables=tables,
        model=model,
    )


def state_age_ms(replica: Replica) -> int:
    """How long ago the state was last known to be complete: 0 while nothing is pending."""
    silent_s = time.monotonic() - replica.polled_s if replica.polled_s else 0.0
    age_ms = round(1000 * silent_s) if silent_s > STALE_POLL_S else 0
    users = replica.tables["users"]
    if users.lag_events():
        age_ms = max(age_ms, time.time_ns() // 1_000_000 - users.applied_ms())
    return age_ms


def _table(view: TableView, generation: int) -> TableFreshness:
    progress = view.progress.values()
    return TableFreshness(
        generation=generation,
        keys=view.keys(),
        lag_events=view.lag_events(),
        changelog_lag=view.changelog_lag,
        watermark_ms=max((held.watermark_ms for held in progress), default=0),
        applied_ms=view.applied_ms(),
        events=sum(held.events for held in progress),
    )


def _missing(replica: Replica, tables: dict[str, TableFreshness]) -> list[str]:
    if replica.has_caught_up:
        # Also while Kafka is away: an answer that tells its age beats none, and all servers would be away together.
        return []
    if replica.error is not None:
        return [f"the replica stopped reading: {replica.error!r}"]
    if not replica.polled_s:
        return ["Kafka has not answered yet"]
    behind = [
        f"{name}: {table.changelog_lag} changelog records" for name, table in tables.items() if table.changelog_lag
    ]
    return behind or ["models"]
