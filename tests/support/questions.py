"""Servers under load: questions asked all the while, and what a server holds beside what the tables say."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from persona_stream.kafka.generations import read_history
from persona_stream.kafka.writer import BatchWriter
from persona_stream.serving.decisions import DecisionLog
from persona_stream.serving.engine import Engine
from persona_stream.serving.replica import Replica
from persona_stream.vocabulary.config import Settings
from support.cluster import until
from support.live import Live

ASK_EVERY_S = 0.02
WITHIN_S = 60


class Asked(Struct):
    """What became of the questions asked so far."""

    answered: int = 0
    failed: list[str] = []


@asynccontextmanager
async def questions(port: int) -> AsyncIterator[Asked]:
    """Ask a server for ranks, recommendations, users and items as long as the block runs."""
    asked = Asked()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        task = asyncio.create_task(_ask_on(session, asked))
        try:
            yield asked
            # None is cut off: what is on its way may be the one that fails.
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _ask_on(session: aiohttp.ClientSession, asked: Asked) -> None:
    for number in itertools.count():
        user = f"u{number % 60}"
        for method, path in (("POST", "/v1/rank"), ("GET", f"/v1/recommend/{user}"), ("GET", "/v1/trending")):
            body = {"user": user, "items": [f"i{n}" for n in range(20)]} if method == "POST" else None
            try:
                async with session.request(method, path, json=body) as answer:
                    text = await answer.text()
                    if answer.status == 200:
                        asked.answered += 1
                    else:
                        asked.failed.append(f"{path}: {answer.status} {text}")
            except aiohttp.ClientError as error:
                asked.failed.append(f"{path}: {error!r}")
        await asyncio.sleep(ASK_EVERY_S)


async def get(port: int, path: str) -> tuple[int, Any]:
    """Status and decoded JSON of a GET; status 0 where nobody listens, or hangs up."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, msgspec.json.decode(await answer.read())
    except aiohttp.ClientConnectionError:
        return 0, None


async def until_ready(namespace: Live, port: int) -> None:
    """Wait until a server is ready."""

    async def ready() -> bool:
        return (await get(port, "/readyz?verbose"))[0] == 200

    await until(ready, within_s=WITHIN_S, what="the server ready", check=namespace.servers[-1].check_alive)


async def until_holds_all(namespace: Live, port: int) -> None:
    """Wait until a server holds as many events as the tables do."""
    events = {
        name: sum(held.events for held in (await namespace.progress(name)).values())
        for name in ("users", "items", "learner")
    }

    async def holds() -> bool:
        status, fresh = await get(port, "/readyz?verbose")
        return status == 200 and all(fresh["tables"][name]["events"] == count for name, count in events.items())

    await until(holds, within_s=WITHIN_S, what=f"the server holds {events}")


class _AsOf(Replica):
    """A replica whose time is told."""

    at_ms = 0

    def now_ms(self) -> int:
        return self.at_ms


async def assert_replicas_equal_the_tables(namespace: Live, ports: list[int]) -> None:
    """Each user and each item that a server holds is what one who reads the tables only now sees, at the same time."""
    fresh = _AsOf(namespace.settings, (await read_history(namespace.settings)).live())
    await fresh.start()

    async def caught_up() -> bool:
        assert fresh.error is None, fresh.error
        return fresh.has_caught_up

    try:
        await until(caught_up, within_s=WITHIN_S, what="the tables read")
        engine = _engine(namespace.settings, fresh)
        items = [item for item in fresh.items.ids if item]
        assert fresh.users
        assert items
        for port in ports:
            await until_holds_all(namespace, port)
            for kind, held, view in (("users", fresh.users, engine.user), ("items", items, engine.item)):
                for name in held:
                    status, answer = await get(port, f"/v1/{kind}/{name}")
                    assert status == 200, f"{port}: {kind} {name}: {answer}"
                    fresh.at_ms = round(1000 * datetime.fromisoformat(answer["as_of"]).timestamp())
                    assert answer == msgspec.json.decode(msgspec.json.encode(view(name))), f"{port}: {kind} {name}"
    finally:
        await fresh.stop()


def _engine(settings: Settings, replica: Replica) -> Engine:
    # It is asked for no decisions, so nothing is ever written.
    return Engine(settings, replica, DecisionLog(settings, BatchWriter(settings, client_id="none"), lambda _: None))
