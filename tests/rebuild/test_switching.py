"""Another generation is made live under load: no request fails, no answer goes back in time, and state is exact."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.cluster import until
from support.disturbed import assert_state_is_exact, under_load
from support.live import MakeLive
from support.questions import assert_replicas_equal_the_tables, get, questions, until_ready
from support.rebuilds import records_after, run_rebuild, with_state

from persona_stream.cli.probe import any_free_port
from persona_stream.vocabulary.topics import SERVED_TABLES

WITHIN_S = 90
LOOK_S = 0.05


async def test_switch_and_rollback_under_load_fail_no_request_and_lose_nothing(make_live: MakeLive) -> None:
    namespace = await with_state(make_live, 3_000)
    ports = [any_free_port(), any_free_port()]
    for port in ports:
        namespace.start_server(port)
        await until_ready(namespace, port)
    (worker,) = namespace.workers
    async with (
        under_load(namespace, records_after(3_000, 60_000)),
        questions(ports[0]) as asked,
        questions(ports[1]) as asked_too,
        never_back(ports[0]),
        never_back(ports[1]),
    ):
        assert (await run_rebuild(namespace))[0] == 0
        for port in ports:
            await until_served(port, dict.fromkeys(SERVED_TABLES, 2))
        assert (await run_rebuild(namespace, "--table", "users"))[0] == 0
        for port in ports:
            await until_served(port, {**dict.fromkeys(SERVED_TABLES, 2), "users": 3})
        for _ in range(2):
            assert (await run_rebuild(namespace, "--rollback"))[0] == 0
        for port in ports:
            await until_served(port, dict.fromkeys(SERVED_TABLES, 1))
        answered = asked.answered + asked_too.answered
    await namespace.until_applied()
    assert worker.exit_code() is None
    assert not asked.failed
    assert not asked_too.failed
    assert answered > 200
    await assert_state_is_exact(namespace)
    await assert_replicas_equal_the_tables(namespace, ports)


async def until_served(port: int, generations: dict[str, int]) -> None:
    async def served() -> bool:
        _, fresh = await get(port, "/readyz?verbose")
        return {name: table["generation"] for name, table in fresh["tables"].items()} == generations

    await until(served, within_s=WITHIN_S, what=f"generations {generations} served")


@asynccontextmanager
async def never_back(port: int) -> AsyncIterator[None]:
    """A server never knows of fewer events than before, and stays ready."""
    task = asyncio.create_task(_watch(port))
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch(port: int) -> None:
    known: dict[str, int] = {}
    while True:
        status, fresh = await get(port, "/readyz?verbose")
        assert status == 200, fresh
        for name in ("users", "items", "learner"):
            events = fresh["tables"][name]["events"]
            assert events >= known.get(name, 0), (name, known, fresh)
            known[name] = events
        await asyncio.sleep(LOOK_S)
