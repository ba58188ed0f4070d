"""`persona-stream evaluate`: a log of lists through a system of its own."""

import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from persona_stream.past_lists import GIVEN, POPULARITY, TOUCHED, past_lists, shuffled
from persona_stream.past_sessions import PERSONAL, measure_sessions, past_sessions
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.events import parse_event
from tables.attribution import Attribution

Call = Callable[..., Any]

T0_MS = 1_700_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
LISTS = 300
COLUMNS = 5


def _log(lists: int, *, seed: int = 1) -> list[dict[str, object]]:
    """Users look at an item, are shown it among others, and most often take it."""
    random_ = random.Random(seed)
    log: list[dict[str, object]] = []
    for number in range(lists):
        user, ts_ms = f"u{random_.randrange(40)}", T0_MS + number * 5 * MINUTE_MS
        shown = random_.sample([f"i{n}" for n in range(60)], 8)
        seen = random_.choice(shown)
        chosen = seen if random_.random() < 0.9 else random_.choice(shown)
        log += [
            {"id": f"v{number}", "type": "view", "user": user, "item": seen, "ts": ts_ms},
            {"id": f"s{number}", "type": "impression", "user": user, "items": shown, "ts": ts_ms + MINUTE_MS},
            {"id": f"c{number}", "type": "click", "user": user, "item": chosen, "ts": ts_ms + 2 * MINUTE_MS},
        ]
    return log


def _write(path: Path, log: list[dict[str, object]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in log))
    return path


@pytest.mark.timeout(240)
def test_a_log_of_lists_is_judged_beside_simple_rules(call: Call, tmp_path: Path) -> None:
    log = _write(tmp_path / "log.jsonl", [*_log(LISTS), {"id": "bad"}])
    done = call("evaluate", str(log), settings=Settings(home=tmp_path / "home"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rejected 1 lines of" in done.stderr
    told = re.search(r"trained on (\d+) lists of the first 60% of time; the (\d+) of the rest", done.stdout)
    assert told is not None
    assert sum(map(int, told.groups())) == LISTS
    measured = _measured(done.stdout)
    assert measured["ranker/v1"] > 0.8
    assert measured["ranker/v1"] > measured[GIVEN] + 0.2
    assert measured[TOUCHED] > 0.8


def _measured(stdout: str) -> dict[str, float]:
    """NDCG by what ranked."""
    rows = [cells for line in stdout.splitlines() if len(cells := line.split("\t")) == 5 and cells[0]]
    return {cells[0]: float(cells[1]) for cells in rows}


def _baskets(count: int) -> list[dict[str, object]]:
    """Users buy two of five items of their own at a time."""
    random_ = random.Random(2)
    log: list[dict[str, object]] = []
    for number in range(count):
        user, ts_ms = random_.randrange(30), T0_MS + number * HOUR_MS
        for item in random_.sample([f"i{3 * user + n}" for n in range(5)], 2):
            bought = {"id": f"e{number}-{item}", "type": "purchase", "user": f"u/{user}", "item": item, "ts": ts_ms}
            log.append(bought)
    return log


@pytest.mark.timeout(240)
def test_a_log_of_baskets_is_judged_by_what_was_bought_next(call: Call, tmp_path: Path) -> None:
    log = _write(tmp_path / "log.jsonl", _baskets(600))
    done = call("evaluate", str(log), settings=Settings(home=tmp_path / "home"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of the rest asked through /v1/recommend." in done.stdout
    measured = _measured(done.stdout)
    assert measured["ranker/v1"] > measured[POPULARITY] + 0.3
    assert measured[PERSONAL] > 0.5
    assert "fallbacks" not in done.stdout


def test_sessions_are_asked_about_once_their_user_is_known_and_judged_by_all_that_was_chosen() -> None:
    told = [
        {"id": f"e{n}", "type": kind, "user": "u", "item": item, "ts": T0_MS + minute * MINUTE_MS}
        for n, (kind, item, minute) in enumerate(
            [
                *(("purchase", "a", 0), ("view", "b", 1), ("purchase", "c", 100), ("purchase", "a", 101)),
                # Three items are known by now.
                *(("purchase", "d", 200), ("view", "e", 201), ("purchase", "a", 210), ("purchase", "b", 300)),
            ]
        )
    ]
    sessions = past_sessions([parse_event(orjson.dumps(event)) for event in told], 30 * MINUTE_MS)
    assert [(one.at, one.chosen) for one in sessions] == [(4, {"d", "a"}), (7, {"b"})]
    assert sessions[0].by_rule == {PERSONAL: ["a", "c", "b"], POPULARITY: ["a", "c", "b"]}
    # Of two that were chosen one was recommended, at the first of ten places.
    perfect, half = (measure_sessions(sessions[:1], [items], seed=1).ndcg.mean for items in (["a", "d"], ["a"]))
    assert perfect == 1.0
    assert half == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_a_log_of_views_is_refused(call: Call, tmp_path: Path) -> None:
    views = [event for event in _log(5) if event["type"] == "view"]
    done = call("evaluate", str(_write(tmp_path / "log.jsonl", views)), settings=Settings(home=tmp_path / "home"))
    assert done.returncode == 1
    assert "0 lists before the cut and 0 after it and 0 sessions" in done.stderr


def test_an_outcome_belongs_to_the_list_it_names_else_to_the_latest_with_its_item() -> None:
    told = [
        {"id": "s1", "type": "impression", "user": "u", "items": ["a", "b"], "ts": T0_MS},
        {"id": "s2", "type": "impression", "user": "u", "items": ["b", "c"], "ts": T0_MS + 1},
        {"id": "c1", "type": "click", "user": "u", "item": "b", "ts": T0_MS + 2},
        {"id": "c2", "type": "purchase", "user": "u", "item": "b", "ts": T0_MS + 3, "decision_id": "s1"},
        {"id": "c3", "type": "click", "user": "u", "item": "c", "ts": T0_MS + 10 * MINUTE_MS},
    ]
    lists = past_lists([parse_event(orjson.dumps(event)) for event in told], Attribution(5 * MINUTE_MS))
    assert [(one.items, one.labels().tolist()) for one in lists] == [(["a", "b"], [0, 3]), (["b", "c"], [1, 0])]


def test_a_shuffled_list_keeps_what_is_given_for_each_item() -> None:
    raw = {"id": "s", "type": "impression", "user": "u", "items": [f"i{n}" for n in range(9)], "ts": T0_MS}
    raw |= {"context": {"prices": list(range(9)), "few": [1, 2], "device": "tv"}}
    made = shuffled(parse_event(orjson.dumps(raw)), raw, seed=1)
    assert made["items"] != raw["items"]
    assert [f"i{price}" for price in made["context"]["prices"]] == made["items"]
    assert (made["context"]["few"], made["context"]["device"]) == ([1, 2], "tv")
    assert shuffled(parse_event(orjson.dumps(raw)), raw, seed=1) == made
