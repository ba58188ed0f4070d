"""What the shipped features cost: of a request, and of the stream. `python -m benchmarks.features`.

A request: all features of 100 and of 1,000 candidates of a user with a history, from the state as it is held, beside
the same rows computed one candidate at a time by the same plan. The stream: logs folded by the agents, each in a fresh
process, beside the same with a quarter of the examples (`unlisted = 0.25`), and without any, that is without features:
real purchases (completejourney, of a package that the product depends on), each of which makes two rows of features,
and clicks among views as the other benchmarks have them. The garbage collector looks at objects when the worker's does.
"""

import gc
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import orjson

from benchmarks.data import clicks_among_views, generate
from persona_stream.demo.dataset import Dataset
from persona_stream.in_process import InProcess
from persona_stream.serving.item_columns import ItemColumns
from persona_stream.stream.garbage import let_state_stay, settle
from persona_stream.stream.slices import LogRecord
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.events import parse_event, parse_item
from persona_stream.vocabulary.messages import ItemEvent
from tables.attribution import Attribution
from tables.covisits import co_visited, packed
from tables.features.attributes import AttributeColumns
from tables.features.blocks import Request, RowsBuilder
from tables.features.plan import plan_of
from tables.items import ItemState, apply_item_event
from tables.users import Rules, UserState, admit, apply_event, codec, counted

ITEMS, ROUNDS = 5_000, 500
NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
GAP_MS = 1_800_000
EVENTS, SLICE = 30_000, 2_000
SETTINGS = Settings()
PLAN = plan_of(SETTINGS)


def main() -> None:
    """Print both."""
    let_state_stay()
    columns, attributes, state = _items(), _catalogue(), _user()
    print(f"{PLAN.features.width} features, p50 and p99 of {ROUNDS}, one thread")
    raw = codec.encode(state)
    print(f"  the user's state decoded (once a request)    {_shown(_timed(lambda: codec.decode(raw)))}")
    for count in (100, 1_000):
        items = [f"i{n}" for n in random.Random(2).sample(range(ITEMS), count)]
        together = _timed(lambda items=items: _features(columns, attributes, state, items))  # type: ignore[misc]  # a lambda's default has no type
        print(f"  {count:,} candidates together{'':21}{_shown(together)}")
        if count == 100:
            alone = _timed(
                lambda items=items: [_features(columns, attributes, state, [item]) for item in items],  # type: ignore[misc]  # a lambda's default has no type
                rounds=10,
            )
            print(f"  100 candidates one by one{'':20}{_shown(alone)}   {alone[0] / together[0]:.0f}x as long")
    _stream()


def _stream() -> None:
    print(f"the stream in slices of {SLICE:,}, users and items folded in one process, {PLAN.features.width} features")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "features.toml"
        path.write_text('include = ["shipped"]\n[attribution]\nunlisted = 0.25\n')
        for name in LOGS:
            all_, some = (_in_fresh_process(name, features) for features in (None, path))
            without = _in_fresh_process(name, None, with_examples=False)
            print(f"  {name:40}{all_:>8,.0f} events/s; a quarter {some:,.0f}, no examples {without:,.0f}")


def _in_fresh_process(log: str, features: Path | None, *, with_examples: bool = True) -> float:
    """As a worker finds it: without what an earlier log left."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_events_per_s, log, features, with_examples=with_examples).result()


def _events_per_s(name: str, features: Path | None, *, with_examples: bool) -> float:
    let_state_stay()
    raws = LOGS[name]()
    events = [parse_event(raw) for raw in raws]
    log = [
        LogRecord(at, int(event.ts), event.user.encode(), raw)
        for at, (event, raw) in enumerate(zip(events, raws, strict=True))
    ]
    system = InProcess(msgspec.structs.replace(SETTINGS, features=features), with_examples=with_examples)
    for item in map(parse_item, Dataset(EVENTS).items()):
        system.put_item(item.id, item.attributes)
    # What was put in above is old when a worker folds.
    gc.collect()
    # A worker keeps no columns of items: servers do.
    system.replica.items.put = lambda *_: None  # type: ignore[method-assign]  # there is no other way
    started_s = time.perf_counter()
    for start in range(0, len(log), SLICE):
        system.fold(log[start : start + SLICE])
        settle()
    return len(log) / (time.perf_counter() - started_s)


def _purchases() -> list[bytes]:
    return list(islice(Dataset(EVENTS).events(), EVENTS))


def _clicks() -> list[bytes]:
    return [record.value for record in generate(clicks_among_views(EVENTS))]


LOGS = {"purchases, each an outcome": _purchases, "a click log, 4 outcomes in 10 events": _clicks}


def _features(columns: ItemColumns, attributes: AttributeColumns, state: UserState, items: list[str]) -> np.ndarray:
    asked = RowsBuilder(attributes, GAP_MS)
    request = Request({"timezone": "Europe/Berlin"}, "home", {})
    asked.add("u", state, items, NOW_MS, positions=np.arange(len(items)), request=request)
    rows = columns.rows(items)
    counters = columns.counters(rows, columns.covisit_counts(rows, co_visited(state)), NOW_MS)
    return np.hstack([PLAN.person(asked.rows()), PLAN.item(counters)])


def _timed(ask: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    ask()
    took_ms = []
    for _ in range(rounds):
        started_s = time.perf_counter()
        ask()
        took_ms.append(1000 * (time.perf_counter() - started_s))
    return float(np.percentile(took_ms, 50)), float(np.percentile(took_ms, 99))


def _shown(quantiles_ms: tuple[float, float]) -> str:
    return f"{quantiles_ms[0]:.3f} ms, {quantiles_ms[1]:.3f} ms"


def _items() -> ItemColumns:
    rng = random.Random(1)
    columns = ItemColumns()
    for number in range(ITEMS):
        state = ItemState()
        for offset in range(rng.randrange(1, 12)):
            near = packed(f"i{rng.randrange(ITEMS)}" for _ in range(4))
            ts_ms, visitor = NOW_MS - rng.randrange(6 * DAY_MS), rng.getrandbits(40)
            made = ItemEvent(f"i{number}", rng.randrange(6), ts_ms, 0, 0, offset, "", visitor, near)
            apply_item_event(state, made)
        columns.put(f"i{number}", state)
    return columns


def _catalogue() -> AttributeColumns:
    rng = random.Random(2)
    words = [f"w{n}" for n in range(2_000)]
    attributes = AttributeColumns(PLAN.needs)
    for number in range(ITEMS):
        told = {
            "title": " ".join(rng.choices(words, k=5)),
            "category": [f"d{number % 20}", f"c{number % 300}"],
            "brand": f"b{number % 50}",
            "price": 100 * rng.random(),
        }
        attributes.put(f"i{number}", told)
    return attributes


def _user() -> UserState:
    """300 visits over a week or so, and six lists shown in the last minutes."""
    rng = random.Random(3)
    rules = Rules(GAP_MS, Attribution(GAP_MS), "segment", 3_600_000)
    state = UserState()
    kinds = ["view"] * 4 + ["click", "purchase"]
    times = sorted(NOW_MS - 5_000 - rng.randrange(7 * DAY_MS) for _ in range(300))
    told = [(at, rng.choice(kinds), {"item": f"i{rng.randrange(400)}"}) for at in times]
    told += [
        (NOW_MS - 60_000 * n, "impression", {"items": [f"i{rng.randrange(ITEMS)}" for _ in range(24)]})
        for n in range(6, 0, -1)
    ]
    for offset, (ts_ms, kind, fields) in enumerate(told):
        event = parse_event(_json(f"e{offset}", kind, ts_ms, fields))
        admit(state, event, ts_ms, offset, rules)
        apply_event(state, event, counted(event, ts_ms, rules), rules)
    return state


def _json(event_id: str, kind: str, ts_ms: int, fields: dict[str, object]) -> bytes:
    return orjson.dumps({"id": event_id, "type": kind, "user": "u", "ts": ts_ms, **fields})


if __name__ == "__main__":
    main()
