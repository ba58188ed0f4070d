"""`features`: what is declared, whether it holds, and what it comes to."""

import gzip
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tables.features.catalogue import kinds, kinds_of_limits, shipped

OWN = """
[features]
clicks = { kind = "window_count", events = ["click"], window = "1h", meaning = "what is hot" }
seen = { kind = "pair_count" }
place = { kind = "position" }
genre = { kind = "string", attribute = "genre", values = ["War", "Noir"] }
age = { kind = "user_number", field = "age" }
zone = { kind = "local_time", measure = "hour", zone = "tz" }
price = { kind = "number", attribute = "price" }
wish = { kind = "field_match", attribute = "genre", field = "wish", method = "values" }
"""
EVENTS = [
    {"id": "3", "type": "click", "user": "u2", "item": "i1", "ts": "2026-01-01T12:30:00Z"},
    {"id": "1", "type": "view", "user": "u1", "item": "i1", "ts": "2026-01-01T12:00:00Z"},
    {"id": "2", "type": "click", "user": "u1", "item": "i2", "ts": "2026-01-01T12:20:00Z"},
    {"id": "2", "type": "click", "user": "u1", "item": "i2", "ts": "2026-01-01T12:20:00Z"},
]
ITEMS = [
    {"id": "i1", "ts": 9_000, "attributes": {"genre": ["War"], "price": 3}},
    {"id": "i1", "ts": 5_000, "attributes": {"genre": ["Noir"], "price": 7}},
]
PROFILES = [{"user": "u1", "ts": 1000, "traits": {"age": 41}}]

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Call = Run
Preview = Callable[..., tuple[int, dict[str, list[str]], str]]


def lines(records: list[dict[str, object]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text(lines(EVENTS))
    return path


@pytest.fixture
def preview(call: Call, own: Path, events: Path) -> Preview:
    """`features preview` of those events for u1 and three items: exit code, table, errors."""

    def run_preview(*arguments: str) -> tuple[int, dict[str, list[str]], str]:
        given = ("--events", str(events), "--user", "u1", "--ask", "i1,i2,i3", "--features", str(own))
        done = call("features", "preview", *given, *arguments)
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        return done.returncode, {row[0]: row[1:] for row in rows}, done.stderr

    return run_preview


def test_list_shows_what_is_declared(call: Call, own: Path) -> None:
    done = call("features", "list", "--features", str(own))
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == ["feature", "kind", "whose", "parameters", "columns", "meaning"]
    assert rows[1] == ["clicks", "window_count", "item", 'events = ["click"], window = "1h"', "1", "what is hot"]
    assert [row[2] for row in rows[1:]] == ["item", "pair", "row", "row", "user", "user", "row", "row"]
    assert rows[4][3:5] == ['attribute = "genre", values = ["War", "Noir"]', "2"]
    assert rows[2][5] == "log1p of how often the user had to do with the item."


def test_list_shows_the_shipped_catalogue_where_none_is_named(call: Call) -> None:
    done = call("features", "list")
    assert [line.split("\t")[0] for line in done.stdout.splitlines()[1:]] == [one.name for one in shipped().features]


def test_list_shows_every_kind(call: Call) -> None:
    rows = [line.split("\t") for line in call("features", "list", "--kinds").stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == [*kinds(), "kind of limit", *kinds_of_limits()]
    told = {row[0]: row[1] for row in rows}
    assert told["rate"] == 'top, bottom, scope = "item", [window], rate = 0.05, trials = 20.0'
    assert told["position"] == ""
    assert told["spread"] == "attribute, most, first = 10"


def test_list_and_check_show_limits(call: Call, own: Path) -> None:
    attribution = '[attribution]\ntouch = "all"\nslots.home.window = "2h"\nweights.purchase = 4\n'
    limit = '[limits]\nmixed = { kind = "spread", attribute = "brand", most = 2, slots = ["home"] }\n'
    own.write_text(OWN + attribution + limit)
    *_, headings, row = [
        line.split("\t") for line in call("features", "list", "--features", str(own)).stdout.splitlines()
    ]
    assert headings == ["limit", "kind", "parameters", "meaning"]
    assert row[:3] == ["mixed", "spread", 'slots = ["home"], attribute = "brand", most = 2']
    assert row[3].startswith("At most so many items of one value among the first")
    told = call("features", "check", str(own)).stdout.splitlines()
    assert told[1].split(maxsplit=1)[1] == "price (numbers), genre (values), brand (values)"
    assert told[-2].split() == ["limits", "mixed", "(spread)"]
    assert told[-1].split(maxsplit=1)[1] == "all touch within 1800000 ms, home 7200000 ms, purchase x 4"


def test_check_says_what_a_catalogue_comes_to(call: Call, own: Path) -> None:
    done = call("features", "check", str(own))
    assert done.returncode == 0, done.stderr
    first, *reads = done.stdout.splitlines()
    assert first.startswith(f"{own}: 8 features, 9 columns, hash ")
    assert [line.split(maxsplit=1) for line in reads] == [
        ["attributes", "price (numbers), genre (values)"],
        ["traits", "age, tz"],
        ["context", "tz, wish"],
        ["limits", "none"],
        ["attribution", "last touch within 1800000 ms"],
    ]
    named = call("features", "check", PERSONA_FEATURES=str(own))
    assert named.stdout == done.stdout


def test_check_tells_a_mistake_and_exits_with_1(call: Call, own: Path) -> None:
    own.write_text(OWN.replace('"pair_count"', '"pair_cont"'))
    done = call("features", "check", str(own))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"persona-stream: {own} line 4, `features.seen.kind`: there is no kind 'pair_cont'."
        ' Did you mean "pair_count"? `persona-stream features list --kinds` lists all.\n'
    )
    gone = call("features", "check", "gone.toml")
    assert gone.returncode == 1
    assert gone.stderr.startswith("persona-stream: features file gone.toml can't be read: No such file")


def test_check_finds_a_function_on_the_path(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my_features.py").write_text("def ones(rows):\n    return [1.0] * len(rows)\n")
    path = tmp_path / "python.toml"
    path.write_text('[features]\none = { kind = "python", function = "my_features:ones" }\n')
    refused = run("features", "check", str(path))
    assert refused.returncode == 1
    assert "line 2, `features.one.function`: `function` my_features:ones can't be imported" in refused.stderr
    assert "its folder must be on PYTHONPATH" in refused.stderr
    found = run("features", "check", str(path), PYTHONPATH=str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert "1 feature, 1 column, hash " in found.stdout


def test_preview_shows_a_row_a_column_after_the_users_last_event(preview: Preview) -> None:
    code, table, told = preview()
    assert code == 0, told
    assert table["feature"] == ["i1", "i2", "i3"]
    # The click of u2 came later; the one that is there twice counts once.
    assert table["clicks"] == ["0", "0.6931", "0"]
    assert table["seen"] == ["0.6931", "0.6931", "0"]
    assert table["place"] == ["0", "0.6931", "1.0986"]
    assert table["genre=War"] == ["0", "0", "0"]
    assert table["age"] == ["nan", "nan", "nan"]
    assert set(table) == {
        "feature", "clicks", "seen", "place", "genre=War", "genre=Noir", "age", "zone", "price", "wish",
    }  # fmt: skip
    assert "u1 at 2026-01-01 12:20:00Z, after 3 events" in told


def test_preview_asks_at_any_time(preview: Preview) -> None:
    assert preview("--at", "2026-01-01T12:30:00.001Z")[1]["clicks"] == ["0.6931", "0.6931", "0"]
    assert preview("--at", "2026-01-01T12:30:00")[1]["clicks"] == ["0", "0.6931", "0"]
    assert preview("--at", "2025-01-01")[1]["seen"] == ["0", "0", "0"]


def test_preview_looks_up_items_profiles_and_context(preview: Preview, tmp_path: Path) -> None:
    items, profiles = tmp_path / "items.jsonl.gz", tmp_path / "profiles.jsonl"
    items.write_bytes(gzip.compress(lines(ITEMS).encode()))
    profiles.write_text(lines(PROFILES))
    context = '{"tz": 60, "wish": "War"}'
    code, table, told = preview("--items", str(items), "--profiles", str(profiles), "--context", context)
    assert code == 0, told
    assert (table["genre=War"], table["genre=Noir"]) == (["1", "0", "0"], ["0", "0", "0"])
    assert table["price"] == ["3", "nan", "nan"]
    assert table["age"] == ["41"] * 3
    assert table["wish"] == ["1", "0", "0"]
    assert table["zone"] == ["13.3333"] * 3


def test_preview_reads_standard_input_and_prints_json(run: Run, own: Path) -> None:
    arguments = ("--user", "u1", "--ask", "i1", "--ask", "i3", "--features", str(own), "--json")
    done = run("features", "preview", "--events", "-", *arguments, stdin=lines(EVENTS))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["user"], told["items"], told["events"]) == ("u1", ["i1", "i3"], 3)
    assert told["features"]["seen"] == [pytest.approx(math.log(2)), 0]
    assert told["features"]["price"] == [None, None]
    check = run("features", "check", str(own))
    assert f"hash {told['hash']}" in check.stdout


def test_preview_reports_broken_lines(preview: Preview, events: Path, tmp_path: Path) -> None:
    events.write_text(lines(EVENTS) + "nope\n" * 30)
    items = tmp_path / "items.jsonl"
    items.write_text('{"id": "i1"}\n')
    code, table, told = preview("--items", str(items))
    assert code == 1
    assert table["seen"] == ["0.6931", "0.6931", "0"]
    assert f"rejected 30 lines of {events}:" in told
    assert "line 5: bad_json: " in told
    assert "(the first 20 are shown)" in told
    assert f"rejected 1 lines of {items}:" in told
    assert "line 1: missing_field: " in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--context", "[1]"], "--context [1] is no JSON object: Expected `object`, got `array`."),
        (["--context", "{"], "--context { is no JSON object: "),
        (["--events", "gone.jsonl"], "gone.jsonl can't be read: No such file"),
        (["--items", "gone.jsonl"], "gone.jsonl can't be read: No such file"),
        (["--features", "gone.toml"], "features file gone.toml can't be read: No such file"),
        (["--events", "/dev/null"], "/dev/null holds no event, so there is no time to ask at. Give one with --at."),
        (["--ask", ","], "--ask names no item."),
    ],
)
def test_preview_tells_what_can_not_work_in_one_line(call: Call, events: Path, arguments: list[str], says: str) -> None:
    given = {"--events": str(events), "--user": "u1", "--ask": "i1"} | {arguments[0]: arguments[1]}
    done = call("features", "preview", *(word for flag in given.items() for word in flag))
    assert done.returncode == 1
    assert done.stderr.startswith(f"persona-stream: {says}"), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("role", ["up", "worker", "serve"])
def test_roles_refuse_a_catalogue_with_a_mistake_before_anything_starts(
    call: Call, role: str, home: Path, own: Path
) -> None:
    own.write_text("[features]\na = { kind = 'agge' }\n")
    for path, says in (
        ("gone.toml", "features file gone.toml can't be read"),
        (str(own), f"{own} line 2, `features.a"),
    ):
        done = call(role, PERSONA_FEATURES=path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"persona-stream: {says}")
        assert not home.exists()


def test_config_shows_the_catalogue(call: Call, own: Path) -> None:
    assert "# features = unset  # default. The catalogue of features" in call("config").stdout
    assert f'features = "{own}"  # env. ' in call("config", PERSONA_FEATURES=str(own)).stdout
