"""Event-time window counters that fit in two flat blocks of bytes, one pair a key.

A window is kept as panes: tumbling slices `pane_ms` wide in a ring that is just as long as the window, each
labelled with its index since the epoch. Adding an event touches one pane a window. A newer pane that lands on a
slot replaces what was there, so what left the window expires by event time alone, and the same events in any
order leave the same bytes. A window is read by summing the panes whose index it covers: half-open
`[start_ms, end_ms)`, aligned to the epoch, ending with the pane that holds the moment asked about.

Blocks are native-endian so that numpy reads thousands of them in place:

- panes: int32 `[PANES, PANE_WIDTH]`, a row is (pane index, count by kind, events with a value, two halves of the int64
  sum of their values in thousandths)
- longs: int64 `[first_ts_ms, last_ts_ms, value_milli, value_count, 32 of a sketch, total by kind ...]`; the sketch is
  of the different items of a user, or of the different users of an item (`tables/sketches.py`)
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from persona_stream.vocabulary.errors import RecoveryError
from persona_stream.vocabulary.events import KINDS
from tables.sketches import REGISTERS

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS


class Window(Struct, frozen=True):
    """A sliding window of `size_ms`, advancing by `pane_ms`; its ring of panes stands at rows `first_row` onwards."""

    name: str
    size_ms: int
    pane_ms: int
    first_row: int
    ring_rows: int
    """Panes in the ring: more than the window covers where a longer one is kept in it, too."""

    @property
    def rows(self) -> int:
        """How many panes cover the window."""
        return self.size_ms // self.pane_ms

    def ring(self, panes: "Panes") -> "Panes":
        """Its ring of each of n keys, int32 `[n, ring_rows, PANE_WIDTH]`."""
        return panes[:, self.first_row : self.first_row + self.ring_rows]


def _windows() -> tuple[Window, ...]:
    sizes = (
        ("5m", 5 * _MINUTE_MS, _MINUTE_MS),
        ("1h", _HOUR_MS, 10 * _MINUTE_MS),
        ("1d", _DAY_MS, 3 * _HOUR_MS),
        ("7d", 7 * _DAY_MS, _DAY_MS),
    )
    windows: list[Window] = []
    for name, size_ms, pane_ms in sizes:
        windows.append(Window(name, size_ms, pane_ms, sum(w.rows for w in windows), size_ms // pane_ms))
    return tuple(windows)


def _spans(windows: Sequence[Window]) -> dict[str, Window]:
    spans: dict[str, Window] = {}
    for window in windows:
        for rows in range(1, window.rows + 1):
            size_ms = rows * window.pane_ms
            unit, letter = next(
                pair for pair in ((_DAY_MS, "d"), (_HOUR_MS, "h"), (_MINUTE_MS, "m")) if not size_ms % pair[0]
            )
            name = f"{size_ms // unit}{letter}"
            spans.setdefault(name, Window(name, size_ms, window.pane_ms, window.first_row, window.rows))
    return spans


WINDOWS = _windows()
WINDOW_INDEX = {window.name: index for index, window in enumerate(WINDOWS)}
SPANS = _spans(WINDOWS)
"""Every window that can be read: a whole number of panes of one ring. `WINDOWS` are the longest of each ring."""
PANES = sum(window.rows for window in WINDOWS)
KIND_COLUMNS = slice(1, 1 + len(KINDS))
_VALUES = 1 + len(KINDS)
_SUM = _VALUES + 1
# Rows are an even number of cells long, so that the sum is read as one number in place.
assert _SUM % 2 == 0
PANE_WIDTH = _SUM + 2
PANES_BYTES = 4 * PANES * PANE_WIDTH

FIRST_TS, LAST_TS, VALUE_MILLI, VALUE_COUNT, SKETCH = range(5)
SKETCH_BYTE = 8 * SKETCH
TOTALS = SKETCH + REGISTERS // 8
LONGS = TOTALS + len(KINDS)
LONGS_BYTES = 8 * LONGS

# (pane_ms, rows, position of the first pane): what `add` needs, ready in a tuple.
_PLAN = tuple((w.pane_ms, w.rows, w.first_row * PANE_WIDTH) for w in WINDOWS)
# By pane, `[PANES, 1]`.
_PANE_MS: NDArray[np.int64] = np.repeat([w.pane_ms for w in WINDOWS], [w.rows for w in WINDOWS])[:, None]
_ROWS: NDArray[np.int64] = np.repeat([w.rows for w in WINDOWS], [w.rows for w in WINDOWS])[:, None]
_FIRST_ROWS = np.array([w.first_row for w in WINDOWS])
_MANY = 16
_NO_COUNTS = memoryview(bytes(4 * (PANE_WIDTH - 1))).cast("i")
_HALF_SUM = _SUM // 2

Panes = NDArray[np.int32]
Longs = NDArray[np.int64]
Times = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]


def add(panes: bytearray, longs: bytearray, kind: int, ts_ms: int, value_milli: int) -> None:
    """Count one event in every window and in the totals, in place. `kind` indexes `KINDS`."""
    cells = memoryview(panes).cast("i")
    pane_sums = memoryview(panes).cast("q") if value_milli else None
    for pane_ms, rows, base in _PLAN:
        index = ts_ms // pane_ms
        at = base + index % rows * PANE_WIDTH
        held = cells[at]
        if held == index:
            cells[at + 1 + kind] += 1
        elif held < index:
            cells[at] = index
            cells[at + 1 : at + PANE_WIDTH] = _NO_COUNTS
            cells[at + 1 + kind] = 1
        else:
            continue
        if pane_sums is not None:
            cells[at + _VALUES] += 1
            pane_sums[at // 2 + _HALF_SUM] += value_milli
    sums = memoryview(longs).cast("q")
    sums[TOTALS + kind] += 1
    if value_milli:
        sums[VALUE_MILLI] += value_milli
        sums[VALUE_COUNT] += 1
    if ts_ms > sums[LAST_TS]:
        sums[LAST_TS] = ts_ms
    first = sums[FIRST_TS]
    if ts_ms < first or not first:
        sums[FIRST_TS] = ts_ms


class HasCounters(Protocol):
    """A state with counters."""

    panes: bytearray
    longs: bytearray


S = TypeVar("S", bound=HasCounters)


def decoded(decode: Callable[[bytes], S], raw: bytes) -> S:
    """A state from its bytes. Raises RecoveryError for one of another version: it would be read as something else."""
    try:
        state = decode(raw)
    except msgspec.ValidationError as error:
        raise _of_another_version(str(error)) from error
    if len(state.panes) != PANES_BYTES or len(state.longs) != LONGS_BYTES:
        sizes = f"{len(state.panes)} and {len(state.longs)} bytes, this version's have {PANES_BYTES} and {LONGS_BYTES}"
        raise _of_another_version(f"its counters have {sizes}")
    return state


def _of_another_version(how: str) -> RecoveryError:
    return RecoveryError(
        f"a table's value was not written by this version: {how}.",
        hint="Fold the log again with this one: `persona-stream rebuild --accept`.",
    )


def stack_panes(blocks: Sequence[bytes | bytearray]) -> Panes:
    """Pane blocks of n keys as one int32 array `[n, PANES, PANE_WIDTH]`."""
    return np.frombuffer(b"".join(blocks), dtype=np.int32).reshape(-1, PANES, PANE_WIDTH)


def stack_longs(blocks: Sequence[bytes | bytearray]) -> Longs:
    """Long blocks of n keys as one int64 array `[n, LONGS]`."""
    return np.frombuffer(b"".join(blocks), dtype=np.int64).reshape(-1, LONGS)


def window_counts(panes: Panes, as_of_ms: Times, window: Window) -> Panes:
    """Counts by kind, int32 `[n, len(KINDS)]`, in `window` as of `as_of_ms` (`[n]` or `[1]`, epoch milliseconds)."""
    ring = window.ring(panes)
    inside = covered(ring[:, :, 0], as_of_ms[:, None], window.pane_ms, window.rows)
    counts: Panes = np.einsum("nrk,nr->nk", ring[:, :, KIND_COLUMNS], inside.astype(np.int32))
    return counts


def window_values(panes: Panes, as_of_ms: Times, window: Window) -> tuple[Times, Times]:
    """Of the events with a value in `window`: the sum of values in thousandths, and how many; int64 `[n]` each."""
    ring = window.ring(panes)
    inside = covered(ring[:, :, 0], as_of_ms[:, None], window.pane_ms, window.rows)
    sums = np.ascontiguousarray(ring[:, :, _SUM:]).view(np.int64)[:, :, 0]
    return (sums * inside).sum(axis=1), (ring[:, :, _VALUES] * inside).sum(axis=1, dtype=np.int64)


def all_window_counts(panes: Panes, as_of_ms: Times) -> Panes:
    """Counts by kind in every window of `WINDOWS`, int32 `[len(WINDOWS), len(KINDS), n]`."""
    # Key beside key, so that there are few loops, over all keys each.
    cells = np.ascontiguousarray(panes.T[: KIND_COLUMNS.stop])
    counted = cells[KIND_COLUMNS] * covered(cells[0], as_of_ms, _PANE_MS, _ROWS)
    if len(panes) < _MANY:
        few: Panes = np.add.reduceat(counted, _FIRST_ROWS, axis=1).swapaxes(0, 1)
        return few
    counts = np.empty((len(WINDOWS), len(KINDS), len(panes)), dtype=np.int32)
    for window, of_window in zip(WINDOWS, counts, strict=True):
        # For 1,000 keys half as long as one sum over all panes, which fewer keys take.
        np.add.reduce(window.ring(counted), 1, dtype=np.int32, out=of_window)
    return counts


def covered(index: Panes, as_of_ms: Times, pane_ms: Times | int, rows: Times | int) -> Flags:
    """Which panes of rings, by their index, windows of `rows` panes cover: bool like `index`."""
    behind = as_of_ms // pane_ms - index
    return (behind >= 0) & (behind < rows)
