"""`skew` on a real system: logged features are those that the log gives, however tables went on meanwhile."""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import orjson
import pytest
from msgspec import Struct
from support.cluster import alter_topic, delete_records, end_offsets, read_all, until, write_keyed
from support.live import Live, live, prepared
from support.logs import T0_MS, shopping
from support.processes import Process, settings_env
from support.questions import questions, until_holds_all, until_ready

from persona_stream.cli.probe import any_free_port
from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.ids import new_id
from persona_stream.vocabulary.messages import Decision, decode_decision, encode_json
from tables.features.plan import feature_set

Call = Callable[..., Any]

FEATURES = feature_set(Settings())
EVENTS, BURST = 12_000, 1_500
USERS, ITEMS = 60, 40
SETTLED = 12
"""Decisions made while nothing changed."""
EVERYTHING = 100_000
NOBODY = b"nobody at all"
OTHER_FEATURES = """
[features]
views = {kind = "window_count", scope = "user", events = ["view"], window = "1d"}
"""


class Made(Struct):
    """A system that was asked all the while, and how much its log has."""

    namespace: Live
    settled: list[str]
    early: dict[int, int]
    """Ends of the item events when a third of the events were folded."""
    records: int = 0
    """Records in all topics that a server's state follows from."""


@pytest.fixture(scope="module")
def made(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with live(kafka, tmp_path_factory.mktemp("skew")) as make:
        namespace = make()
        yield asyncio.run(_made(namespace))


async def _made(namespace: Live) -> Made:
    await prepared(lambda: namespace)
    port, topics = any_free_port(), namespace.topics
    namespace.start_worker()
    namespace.start_server(port)
    await until_ready(namespace, port)
    events = [Record(one["user"].encode(), orjson.dumps(one)) for one in shopping(EVENTS, users=USERS, items=ITEMS)]
    early: dict[int, int] = {}
    async with questions(port):
        for turn, start in enumerate(range(0, EVENTS, BURST)):
            await write_keyed(namespace.settings, topics.items, [_item(n, turn) for n in range(turn, ITEMS, 3)])
            await write_keyed(namespace.settings, topics.profiles, [_profile(n, turn) for n in range(turn, USERS, 7)])
            await write_keyed(namespace.settings, topics.events, events[start : start + BURST])
            await namespace.until_applied("users", "items")
            if turn == EVENTS // BURST // 3:
                early = await end_offsets(namespace.settings.kafka, topics.item_events)
    await until_holds_all(namespace, port)
    settled = [await _rank(port, f"u{n}") for n in range(SETTLED)]
    # From here on all changes that the answers were made of.
    await write_keyed(namespace.settings, topics.events, [_late(n) for n in range(USERS)])
    await write_keyed(namespace.settings, topics.items, [_item(n, 99) for n in range(ITEMS)])
    await namespace.until_applied("users", "items", "catalogue")

    async def all_logged() -> bool:
        return set(settled) <= {decision.id for decision in await _decisions(namespace)}

    await until(all_logged, within_s=30, what="the decisions are logged")
    for process in (*namespace.workers, *namespace.servers):
        process.kill()
    found = Made(namespace, settled, early)
    for topic in (topics.events, topics.item_events, topics.items, topics.profiles):
        found.records += sum((await end_offsets(namespace.settings.kafka, topic)).values())
    return found


def _item(number: int, turn: int) -> Record:
    attributes = {"title": f"thing {number} of {turn}", "price": 5.0 + number + turn, "category": [f"c{number % 5}"]}
    told = {"id": f"i{number}", "ts": T0_MS + turn, "attributes": attributes, "status": "active"}
    return Record(told["id"].encode(), orjson.dumps(told))


def _profile(number: int, turn: int) -> Record:
    told = {"user": f"u{number}", "ts": T0_MS + turn, "traits": {"age": 20 + turn, "segment": f"s{turn % 3}"}}
    return Record(told["user"].encode(), orjson.dumps(told))


def _late(number: int) -> Record:
    told = {"id": f"late{number}", "type": "click", "user": f"u{number}", "ts": T0_MS + EVENTS * 60_000, "item": "i1"}
    return Record(told["user"].encode(), orjson.dumps(told))


async def _rank(port: int, user: str) -> str:
    asked = {"user": user, "items": [f"i{n}" for n in range(20)], "context": {"segment": "s1"}}
    url = f"http://127.0.0.1:{port}/v1/rank"
    async with aiohttp.ClientSession() as session, session.post(url, json=asked) as answer:
        return str((await answer.json())["decision_id"])


async def _decisions(namespace: Live) -> list[Decision]:
    records = await read_all(namespace.settings.kafka, namespace.topics.decisions)
    return [decode_decision(record.value) for record in records if record.key != NOBODY]


def test_what_a_live_system_logged_is_what_the_log_gives(made: Made, call: Call) -> None:
    done = call("skew", "--sample", "100000", settings=made.namespace.settings)
    assert "every feature is as logged." in done.stdout, done.stdout
    assert done.returncode == 0
    told = _json(call, made)
    decisions = asyncio.run(_decisions(made.namespace))
    assert told["found"] == told["sampled"] == len(decisions)
    # A server that reads a change in the middle says so, and nothing else is in the way; at rest nothing is.
    assert set(told["skipped"]) <= {"unsettled", "no-items"}
    assert told["compared"] + sum(told["skipped"].values()) == told["sampled"]
    assert told["compared"] > told["sampled"] / 2
    assert told["rows"] > told["compared"]
    assert told["features"] == []
    at_rest = _json(call, made, "--last", str(SETTLED))
    assert (at_rest["compared"], at_rest["skipped"]) == (SETTLED, {})


def test_a_sample_is_the_same_each_time_and_takes_one_pass(made: Made, call: Call) -> None:
    few, many = _json(call, made, "--sample", "20"), _json(call, made)
    assert few["sampled"] == 20 < many["sampled"]
    assert _json(call, made, "--sample", "20") == few
    assert few["records_folded"] <= many["records_folded"] <= made.records
    assert _json(call, made, "--sample", "20", "--seed", "2")["rows"] != 0
    assert _json(call, made, "--sample", "20", "--since", "1h")["found"] == many["found"]


def test_a_wrong_row_is_found_by_its_feature(made: Made, call: Call) -> None:
    planted = _plant(made, "user_events_7d", 0.5)
    done = call("skew", "--last", "5", settings=made.namespace.settings)
    assert done.returncode == 1
    assert f"persona-stream explain {planted.id}" in done.stdout
    (differing,) = _json(call, made, "--last", "5")["features"]
    assert (differing["feature"], differing["rows"], differing["decisions"]) == ("user_events_7d", 1, 1)
    assert (differing["decision"], differing["item"]) == (planted.id, planted.items[1])
    assert differing["largest"] == pytest.approx(0.5)
    assert differing["logged"] == pytest.approx(differing["recomputed"] + 0.5)
    explained = call("explain", planted.id, settings=made.namespace.settings)
    assert f"{planted.items[1]}: user_events_7d was" in explained.stdout


def test_the_worst_is_first_and_a_missing_number_is_worst(made: Made, call: Call) -> None:
    _plant(made, FEATURES.names[3], float("nan"))
    _plant(made, FEATURES.names[5], 2.0)
    told = _json(call, made, "--last", "2")["features"]
    assert [one["feature"] for one in told] == [FEATURES.names[3], FEATURES.names[5]]
    assert told[0]["largest"] is None
    assert told[0]["logged"] is None


def test_features_declared_otherwise_are_skipped_and_say_so(made: Made, call: Call, tmp_path: Path) -> None:
    other = tmp_path / "features.toml"
    other.write_text(OTHER_FEATURES)
    done = call("skew", "--last", "10", "--features", str(other), settings=made.namespace.settings)
    assert "10 skipped, feature-hash: the features were declared otherwise then." in done.stdout, done
    assert "nothing could be compared." in done.stdout
    assert done.returncode == 0


def test_reasons_of_a_decision_are_counted(made: Made, call: Call) -> None:
    _plant(made, None, 0.0, state=None)
    _plant(made, None, 0.0, ranked=[])
    _plant(made, None, 0.0, items=[], scores=[], propensities=[], features=b"")
    asyncio.run(write_keyed(made.namespace.settings, made.namespace.topics.decisions, [Record(NOBODY, b"no decision")]))
    told = _json(call, made, "--last", "4")
    assert told["skipped"] == {"no-items": 1, "no-state": 1, "unreadable": 2}


def test_the_job_tells_by_its_metrics_and_ends_when_told(made: Made) -> None:
    planted = _plant(made, "user_events_7d", 1.0)
    port = any_free_port()
    settings = msgspec.structs.replace(made.namespace.settings, skew_port=port)
    command = [
        sys.executable,
        "-m",
        "persona_stream",
        "skew",
        "--every",
        "2s",
        "--since",
        "1h",
        "--sample",
        str(EVERYTHING),
    ]
    job = Process(command, made.namespace.folder / "skew.log", settings_env(settings))
    try:
        text = asyncio.run(_metrics(job, port))
        assert re.search(r'^persona_skew_differences_total\{feature="user_events_7d"\} [1-9]', text, re.MULTILINE)
        assert re.search(r"^persona_skew_rows_total [1-9]", text, re.MULTILINE)
        assert re.search(r'^persona_skew_skipped_total\{reason="log-gone"\} 0', text, re.MULTILINE)
        at_s = float(re.findall(r"^persona_skew_timestamp_seconds (\S+)", text, re.MULTILINE)[0])
        assert time.time() - at_s < 60
        assert job.terminate() == 0
    finally:
        job.kill()
    assert "user_events_7d is not as logged" in job.log.read_text()
    assert planted.id


async def _metrics(job: Process, port: int) -> str:
    """What `/metrics` says once two rounds are done; `/healthz` is well meanwhile."""
    text = ""

    async def done() -> bool:
        nonlocal text
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                async with session.get("/healthz") as answer:
                    assert answer.status == 200, await answer.text()
                async with session.get("/metrics") as answer:
                    text = await answer.text()
        except aiohttp.ClientConnectorError:
            return False
        return bool(re.search(r'^persona_skew_rounds_total\{outcome="done"\} [2-9]', text, re.MULTILINE))

    await until(done, within_s=60, what="two rounds", check=job.check_alive)
    return text


def test_where_nothing_was_decided_that_is_said(settings: Settings, call: Call) -> None:
    done = call("skew", settings=settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no decisions are in topic" in done.stderr
    assert "Is --namespace right?" in done.stderr
    done = call("skew", "--since", "10m", settings=settings)
    assert "Ask for a longer time with --since" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--since", "1h", "--last", "5"], "don't go together"),
        (["--every", "1m", "--json"], "A job tells by /metrics"),
        (["--sample", "0"], "--sample must be at least 1"),
        (["--since", "0s"], "--since must be a time"),
    ],
)
def test_options_that_make_no_sense_are_told(settings: Settings, call: Call, arguments: list[str], told: str) -> None:
    done = call("skew", *arguments, settings=settings)
    assert done.returncode == 1
    assert told in done.stderr


def test_item_events_that_are_gone_are_made_again_and_a_log_that_is_gone_is_told(made: Made, call: Call) -> None:
    """The last one: what it takes away is gone."""
    kafka, topics = made.namespace.settings.kafka, made.namespace.topics
    before = _json(call, made, "--seed", "3")
    planted = [one["feature"] for one in before["features"]]
    asyncio.run(delete_records(kafka, topics.item_events, made.early))
    after = _json(call, made, "--seed", "3")
    # Those older than what is left can't be told; all others come out as before.
    assert 0 < after["skipped"]["log-gone"] < after["sampled"]
    assert after["compared"] + after["skipped"]["log-gone"] == before["compared"]
    assert [one["feature"] for one in after["features"]] == planted
    assert after["records_folded"] <= made.records

    # The catalogue's first versions go, as compaction takes them: what follows from them alone is not laid to skew.
    ends = asyncio.run(end_offsets(kafka, topics.items))
    # A topic that is only compacted gives no records up when asked to.
    asyncio.run(alter_topic(kafka, topics.items, {"cleanup.policy": "compact,delete"}))
    asyncio.run(delete_records(kafka, topics.items, ends))
    asyncio.run(write_keyed(made.namespace.settings, topics.items, [_item(n, 100) for n in range(ITEMS)]))
    compacted = _json(call, made, "--seed", "3")
    assert compacted["skipped"]["compacted"] > 0
    assert {one["feature"] for one in compacted["features"]} <= set(planted)

    asyncio.run(delete_records(kafka, topics.events, dict.fromkeys(range(2), 1)))
    gone = _json(call, made, "--seed", "3")
    assert gone["compared"] == 0
    assert gone["skipped"]["log-gone"] == before["compared"]


def _plant(made: Made, feature: str | None, by: float, **changed: Any) -> Decision:
    """Log a copy of a decision made at rest, one number of its second row changed."""
    original = next(one for one in asyncio.run(_decisions(made.namespace)) if one.id == made.settled[0])
    rows = np.frombuffer(original.features, dtype=np.float32).copy().reshape(len(original.items), -1)
    if feature is not None:
        rows[1, FEATURES.index(feature)] += by
    changed = {"features": rows.tobytes(), **changed}
    planted = msgspec.structs.replace(original, id=new_id(original.ts_ms), **changed)
    record = Record(planted.user.encode(), encode_json(planted))
    asyncio.run(write_keyed(made.namespace.settings, made.namespace.topics.decisions, [record]))
    return planted


def _json(call: Call, made: Made, *arguments: str) -> dict[str, Any]:
    if "--sample" not in arguments:
        arguments = ("--sample", str(EVERYTHING), *arguments)
    done = call("skew", "--json", *arguments, settings=made.namespace.settings)
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == bool(told["features"])
    return told
