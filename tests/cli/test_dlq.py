"""`dlq`: dead letters of a real worker, listed, shown, and published again once."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from support.cluster import read_all, read_table, until, write
from support.logs import T0_MS, event
from support.processes import Process, start_worker

from persona_stream.kafka.writer import Record
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import Topics

WITHIN_S = 60
Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[Process]:
    """A worker of the test's namespace."""
    settings.home.mkdir(exist_ok=True)
    process = start_worker(settings, tmp_path / "worker.log")
    yield process
    process.kill()


def _publish(settings: Settings, *records: Record) -> None:
    asyncio.run(write(settings, Topics(settings.namespace).events, {0: list(records)}))


def _until_letters(settings: Settings, worker: Process, count: int) -> None:
    async def there() -> bool:
        return len(await read_all(settings.kafka, Topics(settings.namespace).deadletter)) == count

    asyncio.run(until(there, within_s=WITHIN_S, what=f"{count} dead letters", check=worker.check_alive))


def _users(settings: Settings) -> set[str]:
    held = asyncio.run(read_table(settings.kafka, Topics(settings.namespace).changelog("users")))
    return {key.decode() for part in held.values() for key in part if not key.startswith(b"\0")}


def _listed(call: Call, settings: Settings, *flags: str) -> dict[str, int]:
    done = call("dlq", "list", *flags, settings=settings)
    assert done.returncode == 0
    rows = [line.split("\t") for line in done.stdout.splitlines()[1:]]
    return {row[1]: int(row[2]) for row in rows}


def test_letters_are_listed_shown_and_published_again_once(settings: Settings, worker: Process, call: Call) -> None:
    wrong = [orjson.dumps(event(f"e{n}", "view", f"u{n}", T0_MS, item="i1")) for n in range(3)]
    _publish(settings, *(Record(b"somebody", raw, [("trace", b"t1")]) for raw in wrong), Record(b"u9", b"{not json"))
    _until_letters(settings, worker, 4)
    assert _listed(call, settings) == {"key_mismatch": 3, "bad_json": 1}
    assert _listed(call, settings, "--reason", "bad_json") == {"bad_json": 1}
    assert _listed(call, settings, "--since", "2100-01-01") == {}
    assert _listed(call, settings, "--until", "2100-01-01", "--reason", "key_mismatch") == {"key_mismatch": 3}
    assert _listed(call, settings, "--late") == {}

    origin = f"{Topics(settings.namespace).events}/0/3"
    shown = call("dlq", "show", origin, settings=settings)
    assert shown.returncode == 0
    assert "bad_json" in shown.stdout
    assert "{not json" in shown.stdout
    assert "trace: t1" in call("dlq", "show", origin[:-1] + "0", settings=settings).stdout
    missing = call("dlq", "show", origin[:-1] + "77", settings=settings)
    assert missing.returncode != 0
    assert "no open letter" in missing.stderr

    dry = call("dlq", "replay", "--reason", "key_mismatch", "--rekey", "--dry-run", settings=settings)
    assert dry.stdout.startswith("3 letters")
    assert _users(settings) == set()
    again = call("dlq", "replay", "--reason", "key_mismatch", "--rekey", settings=settings)
    assert again.stdout.startswith("published 3 letters")

    async def applied() -> bool:
        held = await read_table(settings.kafka, Topics(settings.namespace).changelog("users"))
        return {b"u0", b"u1", b"u2"} <= {key for part in held.values() for key in part}

    asyncio.run(until(applied, within_s=WITHIN_S, what="the letters applied", check=worker.check_alive))
    assert _listed(call, settings) == {"bad_json": 1}
    nothing = call("dlq", "replay", "--reason", "key_mismatch", "--rekey", settings=settings)
    assert nothing.stdout.startswith("published 0 letters")

    # What still can't be used comes back as a new letter: 4 letters, 3 marks, a mark and a letter more.
    assert call("dlq", "replay", "--origin", origin, settings=settings).stdout.startswith("published 1 letters")
    _until_letters(settings, worker, 9)
    assert _listed(call, settings) == {"bad_json": 1}
    assert origin not in call("dlq", "list", settings=settings).stdout
