"""`told`: what a feature is after some events, as the examples in docstrings show it. Events go through the agents."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from persona_stream.in_process import InProcess
from persona_stream.stream.slices import LogRecord
from persona_stream.vocabulary.config import Settings

NOON_MS = int(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp() * 1000)
"""Events of the examples are told in minutes from here; questions are asked an hour later."""
MINUTE_MS = 60_000
_LATENESS_MS = 10**12

Told = tuple[Any, ...]
"""(user, type, item or items, minute[, value])"""


def told(
    feature: str,
    events: Sequence[Told] = (),
    user: str = "u1",
    ask: Sequence[str] = ("i1", "i2"),
    *,
    items: dict[str, dict[str, Any]] | None = None,
    context: dict[str, Any] | None = None,
    traits: dict[str, Any] | None = None,
    slot: str = "",
) -> None:
    """Print each column of a feature, and its value for each item asked about; a user's own is printed once."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "features.toml"
        path.write_text(f"[features]\n{feature}\n", encoding="utf-8")
        system = InProcess(Settings(features=path, allowed_lateness_ms=_LATENESS_MS))
    system.fold([_record(number, event) for number, event in enumerate(events)])
    for item, attributes in (items or {}).items():
        system.put_item(item, attributes)
    system.put_traits(user, traits or {})
    asked_ms = NOON_MS + 60 * MINUTE_MS
    features = system.ask(user, list(ask), asked_ms, ordered=True, context=context, slot=slot).features
    plan = system.engine.plan
    for name, column in zip(plan.features.names, features.T.tolist(), strict=True):
        shown = [f"{round(value, 4):g}" for value in (column[:1] if name in plan.user_names else column)]
        print(f"{name:8} {' '.join(shown)}")


def _record(number: int, event: Told) -> LogRecord:
    user, kind, item, minute, *value = event
    ts_ms = NOON_MS + minute * MINUTE_MS
    made = {"id": f"e{number}", "type": kind, "user": user, "ts": ts_ms}
    made["items" if isinstance(item, list) else "item"] = item
    if value:
        made["value"] = value[0]
    return LogRecord(number, ts_ms, user.encode(), orjson.dumps(made))
