"""A catalogue of features is read as written; each mistake in it is told with its line and key."""

from pathlib import Path

import pytest

from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from tables.features.catalogue import kinds, kinds_of_limits, parse, read, shipped
from tables.features.parameters import parameters, sentence
from tables.features.plan import Plan, plan_of
from tables.features.toml_lines import key_lines

WAYS = {
    "inline": '# mine\n[features]\nold = {{ kind = "age" }}\nbad = {{ kind = "{kind}", {name} = {value} }}\n',
    "header": '[features]\nold.kind = "age"\n\n[features.bad]\nkind = "{kind}"\n\n{name} = {value} # so\n',
    "quoted": '["features" . bad]\n"kind" = "{kind}"\n"{name}" = {value}\n[features.behind]\nkind = "age"\n',
    "dotted": 'include = ["shipped"]\nfeatures.bad.kind = "{kind}"\nfeatures.bad.{name} = {value}\n',
}
ONE = 'features.one.kind = "age"\n'
SHOWN = f'{ONE}[limits.a]\nkind = "shown"\nwithin = "1h"\n'
SPREAD = f'{ONE}[limits.a]\nkind = "spread"\nattribute = "category"\n'
LINES = {"inline": 4, "header": 7, "quoted": 3, "dotted": 3}


def mistake(text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        parse(text, "my.toml")
    return str(refused.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "name", "value", "key", "says"),
    [
        ("recency", "scop", '"user"', "scop", 'Did you mean "scope"? `recency` takes scope, meaning, edges.'),
        ("recency", "scope", "3", "scope", 'Expected `str`, got `int`. `scope` is "user" or "item".'),
        ("shown_count", "within", '"soon"', "within", '`within` is a duration in ms, s, m, h or d, such as "90s"'),
        ("pair_count", "events", '["click", "clck"]', "events[1]", "Invalid enum value 'clck'. `events` is several of"),
        ("recency", "edges", "[1, 2, 2]", "edges[2]", "edges ascend and are finite, but 2 stands behind 2."),
        ("recency", "edges", "[1, nan]", "edges[1]", "edges ascend and are finite, but nan stands behind 1."),
        ("recency", "edges", str([*range(15)]), "edges", "`edges` is a list of at most 14 ascending numbers."),
        ("slot", "values", '["a", "b", "a"]', "values[2]", 'two of its columns are named "bad=a".'),
        ("slot", "values", '["a", "b\\nc"]', "values[1]", "can't be printed"),
        ("python", "function", '"nowhere:f"', "function", "No module named 'nowhere'"),
        ("python", "function", '"math:log"', "function", "math:log can't be imported"),
        ("python", "function", '"tables"', "function", '`function` is "module:name", a function'),
    ],
)
def test_a_mistake_is_told_with_line_and_key(way: str, kind: str, name: str, value: str, key: str, says: str) -> None:
    told = mistake(WAYS[way].format(kind=kind, name=name, value=value))
    assert told.startswith(f"my.toml line {LINES[way]}, `features.bad.{key}`: "), told
    assert says in told


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[features]\na = { kind = "age"\n', "my.toml line 2: Unclosed inline table."),
        ('[features]\na = { kind = "age" }\na = { kind = "age" }', "my.toml line 3: Cannot overwrite a value."),
        ('[features.a]\nkind = "age"\n[features.a]\n', "my.toml line 3: Cannot declare ('features', 'a') twice."),
        (
            '[features]\na = { kind = "agge" }',
            "line 2, `features.a.kind`: there is no kind 'agge'. Did you mean \"age\"?",
        ),
        ('[features]\na = { kind = ["age"] }', "line 2, `features.a.kind`: there is no kind ['age']."),
        ("[features.a]\n\nscope = 'user'", "line 1, `features.a.kind`: a feature needs a `kind`."),
        (
            '[features]\n[features.a]\nkind = "trend"',
            "line 2, `features.a.short`: Object missing required field `short`.",
        ),
        ('[features]\na = "age"', "line 2, `features.a`: a feature is a table"),
        ('[features]\n"A b" = { kind = "age" }', "line 2, `features.A b`: a name is of at most 63 lower-case letters"),
        (
            '[features]\na = { kind = "rate", top = [], bottom = ["view"] }',
            "line 2, `features.a.top`: `top` and `bottom`",
        ),
        (
            '[features.a]\nkind = "list_relative"\nmeasure = "rank"\nattribute = "x"\nfield = "y"',
            "line 5, `features.a.field`: one of `field` and `attribute` is needed.",
        ),
        (
            '[features.a]\nkind = "pair_count"\nevents = [\n  "click", # [\n  "clck",\n]',
            "line 5, `features.a.events[1]`: Invalid enum value 'clck'.",
        ),
        ('[features.a]\nkind = "age"\nedges = [\n1,\n2,\n1.5,\n]', "line 6, `features.a.edges[2]`: edges ascend"),
        ('\ninclude = "shipped"', "line 2, `include`: what can be included is the shipped catalogue"),
        ('include = [\n"others"]', "line 1, `include`: what can be included is the shipped catalogue"),
        ('[features]\na = { kind = "age" }\n[feature.b]', "line 3, `feature`: a catalogue has the keys `features`, `l"),
        ("features = 3", "line 1, `features`: this must be a table"),
        ("[features]", "line 1, `features`: no feature is declared."),
        ("", "my.toml, `features`: no feature is declared."),
        ("[limits]\n", "my.toml, `features`: no feature is declared. include"),
        (f"{ONE}limits = 3", "line 2, `limits`: this must be a table: `[limits]`."),
        (f"{ONE}[limits]\na = 3", "line 3, `limits.a`: a limit is a table"),
        (f"{ONE}[limits.A]\n", "line 2, `limits.A`: a name is of at most 63"),
        (f"{ONE}[limits.a]\nmost = 1", "line 2, `limits.a.kind`: a limit needs a `kind`."),
        (f'{ONE}[limits.a]\nkind = "age"', "line 3, `limits.a.kind`: there is no kind 'age'."),
        (f'{ONE}[limits.a]\nkind = "spred"', 'Did you mean "spread"?'),
        (f"{SHOWN}most = 9", "line 5, `limits.a.most`: `most` of an item is at most 8: so many lists are known."),
        (f"{SHOWN}most = 0", "line 5, `limits.a.most`: Expected `int` >= 1. `most` is a whole number from 1 to 1000."),
        (f"{SHOWN}least = 1", "line 5, `limits.a.least`: Object contains unknown field `least`."),
        (
            f'{SHOWN}most = 2\nslots = ["home", 3]',
            "line 6, `limits.a.slots[1]`: Expected `str`, got `int`. `slots` is a",
        ),
        (f"{SPREAD}most = 10", "line 5, `limits.a.most`: `most` must be below `first`"),
        (f"{SPREAD}most = 3\nfirst = 101", "line 6, `limits.a.first`: Expected `int` <= 100."),
        (f'{ONE}[limits.a]\nkind = "novel"\nfirst = 2\nleast = 3', "line 5, `limits.a.least`: `least` can't be above"),
        (
            ONE + "".join(f'limits.a{n} = {{ kind = "novel", least = 1 }}\n' for n in range(33)),
            "line 34, `limits.a32`: a",
        ),
    ],
)
def test_what_is_no_catalogue_is_told(text: str, says: str) -> None:
    assert says in mistake(text)


def test_values_may_hold_what_names_of_features_may_not() -> None:
    held = parse('[features]\ngenre = { kind = "string", attribute = "g", values = ["Sci-Fi: War", "{a, b}"] }', "")
    assert Plan(held.features).features.names == ("genre=Sci-Fi: War", "genre={a, b}")


def test_a_catalogue_that_includes_the_shipped_one_has_both() -> None:
    text = 'include = ["shipped"]\n[features]\nmine = { kind = "age" }\nposition = { kind = "recency" }'
    own = parse(text, "").features
    names = [one.name for one in own]
    assert names == [*(one.name for one in shipped().features), "mine"]
    assert own[names.index("position")].feature.kind == "recency"


def test_limits_are_read_in_their_order_beside_shipped_features() -> None:
    text = 'include = ["shipped"]\n[limits]\nb = { kind = "novel", least = 1 }\na = { kind = "novel", least = 2 }'
    held = parse(text, "")
    assert [one.name for one in held.limits] == ["b", "a"]
    assert held.features == shipped().features
    assert shipped().limits == []


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml can't be read: No such file or directory\."):
        plan_of(Settings(features=tmp_path / "missing.toml"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"binary\.toml can't be read: 'utf-8' codec"):
        read(binary)


def test_lines_of_keys_are_found_whatever_stands_in_texts_and_comments() -> None:
    text = '''# [a]
[a . "b c"] # x = 1
s = """
  x = 1 # "
""""
t = \'\'\'y = [\'\'\'
day = 1979-05-27 07:32:00
many = [ # ]
  "]", '[',
  { z = 1, w.v = [2] },
]
[[list]]
last = true
'''
    found = {".".join(map(str, path)): line for path, line in key_lines(text).items()}
    assert found == {
        "a": 2, "a.b c": 2, "a.b c.s": 3, "a.b c.t": 6, "a.b c.day": 7, "a.b c.many": 8,
        "a.b c.many.0": 9, "a.b c.many.1": 9, "a.b c.many.2": 10, "a.b c.many.2.z": 10, "a.b c.many.2.w": 10,
        "a.b c.many.2.w.v": 10, "a.b c.many.2.w.v.0": 10, "list": 12, "list.last": 13,
    }  # fmt: skip
    assert key_lines(text.replace("\n", "\r\n")) == key_lines(text)


@pytest.mark.parametrize("name", kinds_of_limits())
def test_every_kind_of_limit_says_what_it_is_and_what_it_takes(name: str) -> None:
    kind = kinds_of_limits()[name]
    assert sentence(kind).endswith(".")
    told = parameters(kind)
    assert [one.required for one in told] == sorted([one.required for one in told], reverse=True)
    assert [one.name for one in told[-2:]] == ["meaning", "slots"]
    assert all(one.type and one.meaning for one in told)


@pytest.mark.parametrize("name", kinds())
def test_every_kind_says_what_it_is_and_what_it_takes(name: str) -> None:
    kind = kinds()[name]
    assert sentence(kind).endswith(".")
    told = parameters(kind)
    required = [one.required for one in told]
    assert required == sorted(required, reverse=True)
    assert [one.name for one in told[-2:]] == ["meaning", "edges"]
    assert all(one.type for one in told)
