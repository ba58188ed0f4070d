"""Values at rest: canonical bytes, fields that are not known, and nothing shared between folds or left to chance."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import msgspec
import orjson
import pytest
from support.agents import LOGS, SETTINGS, SPECS
from support.logs import T0_MS, LogRecord, slices
from support.runs import Run, restored, run

from persona_stream.kafka.writer import Record
from persona_stream.stream.partition import PROGRESS_KEY, Partition, Progress, decode_progress
from persona_stream.worker.app import agent_specs

EVERY_AGENT = pytest.mark.parametrize("table", SPECS)
VERSIONED = pytest.mark.parametrize(
    ("table", "key", "fields"), [("catalogue", "id", "attributes"), ("profiles", "user", "traits")]
)
CUTS = [7, 19, 23]


def _folded(table: str, seed: int) -> Run:
    spec = SPECS[table]
    return run(spec.fold, spec.codec, slices(LOGS[table](seed), CUTS))


@EVERY_AGENT
def test_two_folds_in_one_process_do_not_influence_each_other(table: str) -> None:
    # A worker has one agent for all of its partitions.
    (spec,) = [spec for spec in agent_specs(SETTINGS) if spec.table == table]
    logs = {seed: slices(LOGS[table](seed), CUTS) for seed in (1, 2)}
    states: dict[int, Partition] = {seed: Partition(spec.codec) for seed in logs}
    changelogs: dict[int, list[Record]] = {seed: [] for seed in logs}
    for parts in zip(*logs.values(), strict=True):
        for seed, part in zip(logs, parts, strict=True):
            spec.fold.process(part, states[seed])
            changelogs[seed] += states[seed].take_changes()
    for seed, changelog in changelogs.items():
        assert changelog == _folded(table, seed).changelog


def print_digests() -> None:
    """A digest of each table's changelog and of all that was emitted: what another process prints as well."""
    for table in SPECS:
        done = _folded(table, 3)
        written = [done.changelog, *done.emitted.values()]
        print(table, sha256(msgspec.msgpack.encode(written)).hexdigest())


def test_another_process_with_another_seed_of_hashes_writes_the_same_bytes() -> None:
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests.parent, tests, tests / "contracts")))
    digests = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", "import test_values; test_values.print_digests()"]
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        digests.add(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    (told,) = digests
    assert len(told.splitlines()) == len(SPECS)


@EVERY_AGENT
def test_a_value_of_a_later_version_is_read_without_the_fields_it_has_more_and_kept_whole_until_it_changes(
    table: str,
) -> None:
    spec, done = SPECS[table], _folded(table, 4)
    later = [
        record
        if record.value is None
        else Record(record.key, msgspec.msgpack.encode([*msgspec.msgpack.decode(record.value), "new", 7]))
        for record in done.changelog
    ]
    again = restored(spec.codec, later)
    assert again.progress == done.state.progress
    for key in done.state:
        raw = again.encoded(key)
        assert raw == {record.key: record.value for record in later}[key.encode()]
        assert again.get(key) == done.state.get(key)
        assert again.encoded(key) == done.state.encoded(key)


@EVERY_AGENT
def test_a_value_of_an_earlier_version_is_read_with_the_defaults_of_what_it_lacks(table: str) -> None:
    codec = SPECS[table].codec
    kept = {1: 5} if table == "items" else 5
    assert codec.decode(msgspec.msgpack.encode([kept])) == type(codec.new())(kept)
    assert decode_progress(msgspec.msgpack.encode([5])) == Progress(5)


@VERSIONED
def test_attributes_and_traits_keep_anything_and_equal_ones_have_equal_bytes(table: str, key: str, fields: str) -> None:
    spec = SPECS[table]
    told = {"new": {"b": [1, None, {"z": 1.5, "a": "ü"}], "a": True}, "brand": "x"}
    turned = {"brand": "x", "new": {"a": True, "b": [1, None, {"a": "ü", "z": 1.5}]}}
    values = []
    for held in (told, turned):
        raw = orjson.dumps({key: "k1", "ts": T0_MS, fields: held})
        state = run(spec.fold, spec.codec, slices([LogRecord(0, raw, b"k1")])).state
        assert getattr(state.get("k1"), fields) == told
        values.append(state.encoded("k1"))
    assert values[0] == values[1]


@pytest.mark.parametrize(("table", "key"), [("users", "user"), ("catalogue", "id"), ("profiles", "user")])
def test_fields_that_the_contract_does_not_know_are_refused_with_the_record(table: str, key: str) -> None:
    # A misspelt field would be lost in silence, and with it what it says.
    spec = SPECS[table]
    known = {"id": "e1", "type": "view", "item": "i1"} if table == "users" else {}
    raw = orjson.dumps({**known, key: "k1", "ts": T0_MS, "itm": "i1"})
    done = run(spec.fold, spec.codec, slices([LogRecord(0, raw, b"k1")]))
    assert done.reasons == {"unknown_field": 1}
    assert [record.value for record in done.emitted["t.deadletter.v1"]] == [raw]
    assert not len(done.state)
    assert {record.key for record in done.changelog} == {PROGRESS_KEY}
