"""A log of lists and choices, and the same as files of each format."""

import csv
import gzip
import random
from pathlib import Path
from typing import Any

import duckdb
import orjson

from support.logs import MINUTE_MS, T0_MS

Events = list[dict[str, Any]]


def history(lists: int, *, seed: int = 1) -> Events:
    """Users look at an item, are shown it among others, most often take it, and now and then buy one from no list."""
    random_ = random.Random(seed)
    log: Events = []
    for number in range(lists):
        user, ts_ms = f"u{random_.randrange(12)}", T0_MS + number * 5 * MINUTE_MS
        shown = [f"i{at}" for at in random_.sample(range(30), 6)]
        seen, bought = random_.choice(shown), f"i{random_.randrange(30)}"
        chosen = seen if random_.random() < 0.9 else random_.choice(shown)
        context = {"page": "p1", "depth": number % 3}
        log += [
            {"id": f"v{number}", "type": "view", "user": user, "item": seen, "ts": ts_ms},
            {"id": f"s{number}", "type": "impression", "user": user, "items": shown, "ts": ts_ms + MINUTE_MS}
            | {"slot": "home", "context": context},
            {"id": f"c{number}", "type": "click", "user": user, "item": chosen, "ts": ts_ms + 2 * MINUTE_MS},
            {"id": f"b{number}", "type": "purchase", "user": user, "item": bought, "ts": ts_ms + 3 * MINUTE_MS}
            | {"value": number / 4},
        ]
    return log


def write_jsonl(path: Path, rows: Events) -> Path:
    """One row a line."""
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def write_csv(path: Path, rows: Events) -> Path:
    """Lists and objects as JSON in a cell, nothing where there is nothing; gzipped if it ends in .gz."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: orjson.dumps(v).decode() if isinstance(v, list | dict) else v for k, v in row.items()})
    return path


def write_parquet(path: Path, rows: Events, select: str = "* REPLACE (make_timestamp_ms(ts) AS ts)") -> Path:
    """Times as timestamps, lists as lists, objects as structs."""
    lines = write_jsonl(path.with_suffix(".of.jsonl"), rows)
    with duckdb.connect() as con:
        con.execute(f"COPY (SELECT {select} FROM read_json('{lines}')) TO '{path}' (FORMAT parquet)")  # noqa: S608
    return path
