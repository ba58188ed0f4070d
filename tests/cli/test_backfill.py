"""`persona-stream backfill`: files of history to a file of examples. Needs no Kafka."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import orjson
import pytest
from support.history import history, write_csv, write_jsonl, write_parquet
from support.logs import MINUTE_MS, T0_MS, event

from persona_stream.example_file import ExampleFile, read_example_file
from persona_stream.in_process import InProcess
from persona_stream.stream.slices import LogRecord
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ModelError
from persona_stream.vocabulary.messages import Example, decode_example
from tables.features.plan import feature_set

Call = Callable[..., Any]

FEATURES = feature_set(Settings())
LISTS = 80
EVENTS = history(LISTS)
OWN = """
[features]
price = { kind = "number", attribute = "price" }
again = { kind = "pair_count", events = ["click"] }
"""


def read(path: Path) -> list[Example]:
    return read_example_file(path, FEATURES)


def made_of(call: Call, out: Path, *arguments: str | Path, **variables: str) -> list[Example]:
    done = call("backfill", *map(str, arguments), "--out", str(out), **variables)
    assert done.returncode == 0, done.stderr
    return read(out)


def rows_of(examples: list[Example]) -> Counter[tuple[Any, ...]]:
    """Each row, whatever example it is in and wherever that stands."""
    rows: Counter[tuple[Any, ...]] = Counter()
    for one in examples:
        width = len(one.features) // len(one.items)
        for at, (item, label) in enumerate(zip(one.items, one.labels, strict=True)):
            position = one.positions[at] if one.positions else None
            features = one.features[width * at : width * (at + 1)]
            rows[one.group, one.user, one.ts_ms, one.origin, one.slot, item, label, position, features] += 1
    return rows


def test_the_same_history_gives_the_same_examples_in_each_format(call: Call, tmp_path: Path) -> None:
    half = len(EVENTS) // 2
    of_lines = made_of(call, tmp_path / "1.parquet", write_jsonl(tmp_path / "log.jsonl", EVENTS))
    of_csv = made_of(call, tmp_path / "2.parquet", write_csv(tmp_path / "log.csv.gz", EVENTS))
    # In two files, the later one first.
    later, earlier = (
        write_parquet(tmp_path / f"log{at}.parquet", part) for at, part in enumerate((EVENTS[half:], EVENTS[:half]))
    )
    of_parquet = made_of(call, tmp_path / "3.jsonl", later, earlier)
    assert {example.origin for example in of_lines} == {"online", "impression", "backfill"}
    assert of_lines == of_csv == of_parquet
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_examples_are_those_of_the_folds_of_the_stream_to_the_last_bit(call: Call, tmp_path: Path) -> None:
    system = InProcess(Settings(), with_examples=True)
    records = [LogRecord(at, one["ts"], one["user"].encode(), orjson.dumps(one)) for at, one in enumerate(EVENTS)]
    folded = [made for record in records for made in system.fold([record])]
    made = made_of(call, tmp_path / "made.parquet", write_jsonl(tmp_path / "log.jsonl", EVENTS), "--sessions", "0")
    assert rows_of(made) == rows_of([decode_example(record.value or b"") for record in folded])


def test_a_list_of_a_decision_has_rows_too(call: Call, tmp_path: Path) -> None:
    decided = [one | ({"decision_id": f"d{one['id'][1:]}"} if one["id"][0] in "sc" else {}) for one in EVENTS]
    made = made_of(call, tmp_path / "made.parquet", write_jsonl(tmp_path / "log.jsonl", decided), "--sessions", "0")
    plain = made_of(call, tmp_path / "plain.parquet", write_jsonl(tmp_path / "log.jsonl", EVENTS), "--sessions", "0")
    named = [msgspec.structs.replace(one, group="d" + one.group[1:]) if one.slot else one for one in plain]
    assert rows_of(made) == rows_of(named)


def test_bad_rows_are_told_and_left_out(call: Call, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", EVENTS)
    bad = write_jsonl(tmp_path / "bad.jsonl", [*EVENTS[:5], {"id": "x"}, *EVENTS[5:]])
    rows = write_parquet(tmp_path / "more.parquet", [event("m", "click", "u", T0_MS)])
    out = tmp_path / "made.parquet"
    done = call("backfill", str(bad), str(rows), "--out", str(out))
    assert done.returncode == 1
    assert f"rejected 1 lines of {bad}" in done.stderr
    assert "line 6: missing_field" in done.stderr
    assert f"rejected 1 rows of {rows}" in done.stderr
    assert "row 1: missing_item" in done.stderr
    assert read(out) == made_of(call, tmp_path / "2.parquet", good)
    assert call("backfill", str(bad), "--out", str(out), "--skip-rejects").returncode == 0


def test_columns_may_have_other_names(call: Call, tmp_path: Path) -> None:
    names = {"user": "customer_id", "item": "sku", "ts": "moment"}
    renamed = [{names.get(name, name): value for name, value in one.items()} for one in EVENTS]
    told = ("--map", "user=customer_id,item=sku,ts=moment")
    plain = made_of(call, tmp_path / "0.parquet", write_jsonl(tmp_path / "plain.jsonl", EVENTS))
    files = [
        write_jsonl(tmp_path / "log.jsonl", renamed),
        write_csv(tmp_path / "log.csv", renamed),
        write_parquet(tmp_path / "log.parquet", renamed, "* REPLACE (make_timestamp_ms(moment) AS moment)"),
    ]
    for file in files:
        assert made_of(call, tmp_path / "made.parquet", file, *told) == plain
    more = write_csv(tmp_path / "more.csv", [one | {"contex": "x"} for one in EVENTS])
    told_of = call("backfill", str(more), "--out", str(tmp_path / "made.parquet"))
    assert (told_of.returncode, "no fields of events are passed over: contex\n" in told_of.stderr) == (0, True)
    refused = call("backfill", str(files[1]), "--out", str(tmp_path / "made.parquet"))
    assert (refused.returncode, "has no column user, ts" in refused.stderr) == (1, True)
    refused = call("backfill", str(files[1]), "--out", str(tmp_path / "made.parquet"), "--map", "usr=customer_id")
    assert (refused.returncode, "fields are id, type, user" in refused.stderr) == (1, True)


def test_a_new_feature_has_all_of_its_history_as_of_its_time(call: Call, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OWN)
    later_ms = T0_MS + LISTS // 2 * 5 * MINUTE_MS
    items = [
        {"id": f"i{at}", "ts": ts_ms, "attributes": {"price": price}}
        for at in range(30)
        for ts_ms, price in ((T0_MS + MINUTE_MS, 1.0), (later_ms, 2.0))
    ]
    out = tmp_path / "made.parquet"
    log, catalogue = write_csv(tmp_path / "log.csv", EVENTS), write_parquet(tmp_path / "items.parquet", items)
    done = call("backfill", str(log), "--items", str(catalogue), "--features", str(own), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "2 features" in done.stdout
    with duckdb.connect() as con:
        found = con.execute(f"SELECT ts_ms, f_price FROM '{out}'").fetchnumpy()  # noqa: S608
    assert np.array_equal(found["f_price"], np.where(found["ts_ms"] < later_ms, 1.0, 2.0))
    assert set(found["f_price"]) == {1.0, 2.0}
    made = read_example_file(out, feature_set(Settings(features=own)))
    assert max(np.frombuffer(one.features, dtype=np.float32)[1::2].max() for one in made) > 0


def test_examples_of_other_features_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OWN)
    other = feature_set(Settings(features=own))
    for name in ("made.parquet", "made.jsonl"):
        with ExampleFile(tmp_path / name, other) as file:
            row = np.ones(2, dtype=np.float32).tobytes()
            file.add([Example("g", "u", T0_MS, other.hash, ["i"], row, [1], "online")])
            file.save()
        with pytest.raises(ModelError, match=f"of features {other.hash}, these are {FEATURES.hash}"):
            read(tmp_path / name)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_what_is_written_is_read_back(ending: str, tmp_path: Path) -> None:
    features = np.random.default_rng(1).normal(size=(3, FEATURES.width)).astype(np.float32)
    features[1, 2] = np.nan
    examples = [
        Example("g1", "u'1", T0_MS, FEATURES.hash, ["a", 'b"', "c"], features.tobytes(), [0, 3, 1], "impression")
    ]
    examples[0].slot, examples[0].positions, examples[0].propensities = "home", [0, 1, 2], [0.1, 0.7, 0.2]
    examples.append(Example("g2", "u", T0_MS + 1, FEATURES.hash, ["a"], features[:1].tobytes(), [1], "online"))
    path = tmp_path / f"it's.{ending}"
    with ExampleFile(path, FEATURES) as file:
        file.add(examples)
        file.save()
    assert read(path) == examples
    assert read_example_file(path, FEATURES, {"online"}) == examples[1:]
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_nothing_is_written_where_the_history_cannot_be_read(call: Call, tmp_path: Path) -> None:
    out, log = tmp_path / "made.parquet", write_jsonl(tmp_path / "log.jsonl", EVENTS)
    before = made_of(call, out, log)
    (tmp_path / "bad.csv.gz").write_bytes(b"no such thing")
    (tmp_path / "none.jsonl").write_bytes(b"")
    for arguments, told in [
        ([log, tmp_path / "bad.csv.gz"], "can't be read to its end"),
        ([tmp_path / "none.jsonl"], "there is no event"),
        ([log, tmp_path / "log.txt"], "of no known format"),
        ([log, "--topic", "t"], "two histories"),
        ([log, "--items", tmp_path / "none"], "of no known format"),
    ]:
        done = call("backfill", *map(str, arguments), "--out", str(out))
        assert (done.returncode, told in done.stderr, done.stdout) == (1, True, ""), done.stderr
    for other, told in [("made.xlsx", "of no format"), ("none/made.parquet", "there is no folder")]:
        refused = call("backfill", str(log), "--out", str(tmp_path / other))
        assert (refused.returncode, told in refused.stderr) == (1, True)
    assert read(out) == before
    assert not [found for found in tmp_path.iterdir() if found.name.startswith(".")]
