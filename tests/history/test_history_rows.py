"""Rows of history: whatever the format, they become the contract's JSON, or are told with their place."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.history import write_csv, write_jsonl, write_parquet

from persona_stream.history.files import BadRow, HistoryFile, Listener
from persona_stream.history.kinds import EVENTS, ITEMS, PROFILES, HistoryKind, renamed
from persona_stream.history.sorted_log import SortedLog
from persona_stream.history.text_files import InputError
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import Event, parse_event

T0_MS = 1_700_000_000_000
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
EVENT = st.fixed_dictionaries(
    {"id": TEXT, "type": st.just("view"), "user": TEXT, "item": TEXT, "ts": st.integers(1, T0_MS)},
    optional={
        "value": st.floats(-1e9, 1e9),
        "slot": TEXT,
        "items": st.lists(TEXT, max_size=3),
        "context": st.dictionaries(TEXT, st.integers(-9, 9) | TEXT | st.booleans() | st.none(), max_size=3),
    },
)


def read(path: Path, kind: HistoryKind = EVENTS, **column_of: str) -> tuple[list[Any], list[BadRow]]:
    bad: list[BadRow] = []
    file = HistoryFile(path, kind, column_of)
    return [parsed for parsed, _ in file.read(Listener(bad.append))], bad


@given(EVENT)
def test_a_row_of_texts_is_the_event_it_was(event: dict[str, Any]) -> None:
    cells = {k: orjson.dumps(v).decode() if isinstance(v, list | dict) else str(v) for k, v in event.items()}
    written = io.StringIO()
    csv.writer(written).writerow(cells.values())
    told = next(csv.reader(io.StringIO(written.getvalue(), newline="")))
    made = EVENTS.parse(EVENTS.json_of(dict(zip(cells, told, strict=True)), "f/1"))
    assert made == parse_event(orjson.dumps(event))


@given(st.dictionaries(st.sampled_from(EVENTS.fields), st.text('a1-.:"{}[], \n\0\udce4', max_size=6) | st.floats()))
def test_whatever_a_row_holds_it_is_an_event_or_told_why_not(cells: dict[str, Any]) -> None:
    try:
        assert isinstance(EVENTS.parse(EVENTS.json_of(cells, "f/1")), Event)
    except EventError as error:
        assert error.reason


@given(st.binary(max_size=30) | st.sampled_from([b'{"a":' + b"9" * 40 + b"}", b'{"u":1}', b"[" * 2000]))
def test_a_line_with_other_names_is_renamed_or_left_to_the_parser(line: bytes) -> None:
    made = renamed(line, {"u": "user"})
    assert made == line or b'"u":' not in made


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=60))
def test_a_log_is_in_the_order_of_time_then_of_its_files(times_ms: Sequence[int]) -> None:
    rows = [(ts_ms, at % 3, at) for at, ts_ms in enumerate(times_ms)]
    with SortedLog() as log:
        for ts_ms, source, place in rows:
            raw = orjson.dumps({"id": f"{source}/{place}", "type": "x", "user": "u", "ts": ts_ms})
            log.add(parse_event(raw), raw, source, place)
        wanted = [(ts_ms, f"{source}/{place}") for ts_ms, source, place in sorted(rows)]
        assert len(log) == len(rows)
        for _ in range(2):
            assert [(ts_ms, event.id) for ts_ms, event, _ in log] == wanted


def test_what_is_bad_is_told_by_its_line_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(
        b"ts;customer;type;item;value;context\n"
        b'1700000000000;7;click;"i\n9";1.5;"{""a"": 1}"\n'
        b"1700000000000;8;click\n"
        b"2026-01-01T00:00:00Z;7;view;;;\n"
        b"2026-01-01T00:00:00Z;\xe4;view;x;;\n"
        b"yesterday;7;view;x;;\n"
        b"2026-01-01T00:00:00Z;7;view;x;much;\n"
        b"2026-01-01T00:00:00Z;7;view;x;;{a\n"
        b"\n"
        b"2026-01-01T01:00:00+01:00;7;view;x;;\n"
    )
    events, bad = read(path, user="customer")
    assert [(event.item, event.value, event.context) for event in events] == [
        ("i\n9", 1.5, {"a": 1}),
        ("x", None, None),
    ]
    assert events[1].ts == 1_767_225_600_000
    assert [(row.number, row.reason) for row in bad] == [
        (4, "bad_shape"),
        (5, "missing_item"),
        (6, "bad_encoding"),
        (7, "bad_ts"),
        (8, "bad_field"),
        (9, "bad_field"),
    ]


def test_a_parquet_file_may_hold_times_numbers_lists_and_structs(tmp_path: Path) -> None:
    rows = [
        {"customer": 7, "type": "impression", "items": [1, 2], "ts": T0_MS, "context": {"a": 1}},
        {"customer": 8, "type": "click", "items": None, "ts": None, "context": {"b": "x"}},
        {"customer": 9, "type": "click", "item": "i1", "ts": T0_MS + 1, "value": 2.5, "context": {"b": "x"}},
    ]
    events, bad = read(write_parquet(tmp_path / "log.parquet", rows), user="customer")
    assert [(one.user, one.ts, one.items, one.context) for one in events] == [
        ("7", T0_MS, ["1", "2"], {"a": 1}),
        ("9", T0_MS + 1, None, {"b": "x"}),
    ]
    assert [(row.number, row.reason) for row in bad] == [(2, "missing_field")]


def test_a_row_without_an_id_has_the_same_one_in_each_format_and_another_in_each_place(tmp_path: Path) -> None:
    rows = [{"type": "view", "user": "u1", "item": "i1", "ts": T0_MS, "context": {"a": 1, "b": 2}}] * 2
    names = [
        [event.id for event in read(path)[0]]
        for path in (write_csv(tmp_path / "log.csv.gz", rows), write_parquet(tmp_path / "log.parquet", rows))
    ]
    assert names[0] == names[1]
    assert len(set(names[0])) == 2


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])
def test_catalogues_and_profiles_are_read_likewise(write: Any, tmp_path: Path) -> None:
    path = tmp_path / {write_jsonl: "f.ndjson", write_csv: "f.csv", write_parquet: "f.parquet"}[write]
    items, bad = read(write(path, [{"id": "i1", "ts": T0_MS, "attributes": {"price": 1.5, "tags": ["a"]}}]), ITEMS)
    assert (items[0].ts, items[0].attributes, bad) == (T0_MS, {"price": 1.5, "tags": ["a"]}, [])
    profiles, bad = read(write(path, [{"user": "u1", "ts": T0_MS, "traits": {"a": "b"}}]), PROFILES)
    assert (profiles[0].traits, bad) == ({"a": "b"}, [])


def test_files_that_cannot_be_read_are_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"no such thing")
    (tmp_path / "bad.csv.gz").write_bytes(b"no such thing")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for name, told in [
        ("bad.parquet", "can't be read"),
        ("none.parquet", "no such file"),
        ("none.jsonl", "No such file"),
        ("bad.csv.gz", "can't be read to its end"),
        ("other.csv", "has no column type, user, ts; it has: a, b"),
        ("log.txt", "of no known format"),
    ]:
        with pytest.raises(InputError, match=told):
            read(tmp_path / name)
