"""How well the whole system orders real lists: `persona-stream evaluate` on the trivago log of ../shared/data.

    python -m benchmarks.lists                # the order displayed is known
    python -m benchmarks.lists --shuffle      # lists are put in a random order first

The log may not be redistributed, so it is read from beside the project, and converted to the contract as a producer
would. What the lists tell beside ids (prices, device, step of the session) are features of a catalogue of its own.
"""

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

DATA = Path(__file__).parents[2] / "shared" / "data" / "trivago"
CATALOGUE = """
include = ["shipped"]

[features]
price_shown = { kind = "given", field = "prices", transform = "log" }
price_shown_rank = { kind = "list_relative", field = "prices", measure = "rank" }
price_shown_score = { kind = "list_relative", field = "prices", measure = "score" }
price_shown_to_lowest = { kind = "list_relative", field = "prices", measure = "to_lowest" }
step = { kind = "user_number", source = "context", field = "step", transform = "log" }

[features.device]
kind = "user_string"
source = "context"
field = "device"
values = ["mobile", "desktop", "tablet"]
"""


def main() -> int:
    """Convert, evaluate, and return the command's exit code."""
    if not DATA.exists():
        print(f"{DATA} is not there: see ../shared/data/README.md", file=sys.stderr)
        return 1
    with TemporaryDirectory() as folder:
        events, items, features = (Path(folder) / name for name in ("events.jsonl", "items.jsonl", "features.toml"))
        events.write_bytes(b"".join(map(_line, _events())))
        items.write_bytes(b"".join(map(_line, _items())))
        features.write_text(CATALOGUE, encoding="utf-8")
        command = [sys.executable, "-m", "persona_stream", "evaluate", str(events), "--items", str(items)]
        environment = os.environ | {"PERSONA_FEATURES": str(features)}
        return subprocess.run([*command, *sys.argv[1:]], env=environment, check=False).returncode


def _line(fields: dict[str, Any]) -> bytes:
    return orjson.dumps(fields) + b"\n"


def _rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / name) as lines:
        yield from map(orjson.loads, lines)


def _events() -> Iterator[dict[str, Any]]:
    for row in _rows("events.jsonl.gz"):
        context = dict(row["context"] or {})
        event = {"id": row["event_id"], "type": row["type"], "user": row["user"], "ts": row["ts"]}
        if row["type"] == "impression":
            event["items"] = context.pop("items")
        elif row["item"]:
            event["item"] = row["item"]
        if row["type"] == "click":
            # The list that it was made on, by the id of the impression's event.
            event["decision_id"] = context.pop("impression_id")
        yield event | {"context": context}


def _items() -> Iterator[dict[str, Any]]:
    first_ms = next(_rows("events.jsonl.gz"))["ts"]
    for row in _rows("items.jsonl.gz"):
        attributes = {name: value for name, value in row.items() if name != "item" and value is not None}
        yield {"id": row["item"], "ts": first_ms, "attributes": attributes}


if __name__ == "__main__":
    sys.exit(main())
