"""`told` and `limited`: what a feature or a limit comes to after some events, as the examples in docstrings show it.

Events go through the agents.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from persona_stream.in_process import InProcess
from persona_stream.serving.scorers import Scored
from persona_stream.stream.slices import LogRecord
from persona_stream.vocabulary.config import Settings

NOON_MS = int(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp() * 1000)
"""Events of the examples are told in minutes from here; questions are asked an hour later."""
MINUTE_MS = 60_000
_ASKED_MS = NOON_MS + 60 * MINUTE_MS
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
    system = _system(f"[features]\n{feature}\n", events, items or {})
    system.put_traits(user, traits or {})
    features = system.ask(user, list(ask), _ASKED_MS, ordered=True, context=context, slot=slot).features
    plan = system.engine.plan
    for name, column in zip(plan.features.names, features.T.tolist(), strict=True):
        shown = [f"{round(value, 4):g}" for value in (column[:1] if name in plan.user_names else column)]
        print(f"{name:8} {' '.join(shown)}")


def limited(
    limit: str,
    ask: Sequence[str],
    events: Sequence[Told] = (),
    user: str = "u1",
    *,
    items: dict[str, dict[str, Any]] | None = None,
    slot: str = "",
) -> None:
    """Print the items as they are answered where they score as they stand, the first best; and what moved them."""
    text = f'[features]\nplace = {{ kind = "position" }}\n[limits]\n{limit}\n'
    system = _system(text, events, items or {})
    question = system.ask(user, list(ask), _ASKED_MS, ordered=True, slot=slot)
    placed = system.engine.place(question, Scored(-np.arange(len(ask), dtype=np.float64), "given", ""), len(ask))
    for rank, at in enumerate(placed.order.tolist(), start=1):
        print(f"{rank} {question.items[at]:6} {placed.limited.get(at, '')}".rstrip())


def _system(text: str, events: Sequence[Told], items: dict[str, dict[str, Any]]) -> InProcess:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "features.toml"
        path.write_text(text, encoding="utf-8")
        system = InProcess(Settings(features=path, allowed_lateness_ms=_LATENESS_MS))
    system.fold([_record(number, event) for number, event in enumerate(events)])
    for item, attributes in items.items():
        system.put_item(item, attributes)
    return system


def _record(number: int, event: Told) -> LogRecord:
    user, kind, item, minute, *value = event
    ts_ms = NOON_MS + minute * MINUTE_MS
    made = {"id": f"e{number}", "type": kind, "user": user, "ts": ts_ms}
    made["items" if isinstance(item, list) else "item"] = item
    if value:
        made["value"] = value[0]
    return LogRecord(number, ts_ms, user.encode(), orjson.dumps(made))
