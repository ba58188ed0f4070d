"""The parts of docs/features.md that follow from the code: every kind, of limits too, and the shipped catalogue.

`python tests/docs/doc_features.py` writes them anew; a test compares them with the code.
"""

import ast
import doctest
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

import orjson
from doc_blocks import ROOT
from doc_tables import filled, heading, table

from tables.features.catalogue import kinds, kinds_of_limits, shipped
from tables.features.kind import Declarable, Kind
from tables.features.limit_kinds import Limit
from tables.features.parameters import declared, parameters, toml

FEATURES = ROOT / "docs" / "features.md"
_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_ASKED = _NOON + timedelta(hours=1)
_GIVEN = ("feature", "events", "user", "ask")
"""Parameters of `told` that examples give by position."""
_GIVEN_LIMIT = ("limit", "ask", "events", "user")
"""Those of `limited`."""
_WIDTH = 120
_OF_ALL = frozenset({*Kind.__struct_fields__, *Limit.__struct_fields__})


def with_features(text: str) -> str:
    """docs/features.md with its marked parts as the code has them."""
    parts = {
        "of-all": table(_parameter_rows(Kind)),
        "kinds": _kinds(),
        "of-all-limits": table(_parameter_rows(Limit)),
        "limits": "\n" + "".join(_kind(kind, _limit_example) for kind in kinds_of_limits().values()),
        "shipped": table(_shipped_rows()),
    }
    return filled(text, parts)


def _kinds() -> str:
    told, module = "", ""
    for kind in kinds().values():
        if kind.__module__ != module:
            module = kind.__module__
            title = module.rpartition(".")[2].replace("_", " ").capitalize()
            told += f"### {title}\n\n{_flowing(inspect.getdoc(sys.modules[module]) or '')}\n"
        told += _kind(kind, _feature_example)
    return told


def _kind(kind: type[Declarable], example_of: Callable[[str, str], str]) -> str:
    text, _, _ = (inspect.getdoc(kind) or "").partition(">>>")
    told = f"#### {kind.kind}\n\n{_flowing(text)}\n"
    if any(one.name not in _OF_ALL for one in parameters(kind)):
        told += f"{table(_parameter_rows(kind))}\n"
    for example in doctest.DocTestParser().get_examples(inspect.getdoc(kind) or ""):
        told += example_of(example.source, example.want)
    return told


def _flowing(text: str) -> str:
    return "\n".join(f"{textwrap.fill(paragraph, _WIDTH)}\n" for paragraph in text.strip().split("\n\n"))


def _parameter_rows(kind: type[Declarable]) -> Iterator[Iterable[str]]:
    yield from heading("parameter", "is", "default", "meaning")
    for one in parameters(kind):
        if kind in (Kind, Limit) or one.name not in _OF_ALL:
            default = "required" if one.required else f"`{one.default}`" if one.default else "unset"
            yield f"`{one.name}`", one.type, default, one.meaning


def _shipped_rows() -> Iterator[Iterable[str]]:
    yield from heading("feature", "kind", "parameters", "whose")
    for one in shipped().features:
        told = ", ".join(f"{name} = {toml(value)}" for name, value in declared(one.feature).items())
        yield (
            f"`{one.name}`",
            f"[{one.feature.kind}](#{one.feature.kind})",
            f"`{told}`" if told else "",
            one.feature.place(),
        )


def _call(source: str, names: Sequence[str]) -> dict[str, Any]:
    """What an example's call is given."""
    call = ast.parse(source.strip(), mode="eval").body
    assert isinstance(call, ast.Call)
    given = dict(zip(names, map(ast.literal_eval, call.args), strict=False))
    given |= {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    return {"events": (), "user": "u1", "ask": ("i1", "i2")} | given


def _feature_example(source: str, want: str) -> str:
    given = _call(source, _GIVEN)
    return _example("features", given["feature"], given, _result(given, want))


def _limit_example(source: str, want: str) -> str:
    given = _call(source, _GIVEN_LIMIT)
    return _example("limits", given["limit"], given, want)


def _example(table: str, declared: str, given: dict[str, Any], result: str) -> str:
    spaced = declared.replace("= {", "= { ").replace("}", " }")
    return f"```toml\n[{table}]\n{spaced}\n```\n\n```text\n{''.join(_story(given))}\n{result}```\n\n"


def _story(given: dict[str, Any]) -> Iterator[str]:
    for user, kind, item, minute, *value in sorted(given["events"], key=itemgetter(3)):
        items = ", ".join(item) if isinstance(item, list) else item
        worth = f", value {value[0]:g}" if value else ""
        yield f"{_clock(_NOON + timedelta(minutes=minute))}  {user} {kind} {items}{worth}\n"
    yield f"{_clock(_ASKED)}  {given['user']} is to see {', '.join(given['ask'])}"
    yield f" in the slot {given['slot']}\n" if "slot" in given else "\n"
    for item, attributes in given.get("items", {}).items():
        yield f"{item}: {_json(attributes)}\n"
    for name in ("context", "traits"):
        if name in given:
            yield f"{name}: {_json(given[name])}\n"


def _clock(moment: datetime) -> str:
    return moment.strftime("%H:%M" if moment.date() == _ASKED.date() else "%Y-%m-%d %H:%M")


def _json(value: object) -> str:
    return orjson.dumps(value).decode().replace('":', '": ').replace(',"', ', "')


def _result(given: dict[str, Any], want: str) -> str:
    rows = [line.split() for line in want.splitlines()]
    names = list(given["ask"]) if len(rows[0]) == 1 + len(given["ask"]) else [given["user"]]
    cells = [["", *names], *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in cells
    )


if __name__ == "__main__":
    FEATURES.write_text(with_features(FEATURES.read_text(encoding="utf-8")), encoding="utf-8")
