"""Rebuilds in tests: a namespace with state to rebuild, the rebuild itself, and the command as a process."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from models.topic_reader import ignore_progress
from persona_stream.kafka.generations import read_history
from persona_stream.kafka.writer import Record
from persona_stream.rebuild.build import OnProgress, Outcome, Rebuild, Wanted
from persona_stream.vocabulary.topics import TABLES
from support.cluster import write_keyed
from support.disturbed import shopping_records
from support.live import Live, MakeLive, prepared
from support.processes import Process, settings_env, start_module

SEED = 5
REBUILD_S = 60


@contextmanager
def no_bar(what: str) -> Iterator[OnProgress]:
    """Progress that is not shown."""
    yield ignore_progress


async def rebuilt(namespace: Live, **wanted: object) -> Outcome:
    """Build a generation; nothing is registered or switched."""
    history = await read_history(namespace.settings)
    return await Rebuild(namespace.settings, history, Wanted(**wanted), no_bar).run()


def start_rebuild(namespace: Live, *arguments: str, **changed: object) -> Process:
    """`persona-stream rebuild`, as a user starts it; settings may be changed."""
    command = [sys.executable, "-m", "persona_stream", "rebuild", *arguments]
    return Process(command, _new_log(namespace), settings_env(msgspec.structs.replace(namespace.settings, **changed)))


async def run_rebuild(namespace: Live, *arguments: str, **changed: object) -> tuple[int, str]:
    """Its exit code, and what it said."""
    process = start_rebuild(namespace, *arguments, **changed)
    return await asyncio.to_thread(process.wait, within_s=REBUILD_S), process.log_tail()


def start_doomed_rebuild(namespace: Live) -> Process:
    """A rebuild that kills itself (SIGKILL) in the middle of writing."""
    return start_module("support.doomed_rebuild", namespace.settings, _new_log(namespace))


def _new_log(namespace: Live) -> Path:
    return namespace.folder / f"rebuild-{len(list(namespace.folder.glob('rebuild-*')))}.log"


def records_after(count: int, more: int) -> list[Record]:
    """Events that come after those of `with_state`: an id that came again would count as a retry, or twice."""
    return shopping_records(count + more, seed=SEED)[count:]


async def with_state(make_live: MakeLive, count: int, **changed: object) -> Live:
    """A namespace whose worker has folded so many events, and some items and profiles."""
    namespace = await prepared(make_live, **changed)
    await write_keyed(namespace.settings, namespace.topics.events, shopping_records(count, seed=SEED))
    for topic, name, fields in (
        (namespace.topics.items, "id", "attributes"),
        (namespace.topics.profiles, "user", "traits"),
    ):
        made = [{name: f"{name}{n}", "ts": 1_700_000_000_000 + n, fields: {"n": n}} for n in range(50)]
        records = [Record(one[name].encode(), msgspec.json.encode(one)) for one in made]
        await write_keyed(namespace.settings, topic, records)
    namespace.start_worker("only")
    await namespace.until_applied(*TABLES)
    return namespace
