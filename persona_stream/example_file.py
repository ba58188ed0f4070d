"""Examples as a file for other tools, and back: Parquet or JSON lines, one row a candidate, one column a feature.

The columns are those of COLUMNS, then the features in their order, each named FEATURE_PREFIX and its name. Rows are in
the order of (ts_ms, group, user, origin, position, item), so the same examples are the same file.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from persona_stream.history.scratch import Scratch
from persona_stream.history.text_files import InputError
from persona_stream.vocabulary.errors import ModelError
from persona_stream.vocabulary.messages import Example
from tables.feature_set import FeatureSet

COLUMNS = {
    "group": "VARCHAR",
    "user": "VARCHAR",
    "ts_ms": "BIGINT",
    "origin": "VARCHAR",
    "slot": "VARCHAR",
    "item": "VARCHAR",
    "label": "INTEGER",
    "position": "INTEGER",
    "propensity": "DOUBLE",
    "weight": "DOUBLE",
    "feature_hash": "VARCHAR",
}
"""Column -> SQL type. `position`, `propensity` and `weight` are null where there is none."""
FEATURE_PREFIX = "f_"
"""A catalogue may call a feature `position`, or `user`."""
FORMATS = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".jsonl": "FORMAT json"}

_ORDER = 'ts_ms, "group", "user", origin, "position", item'
_STORED_ROWS = 20_000


class ExampleFile(Scratch):
    """Collects examples, on disk, until `save` makes the file of them; a context manager."""

    def __init__(self, path: Path, feature_set: FeatureSet) -> None:
        """Raises InputError where the path can't become such a file."""
        if path.suffix not in FORMATS:
            raise InputError(
                f"{path} is of no format that examples are written in.", hint="End it in .parquet or .jsonl."
            )
        if not path.parent.is_dir():
            raise InputError(f"{path} can't be written: there is no folder {path.parent}.")
        super().__init__()
        self._path = path
        self._features = [FEATURE_PREFIX + name for name in feature_set.names]
        self._width = feature_set.width
        kinds = COLUMNS | dict.fromkeys(self._features, "FLOAT")
        self._con.execute(
            f"CREATE TABLE examples ({', '.join(f'{_quoted(name)} {kind}' for name, kind in kinds.items())})"
        )
        self._waiting: list[Example] = []
        self._waiting_rows = 0
        self.rows = 0
        """How many were added."""

    def add(self, examples: Sequence[Example]) -> None:
        """Add examples of the feature set."""
        self._waiting += examples
        added = sum(len(example.items) for example in examples)
        self._waiting_rows += added
        self.rows += added
        if self._waiting_rows >= _STORED_ROWS:
            self._store()

    def save(self) -> None:
        """Write the file, whole or not at all. Raises InputError where it can't be."""
        self._store()
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        # JSON has no NaN: null stands for it.
        is_json = self._path.suffix == ".jsonl"
        told = [f"nullif({_quoted(name)}, 'nan'::FLOAT) AS {_quoted(name)}" for name in self._features]
        columns = ", ".join([_names(COLUMNS), *(told if is_json else map(_quoted, self._features))])
        # Names are quoted.
        query = f"SELECT {columns} FROM examples ORDER BY {_ORDER}"  # noqa: S608
        try:
            self._con.execute(f"COPY ({query}) TO {_text(fresh)} ({FORMATS[self._path.suffix]})")
            fresh.replace(self._path)
        except (duckdb.Error, OSError) as error:
            raise InputError(f"{self._path} can't be written: {str(error).splitlines()[0]}") from None
        finally:
            fresh.unlink(missing_ok=True)

    def _store(self) -> None:
        if not self._waiting:
            return
        rows = [row for example in self._waiting for row in _rows(example)]
        features = np.frombuffer(b"".join([example.features for example in self._waiting]), dtype=np.float32)
        told = pd.DataFrame(rows, columns=list(COLUMNS))
        told["position"] = told["position"].astype("Int32")
        told["propensity"] = told["propensity"].astype("Float64")
        values = pd.DataFrame(features.reshape(-1, self._width), columns=self._features)
        self._insert("examples", pd.concat([told, values], axis=1))
        self._waiting, self._waiting_rows = [], 0


def read_example_file(path: Path, feature_set: FeatureSet, origins: Collection[str] | None = None) -> list[Example]:
    """The examples of a file, by (time, group); only those of `origins`, where given. Rows of it may be missing.

    Raises InputError where it is no such file, ModelError where its features are not those of the set.
    """
    kinds = COLUMNS | {FEATURE_PREFIX + name: "FLOAT" for name in feature_set.names}
    if path.suffix not in FORMATS or not path.is_file():
        raise InputError(
            f"{path} is no file of examples.", hint="`persona-stream backfill --out FILE.parquet` makes one."
        )
    try:
        with duckdb.connect() as con:
            _check_hash(con, path, feature_set)
            # Names are quoted.
            query = f"SELECT {_names(kinds)} FROM {_source(path, kinds)} ORDER BY {_ORDER}"  # noqa: S608
            columns = con.execute(query).fetchnumpy()
    except duckdb.Error as error:
        raise InputError(f"{path} is no file of examples: {str(error).splitlines()[0]}") from None
    return [example for example in _examples(columns, feature_set) if origins is None or example.origin in origins]


def _check_hash(con: duckdb.DuckDBPyConnection, path: Path, feature_set: FeatureSet) -> None:
    source = _source(path, {"feature_hash": "VARCHAR"})
    query = f"SELECT DISTINCT feature_hash FROM {source} ORDER BY 1"  # noqa: S608  # a path, quoted
    hashes = [found for (found,) in con.execute(query).fetchall()]
    if None in hashes:
        raise InputError(f"{path} is no file of examples: rows have no feature_hash.")
    if hashes and hashes != [feature_set.hash]:
        raise ModelError(
            f"{path} holds examples of features {', '.join(hashes)}, these are {feature_set.hash}.",
            hint="Set PERSONA_FEATURES to the catalogue that it was made with, or backfill anew.",
        )


def _examples(columns: Mapping[str, Any], feature_set: FeatureSet) -> Iterator[Example]:
    """Of each run of rows that belong together."""
    features = np.empty((len(columns["ts_ms"]), feature_set.width), dtype=np.float32)
    for at, name in enumerate(feature_set.names):
        features[:, at] = np.ma.filled(columns[FEATURE_PREFIX + name], np.nan)
    # Masked values become None.
    told = {name: columns[name].tolist() for name in COLUMNS}
    keys = list(zip(*(told[name] for name in ("ts_ms", "group", "user", "origin", "slot")), strict=True))
    for (ts_ms, group, user, origin, slot), run in groupby(range(len(keys)), keys.__getitem__):
        places = list(run)
        rows = slice(places[0], places[-1] + 1)
        yield Example(
            group=group,
            user=user,
            ts_ms=ts_ms,
            feature_hash=feature_set.hash,
            items=told["item"][rows],
            features=features[rows].tobytes(),
            labels=told["label"][rows],
            origin=origin,
            slot=slot or "",
            positions=_if_all(told["position"][rows]),
            propensities=_if_all(told["propensity"][rows]),
            weights=_if_all(told["weight"][rows]),
        )


def _if_all(values: list[Any]) -> list[Any]:
    return [] if None in values else values


def _rows(example: Example) -> Iterator[tuple[object, ...]]:
    nothing = [None] * len(example.items)
    positions, propensities = example.positions or nothing, example.propensities or nothing
    weights = example.weights or nothing
    before = (example.group, example.user, example.ts_ms, example.origin, example.slot)
    for row in zip(example.items, example.labels, positions, propensities, weights, strict=True):
        yield (*before, *row, example.feature_hash)


def _source(path: Path, kinds: Mapping[str, str]) -> str:
    """SQL that reads a file's columns of these types."""
    if path.suffix == ".parquet":
        return f"read_parquet({_text(path)})"
    columns = ", ".join(f"{_quoted(name)}: '{kind}'" for name, kind in kinds.items())
    return f"read_json({_text(path)}, format='newline_delimited', columns={{{columns}}})"


def _names(columns: Iterable[str]) -> str:
    return ", ".join(map(_quoted, columns))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
