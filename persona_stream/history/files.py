"""Files of history, read row by row: JSON lines, CSV (both gzipped or not) and Parquet, told apart by their names."""

import csv
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from persona_stream.history.kinds import HistoryKind, renamed
from persona_stream.history.parquet import open_table
from persona_stream.history.text_files import InputError, LineFile, open_lines
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.topics import MAX_EVENT_BYTES

OnRows = Callable[[int, int], None]
"""Called with (rows read, rows there are: a guess from the bytes read, until all are)."""
Parsed = tuple[Any, bytes]
"""(what the row was parsed to, its JSON)"""

TELL_EVERY = 5_000
"""Rows between two calls of OnRows."""
_DELIMITERS = ",;\t|"
_NO_NAMES: Mapping[str, str] = {}


class BadRow(Struct, frozen=True):
    """A row that is left out, and why."""

    path: Path
    number: int
    """1-based: the line, or in a Parquet file the row."""
    reason: str
    detail: str


class Listener(Struct, frozen=True):
    """Who is told of a file while it is read."""

    on_bad: Callable[[BadRow], None]
    on_rows: OnRows = lambda *_: None
    on_passed_over: Callable[[list[str]], None] = lambda *_: None
    """Takes the columns that are no fields: a misspelt one would be lost in silence."""


class _Row(Struct, gc=False):
    number: int
    told: bytes | dict[str, object] | EventError
    """A line of JSON, or cells by the file's own column names, or why it is neither."""
    ordinal: int = 0
    """1-based, of all rows; with the file's name it is a row's place."""


class HistoryFile(Struct, frozen=True):
    """One file to read. `column_of`: the contract's field -> what the file calls it, where that differs."""

    path: Path
    kind: HistoryKind
    column_of: Mapping[str, str] = _NO_NAMES

    def check_format(self) -> str:
        """`json`, `csv` or `parquet`. Raises InputError where the name tells none."""
        endings = self.path.suffixes[-2:] if self.path.suffix == ".gz" else self.path.suffixes[-1:]
        ending = endings[0] if endings else ""
        if ending in (".jsonl", ".json", ".ndjson"):
            return "json"
        if ending == ".csv" or endings == [".parquet"]:
            return ending[1:]
        raise InputError(
            f"{self.path} is of no known format.",
            hint="Names end in .jsonl, .json, .ndjson or .csv, gzipped if .gz follows, or in .parquet.",
        )

    def read(self, listener: Listener) -> Iterator[Parsed]:
        """Each good row; the listener is told of every other. Raises InputError where the file can't be read."""
        rows = {"json": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}[self.check_format()](self, listener)
        field_of = {column: field for field, column in self.column_of.items()}
        name = self.path.name.split(".")[0]
        for row in rows:
            try:
                raw = self._json_of(row, field_of, name)
                yield self.kind.parse(raw), raw
            except EventError as error:
                listener.on_bad(BadRow(self.path, row.number, error.reason, error.message))

    def _json_of(self, row: _Row, field_of: Mapping[str, str], name: str) -> bytes:
        told = row.told
        if isinstance(told, EventError):
            raise told
        if isinstance(told, bytes):
            return renamed(told, field_of) if field_of else told
        cells = {field: told.get(self.column_of.get(field, field)) for field in self.kind.fields}
        return self.kind.json_of(cells, f"{name}/{row.ordinal}")

    def check_columns(self, columns: list[str], listener: Listener) -> None:
        """Raise InputError where a column is missing that there must be, or that was named."""
        wanted = [self.column_of.get(field, field) for field in [*self.kind.required, *self.column_of]]
        missing = [column for column in dict.fromkeys(wanted) if column not in columns]
        if missing:
            raise InputError(
                f"{self.path} has no column {', '.join(missing)}; it has: {', '.join(columns)[:300]}.",
                hint="--map FIELD=COLUMN,... says what an event's field is called."
                if self.kind.name == "events"
                else "",
            )
        used = {self.column_of.get(field, field) for field in self.kind.fields}
        passed_over = [column for column in columns if column not in used]
        if passed_over:
            listener.on_passed_over(passed_over)


def _json_rows(file: HistoryFile, listener: Listener) -> Iterator[_Row]:
    with open_lines(file.path) as lines:
        for number, line in enumerate(_told(lines, lines.lines, listener.on_rows), start=1):
            if line := line.strip():
                yield _Row(number, line, number)


def _csv_rows(file: HistoryFile, listener: Listener) -> Iterator[_Row]:
    """Rows of a CSV file by RFC 4180, its first one the names. The delimiter is what the names are delimited by."""
    csv.field_size_limit(MAX_EVENT_BYTES)
    with open_lines(file.path) as lines:
        header = next(lines.lines, b"")
        names_line = _text(header).removeprefix("\ufeff")
        delimiter = max(_DELIMITERS, key=names_line.count)
        reader = csv.reader(itertools.chain([names_line], map(_text, lines.lines)), delimiter=delimiter)
        names = next(reader, [])
        file.check_columns(names, listener)
        for ordinal in itertools.count(1):
            number = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield _Row(number, EventError("bad_shape", f"no row of CSV: {error}"), ordinal)
                continue
            if cells is None:
                break
            if ordinal % TELL_EVERY == 0:
                listener.on_rows(ordinal, _guess(ordinal, lines))
            if len(cells) == len(names):
                yield _Row(number, dict(zip(names, cells, strict=True)), ordinal)
            elif cells:
                yield _Row(number, EventError("bad_shape", f"{len(cells)} cells for {len(names)} columns"), ordinal)
        listener.on_rows(ordinal - 1, ordinal - 1)


def _parquet_rows(file: HistoryFile, listener: Listener) -> Iterator[_Row]:
    wanted = [file.column_of.get(field, field) for field in file.kind.fields]
    with open_table(file.path) as table:
        file.check_columns(table.columns, listener)
        for number, cells in table.rows(wanted):
            if number % TELL_EVERY == 0:
                listener.on_rows(number, table.count)
            yield _Row(number, cells, number)
        listener.on_rows(table.count, table.count)


def _told(file: LineFile, lines: Iterator[bytes], on_rows: OnRows) -> Iterator[bytes]:
    """The lines, telling how many there were."""
    number = 0
    for number, line in enumerate(lines, start=1):
        if number % TELL_EVERY == 0:
            on_rows(number, _guess(number, file))
        yield line
    on_rows(number, number)


def _guess(rows: int, file: LineFile) -> int:
    """How many rows there are, if the rest is like what was read."""
    position = file.position_bytes()
    return max(rows, rows * file.size_bytes // position) if position else rows


def _text(line: bytes) -> str:
    # What is not UTF-8 is told when its row is encoded again.
    return line.decode("utf-8", errors="surrogateescape")
