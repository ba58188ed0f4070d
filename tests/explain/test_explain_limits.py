"""Limits on a real system: they move items of an answer, the log says so, and `explain` makes the same of it again."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import orjson
from support.cluster import read_all, until, write_keyed
from support.live import Live, live, prepared
from support.logs import T0_MS, event
from support.questions import until_holds_all, until_ready

from models.topic_reader import ignore_progress
from persona_stream.cli.probe import any_free_port
from persona_stream.explain.explanation import Explanation, explain
from persona_stream.explain.rules import Rule
from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.messages import Decision, decode_decision

LIMITS = """
include = ["shipped"]
[limits.tired]
kind = "shown"
most = 2
within = "1h"
[limits.mixed]
kind = "spread"
attribute = "category"
most = 1
first = 2
slots = ["home"]
"""
CATEGORY = {"mug": "kitchen", "pot": "kitchen", "pan": "kitchen", "rug": "floor", "mat": "floor"}


async def test_limits_move_items_and_are_explained(kafka: str, tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(LIMITS)
    with live(kafka, tmp_path) as make:
        namespace = await prepared(make, features=path)
        port = any_free_port()
        namespace.start_worker()
        namespace.start_server(port)
        await until_ready(namespace, port)
        await _publish(namespace)
        await until_holds_all(namespace, port)
        items = ["mug", "pot", "pan", "rug", "mat"]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            home = await _ask(session, {"user": "ann", "items": items, "slot": "home"})
            few = await _ask(session, {"user": "ann", "items": items, "slot": "home", "k": 2})
            other = await _ask(session, {"user": "ann", "items": items, "slot": "cart"})
            async with session.get("/v1/recommend/ann?slot=home") as answer:
                found = await answer.json()
        # By history alone: mug, pot, pan, rug, mat. The mug was shown twice.
        assert _told(other) == [("pot", None), ("pan", None), ("rug", None), ("mat", None), ("mug", "tired")]
        assert _told(home) == [("pot", None), ("rug", None), ("pan", "mixed"), ("mat", None), ("mug", "tired")]
        assert _told(few) == [("pot", None), ("rug", None)]
        assert _told(found)[-1] == ("mug", "tired")
        decisions = await _logged(namespace, 4)
        logged = decisions[home["decision_id"]]
        assert (list(logged.limits), logged.limited) == (["tired", "mixed"], {"mug": "tired", "pan": "mixed"})
        assert decisions[few["decision_id"]].limited == {"mug": "tired"}
        assert list(decisions[other["decision_id"]].limits) == ["tired"]
        for decision in decisions.values():
            explained = await _explained(namespace, decision)
            assert (explained.same, explained.differences) == (True, [])
        rules = (await _explained(namespace, logged)).rules
        tired = 'behind items with lower scores by tired: shown, most = 2, within = "1h"'
        mixed = 'behind items with lower scores by mixed: spread, attribute = "category", most = 1, first = 2'
        assert rules[-2:] == [Rule("limited", tired, "mug"), Rule("limited", mixed, "pan")]

        # Another limit today: what was answered is told as it was then, and what differs is named.
        path.with_name("other.toml").write_text(LIMITS.replace("most = 2", "most = 3"))
        namespace.settings = msgspec.structs.replace(namespace.settings, features=path.with_name("other.toml"))
        changed = await _explained(namespace, logged)
        assert [one.step for one in changed.differences] == ["definition", "order"]
        assert "most = 2" in changed.differences[0].detail
        assert changed.differences[1].detail == "rank 1 was pot and is mug today"
        assert changed.rules == rules


async def _publish(namespace: Live) -> None:
    at_ms = iter(range(T0_MS, T0_MS + 10**9, 60_000))
    visits = ["pan", "pot", "pot", "mug", "mug", "mug"]
    events = [event(f"v{n}", "view", "ann", next(at_ms), item=item) for n, item in enumerate(visits)]
    events += [event(f"s{n}", "impression", "ann", next(at_ms), items=["mug", "rug"][: 2 - n]) for n in range(2)]
    entries = [
        Record(item.encode(), orjson.dumps({"id": item, "ts": 1, "attributes": {"category": category}}))
        for item, category in CATEGORY.items()
    ]
    await write_keyed(namespace.settings, namespace.topics.items, entries)
    await write_keyed(
        namespace.settings, namespace.topics.events, [Record(b"ann", orjson.dumps(one)) for one in events]
    )
    await namespace.until_applied("users", "items", "learner", "catalogue")


async def _ask(session: aiohttp.ClientSession, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post("/v1/rank", json=body) as answer:
        return dict(await answer.json())


def _told(answer: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(item["item"], item.get("limited")) for item in answer["items"]]


async def _logged(namespace: Live, count: int) -> dict[str, Decision]:
    async def decisions() -> list[Decision]:
        records = await read_all(namespace.settings.kafka, namespace.topics.decisions)
        return [decode_decision(record.value) for record in records]

    async def are_there() -> bool:
        return len(await decisions()) == count

    await until(are_there, within_s=30, what="the decisions are logged")
    return {decision.id: decision for decision in await decisions()}


async def _explained(namespace: Live, decision: Decision) -> Explanation:
    return await explain(namespace.settings, decision, lambda _: nullcontext(ignore_progress))
