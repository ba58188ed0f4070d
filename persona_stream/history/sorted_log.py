"""A log of events put in the order of time on disk: it need not fit in memory."""

from collections.abc import Iterator

import pandas as pd

from persona_stream.history.scratch import Scratch
from persona_stream.vocabulary.events import Event, parse_event

LoggedEvent = tuple[int, Event, bytes]
"""(event time in ms, event, its bytes)"""

_CHUNK = 50_000
"""Events that are held in memory at a time."""
_COLUMNS = ["ts_ms", "source", "place", "raw"]


class SortedLog(Scratch):
    """Takes events in any order and gives them in the order of (time, source, place), as often as it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self._con.execute("CREATE TABLE log (ts_ms BIGINT, source INTEGER, place BIGINT, raw BLOB)")
        self._waiting: list[tuple[int, int, int, bytes]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, event: Event, raw: bytes, source: int, place: int) -> None:
        """Add one event; source (a file, a partition) and place in it settle the order of events of one time."""
        self._waiting.append((int(event.ts), source, place, raw))
        self._count += 1
        if len(self._waiting) >= _CHUNK:
            self._store()

    def __iter__(self) -> Iterator[LoggedEvent]:
        self._store()
        with self._con.cursor() as cursor:
            rows = cursor.execute("SELECT ts_ms, raw FROM log ORDER BY ts_ms, source, place")
            while part := rows.fetchmany(_CHUNK):
                for ts_ms, raw in part:
                    yield ts_ms, parse_event(raw), raw

    def _store(self) -> None:
        if self._waiting:
            self._insert("log", pd.DataFrame(self._waiting, columns=_COLUMNS))
            self._waiting = []
