"""`audit` of what processes hold: each corruption planted in a worker's or a server's memory is found and named."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from support.cluster import write_keyed
from support.disturbed import item_records, shopping_records, under_load
from support.flipping import FLIPPED
from support.live import Live, MakeLive, prepared
from support.logs import T0_MS, event
from support.mirrored import until_mirrored
from support.processes import Process, StartMirror
from support.questions import until_ready
from support.redis_server import RedisServer

from persona_stream.cli.probe import any_free_port
from persona_stream.kafka.writer import Record
from persona_stream.mirror.layout import key_of

Run = Callable[..., "subprocess.CompletedProcess[str]"]
EVENTS = 2_000


class System:
    """A worker and a server that flip a bit when told, and how they are audited."""

    def __init__(self, namespace: Live, worker: Process, server: Process, urls: tuple[str, str]) -> None:
        self.namespace = namespace
        self.worker = worker
        self.server = server
        self.urls = urls

    async def audit(self, run: Run, *tables: str, **env: str) -> "subprocess.CompletedProcess[str]":
        worker, server = self.urls
        named = [argument for table in tables for argument in ("--table", table)]
        return await asyncio.to_thread(
            run, "audit", "--worker", worker, "--server", server, *named, settings=self.namespace.settings, **env
        )


@asynccontextmanager
async def _system(
    make_live: MakeLive, in_worker: list[str], in_server: list[str], events: list[Record], **settings: object
) -> AsyncIterator[System]:
    worker_port, http_port = any_free_port(), any_free_port()
    namespace = await prepared(make_live, worker_port=worker_port, http_port=http_port, **settings)
    await write_keyed(namespace.settings, namespace.topics.events, events)
    await write_keyed(namespace.settings, namespace.topics.items, item_records(20))
    worker = namespace.start_flipping("worker", *in_worker)
    server = namespace.start_flipping("server", *in_server)
    await namespace.until_applied("users", "items", "impressions", "learner", "catalogue")
    await until_ready(namespace, http_port)
    yield System(namespace, worker, server, (f"http://127.0.0.1:{worker_port}", f"http://127.0.0.1:{http_port}"))


def _differ(done: "subprocess.CompletedProcess[str]", kind: str) -> dict[str, int]:
    """Table -> keys that differ, in what processes of a kind hold."""
    found: dict[str, int] = {}
    for line in done.stdout.splitlines()[1:]:
        cells = line.split("\t")
        if len(cells) > 1 and cells[1].startswith(kind):
            assert cells[-1] in {"equal", "differs"}, line
            found[cells[0]] = found.get(cells[0], 0) + int(cells[3])
    return found


CLEAN = dict.fromkeys(("users", "items", "catalogue", "profiles", "impressions", "learner"), 0)
NOT_SERVED = {"impressions": 0}
PLANTED = {**CLEAN, "users": 1, "items": 1, "catalogue": 1}


def _named(done: "subprocess.CompletedProcess[str]", kind: str) -> set[tuple[str, str]]:
    """(table, key) of each difference told of processes of a kind."""
    found = re.findall(rf"^{kind} \S+: (\w+), partition \d+, key '(\w+)': ", done.stdout, re.MULTILINE)
    return {(table, key) for table, key in found}


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
async def test_a_bit_flipped_where_it_is_held_is_named_and_nothing_else_is(
    make_live: MakeLive, run: Run, store: str
) -> None:
    events = shopping_records(EVENTS, seed=1)
    in_worker, in_server = ["users/u1", "items/i3", "catalogue/i5"], ["users/u2", "items/i4", "catalogue/i6"]
    async with _system(make_live, in_worker, in_server, events, store=store, store_values=5) as system:
        clean = await system.audit(run)
        assert clean.returncode == 0, clean.stdout + clean.stderr
        assert _differ(clean, "worker") == _differ(clean, "server") | NOT_SERVED == CLEAN
        assert "held by no worker" not in clean.stderr

        system.worker.tell(FLIPPED)
        system.server.tell(FLIPPED)
        found = await system.audit(run)
        assert found.returncode == 1
        assert _differ(found, "changelog") == CLEAN
        assert _differ(found, "worker") == _differ(found, "server") | NOT_SERVED == PLANTED
        assert _named(found, "worker") == {("users", "u1"), ("items", "i3"), ("catalogue", "i5")}
        assert _named(found, "server") == {("users", "u2"), ("items", "i4"), ("catalogue", "i6")}
        assert "key 'i4': panes\n  in the changelog  b'" in found.stdout
        assert "PERSONA_AUDIT_VALUES" in found.stdout


async def test_three_places_that_are_wrong_are_named_by_one_audit(
    make_live: MakeLive, run: Run, redis: RedisServer, run_mirror: StartMirror
) -> None:
    events = shopping_records(EVENTS, seed=2)
    store = {"store": "rocksdb", "store_values": 5, "redis_url": redis.url}
    async with _system(make_live, ["users/u1"], ["items/i4"], events, **store) as system, redis.client() as client:
        settings = system.namespace.settings
        run_mirror(settings)
        await until_mirrored(system.namespace, client)
        clean = await system.audit(run, PERSONA_REDIS_URL=redis.url)
        assert clean.returncode == 0, clean.stdout + clean.stderr

        system.worker.tell(FLIPPED)
        system.server.tell(FLIPPED)
        await client.hset(key_of(settings.namespace, "user", "u2"), "total_click", "77777")
        found = await system.audit(run, PERSONA_REDIS_URL=redis.url)
        assert found.returncode == 1
        assert _named(found, "worker") == {("users", "u1")}
        assert _named(found, "server") == {("items", "i4")}
        assert re.findall(r"^redis: (\w+).*, key '\S+?:user:(\w+)': (\w+)$", found.stdout, re.MULTILINE) == [
            ("users", "u2", "total_click")
        ]


async def test_under_load_nothing_differs_but_what_was_planted(make_live: MakeLive, run: Run) -> None:
    quiet = Record(b"quiet", orjson.dumps(event("q", "view", "quiet", T0_MS, item="i1")))
    planted = ["users/quiet"]
    load = shopping_records(60_000, seed=3)
    async with (
        _system(make_live, planted, planted, [quiet], audit_values=True) as system,
        under_load(system.namespace, load),
    ):
        await system.namespace.until_goes_on()
        for _ in range(3):
            clean = await system.audit(run, "users", "items")
            assert clean.returncode == 0, clean.stdout + clean.stderr
        system.worker.tell(FLIPPED)
        system.server.tell(FLIPPED)
        found = await system.audit(run, "users", "items")
        assert _differ(found, "worker") == _differ(found, "server") == {"users": 1, "items": 0}, found.stdout
        assert _named(found, "worker") == _named(found, "server") == {("users", "quiet")}
        assert found.stdout.count("\n  held  ") == 2


async def test_a_process_that_was_named_and_is_not_there_is_an_error(make_live: MakeLive, run: Run) -> None:
    namespace = await prepared(make_live)
    done = await asyncio.to_thread(run, "audit", "--server", "http://127.0.0.1:9", settings=namespace.settings)
    assert done.returncode == 1
    assert "not compared: server http://127.0.0.1:9 does not answer" in done.stderr
    alone = await asyncio.to_thread(run, "audit", settings=namespace.settings)
    assert alone.returncode == 0
    assert "no worker or server was compared" in alone.stderr
