"""A database on disk for as long as a block runs, for what need not fit in memory."""

from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TypeVar

import duckdb
import pandas as pd

_MEMORY = "512MB"
"""What it may take of it: tables of users and items need the rest."""

S = TypeVar("S", bound="Scratch")


class Scratch:
    """A DuckDB database in the folder for temporary files (TMPDIR); a context manager."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="persona-scratch-")
        self._con = duckdb.connect(str(Path(self._folder.name) / "scratch.duckdb"), config={"memory_limit": _MEMORY})

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._con.close()
        self._folder.cleanup()

    def _insert(self, table: str, rows: pd.DataFrame) -> None:
        """Add rows to a table of the same columns in the same order."""
        self._con.register("rows_to_insert", rows)
        self._con.execute(f"INSERT INTO {table} SELECT * FROM rows_to_insert")  # noqa: S608  # a name of our own
        self._con.unregister("rows_to_insert")
