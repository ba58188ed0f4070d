"""What holds for every agent and its table, whichever it is."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.agents import CRASHES, CUTS, LOGS, SPECS
from support.logs import LogRecord, slices
from support.runs import Crash, digest_and_keys, restored, rows_apart, run

from persona_stream.stream.partition import PROGRESS_KEY, decode_progress
from persona_stream.vocabulary.topics import TABLES

EVERY_AGENT = pytest.mark.parametrize("table", SPECS)
few = settings(deadline=None, max_examples=20)


def test_there_is_an_agent_for_each_table() -> None:
    assert set(SPECS) == set(TABLES) == set(LOGS)


@EVERY_AGENT
@few
@given(seed=st.integers(0, 1000), cuts=CUTS)
def test_any_cut_of_the_log_gives_the_same_table_and_emissions(table: str, seed: int, cuts: list[int]) -> None:
    spec, log = SPECS[table], LOGS[table](seed)
    whole = run(spec.fold, spec.codec, slices(log))
    cut = run(spec.fold, spec.codec, slices(log, cuts))
    assert cut.table() == whole.table()
    assert rows_apart(cut.emitted) == rows_apart(whole.emitted)
    assert cut.outcomes == whole.outcomes
    assert cut.reasons == whole.reasons


@EVERY_AGENT
@few
@given(seed=st.integers(0, 1000), cuts=CUTS, crashes=CRASHES)
def test_crashes_at_any_point_change_nothing(table: str, seed: int, cuts: list[int], crashes: dict[int, Crash]) -> None:
    spec, log = SPECS[table], LOGS[table](seed)
    undisturbed = run(spec.fold, spec.codec, slices(log))
    crashed = run(spec.fold, spec.codec, slices(log, cuts), crashes)
    assert crashed.table() == undisturbed.table()
    assert crashed.emitted_once() == undisturbed.emitted_once()


@EVERY_AGENT
@few
@given(seed=st.integers(0, 1000), cuts=CUTS, crashes=CRASHES)
def test_the_digest_is_that_of_the_table_whatever_the_cuts_and_crashes(
    table: str, seed: int, cuts: list[int], crashes: dict[int, Crash]
) -> None:
    spec, log = SPECS[table], LOGS[table](seed)
    done = run(spec.fold, spec.codec, slices(log, cuts), crashes)
    progress = decode_progress(done.table()[PROGRESS_KEY] or b"")
    assert (progress.digest, progress.keys) == digest_and_keys(done.changelog)
    assert progress.keys == len(done.state)


@EVERY_AGENT
def test_a_log_delivered_twice_counts_once(table: str) -> None:
    spec, log = SPECS[table], LOGS[table](1)
    once = run(spec.fold, spec.codec, slices(log))
    twice = run(spec.fold, spec.codec, slices(log) + slices(log, [len(log) // 2]))
    assert twice.table() == once.table()
    assert twice.emitted == once.emitted


@EVERY_AGENT
def test_records_are_not_changed_by_folding_them(table: str) -> None:
    spec, log = SPECS[table], LOGS[table](2)
    before = copy.deepcopy(log)
    run(spec.fold, spec.codec, slices(log))
    assert log == before


@EVERY_AGENT
def test_a_table_read_back_from_its_changelog_is_the_table(table: str) -> None:
    spec = SPECS[table]
    done = run(spec.fold, spec.codec, slices(LOGS[table](3), [20, 30]))
    again = restored(spec.codec, done.changelog)
    assert set(again) == set(done.state)
    assert again.progress == done.state.progress
    for key in done.state:
        value = done.state.get(key)
        assert value is not None
        assert again.get(key) == value
        assert spec.codec.encode(spec.codec.decode(spec.codec.encode(value))) == spec.codec.encode(value)


@EVERY_AGENT
def test_progress_stands_behind_all_it_speaks_of(table: str) -> None:
    spec, log = SPECS[table], LOGS[table](4)
    done = run(spec.fold, spec.codec, slices(log))
    assert done.changelog[-1].key == PROGRESS_KEY
    progress = decode_progress(done.changelog[-1].value or b"")
    assert (progress.offset, progress.events) == (log[-1].offset, len(log))
    assert progress.appended_ms == log[-1].timestamp


@EVERY_AGENT
@pytest.mark.parametrize("raw", [b"", b"\xc1", b"nonsense", b"\x93\x01\x02\x03", b"{}"])
def test_a_record_that_makes_no_sense_is_put_aside_with_its_bytes_and_origin(table: str, raw: bytes) -> None:
    spec, log = SPECS[table], LOGS[table](5)
    expected = run(spec.fold, spec.codec, slices(log))
    last = log[-1]
    alien = LogRecord(last.offset + 1, raw, b"i1")
    found = run(spec.fold, spec.codec, slices([*log, alien], topic="source"))
    aside = found.emitted["t.deadletter.v1"][-1]
    headers = dict(aside.headers)
    assert aside.value == raw
    assert headers["persona.reason"]
    assert headers["__streams.errors.topic"] == b"source"
    assert headers["__streams.errors.partition"] == b"0"
    assert headers["__streams.errors.offset"] == str(alien.offset).encode()
    assert sum(found.reasons.values()) == sum(expected.reasons.values()) + 1
    assert set(found.state) == set(expected.state)
