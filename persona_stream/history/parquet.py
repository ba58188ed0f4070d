"""Rows of Parquet files, read by DuckDB: each cell as `history.kinds` takes it."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from persona_stream.history.text_files import InputError

_FETCHED = 5_000
"""Rows at a time."""


class ParquetTable:
    """One open file."""

    def __init__(self, con: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._con = con
        self._path = [str(path)]
        described = con.execute("DESCRIBE SELECT * FROM read_parquet(?, binary_as_string=true)", self._path).fetchall()
        self._types: dict[str, str] = {name: kind for name, kind, *_ in described}
        self.count: int = con.execute("SELECT count(*) FROM read_parquet(?)", self._path).fetchall()[0][0]
        """How many rows there are."""

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return list(self._types)

    def rows(self, wanted: Collection[str]) -> Iterator[tuple[int, dict[str, object]]]:
        """Each row's number, from 1, and its cells of the columns wanted, those that there are."""
        columns = [column for column in self._types if column in wanted]
        structs = [column for column in columns if _is_struct(self._types[column])]
        picked = ", ".join(["file_row_number", *(_selected(column, self._types[column]) for column in columns)])
        source = "read_parquet(?, file_row_number=true, binary_as_string=true)"
        # Names are quoted.
        query = f"SELECT {picked} FROM {source} ORDER BY file_row_number"  # noqa: S608
        rows = self._con.execute(query, self._path)
        while part := rows.fetchmany(_FETCHED):
            for at, *cells in part:
                row = dict(zip(columns, cells, strict=True))
                for column in structs:
                    row[column] = _without_absent(row[column])
                yield at + 1, row


@contextmanager
def open_table(path: Path) -> Iterator[ParquetTable]:
    """Open a Parquet file. Raises InputError, as does reading it within the block."""
    if not path.is_file():
        raise InputError(f"{path} can't be read: there is no such file.")
    try:
        with duckdb.connect() as con:
            yield ParquetTable(con, path)
    except duckdb.Error as error:
        raise InputError(f"{path} can't be read: {str(error).splitlines()[0]}") from None


def _selected(column: str, kind: str) -> str:
    """SQL of one column."""
    quoted = '"' + column.replace('"', '""') + '"'
    if kind.startswith("TIMESTAMP"):
        # One without a zone is UTC.
        return f"epoch_ms({quoted})"
    if kind == "DATE":
        return f"epoch_ms({quoted}::TIMESTAMP)"
    if kind.endswith(("INT[]", "INTEGER[]")):
        # Ids are texts, whatever they were.
        return f"{quoted}::VARCHAR[]"
    if kind.startswith(("STRUCT", "MAP")) or (kind.endswith("]") and kind != "VARCHAR[]"):
        return f"to_json({quoted})::VARCHAR"
    return f"{quoted}::DOUBLE" if kind.startswith("DECIMAL") else quoted


def _is_struct(kind: str) -> bool:
    return kind.startswith("STRUCT") and not kind.endswith("]")


def _without_absent(cell: object) -> object:
    """A struct has all of its fields in every row: null stands for what a row of JSON would not have."""
    if cell is None:
        return None
    struct = msgspec.json.decode(str(cell), type=dict[str, Any])
    return {name: value for name, value in struct.items() if value is not None}
