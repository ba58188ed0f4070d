"""The catalogue of features: a TOML file that declares each by its kind and parameters.

    [features]
    item_clicks_1h = { kind = "window_count", scope = "item", events = ["click"], window = "1h" }

    [features.price_for_me]                         # the same, over several lines
    kind = "relative_number"
    attribute = "price"
    events = ["purchase"]

A mistake is refused with its line and key, and with what would be right.
"""

import functools
import math
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from persona_stream.vocabulary.errors import ConfigError
from tables.features import (
    asker_kinds,
    attribute_kinds,
    counter_kinds,
    decayed_kinds,
    history_kinds,
    list_kinds,
    pair_kinds,
    python_kind,
    request_kinds,
    similarity_kinds,
    user_kinds,
    value_kinds,
    within_list_kinds,
)
from tables.features.kind import Kind
from tables.features.mistakes import Source, guess
from tables.features.toml_lines import Path as KeyPath

SHIPPED = "shipped.toml"
"""The catalogue that is used where none is named."""
_MODULES = (
    counter_kinds,
    decayed_kinds,
    value_kinds,
    user_kinds,
    pair_kinds,
    list_kinds,
    within_list_kinds,
    attribute_kinds,
    history_kinds,
    similarity_kinds,
    request_kinds,
    asker_kinds,
    python_kind,
)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Declared(Struct, frozen=True):
    """One feature of a catalogue."""

    name: str
    feature: Kind


@functools.cache
def kinds() -> dict[str, type[Kind]]:
    """Every kind by its name, in the order of docs/features.md."""
    found: dict[str, type[Kind]] = {}
    for module in _MODULES:
        for one in vars(module).values():
            if (
                isinstance(one, type)
                and issubclass(one, Kind)
                and one.__module__ == module.__name__
                and hasattr(one, "kind")
            ):
                found[one.kind] = one
    return found


def shipped() -> list[Declared]:
    """The catalogue that comes with persona-stream."""
    text = resources.files("tables.features").joinpath(SHIPPED).read_text(encoding="utf-8")
    return parse(text, SHIPPED)


def read(path: Path) -> list[Declared]:
    """The catalogue in a file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"features file {path} can't be read: {said}.",
            hint="PERSONA_FEATURES or the command names it; without, it is the shipped catalogue.",
        ) from error
    return parse(text, str(path))


def parse(text: str, where: str) -> list[Declared]:
    """Declared features in their order. Raises ConfigError, which names line and key of the first mistake.

    >>> [one.name for one in parse('[features]\\nhow_new = { kind = "age" }', "my.toml")]
    ['how_new']
    >>> parse('[features]\\nhow_new = { kind = "agee" }', "my.toml")
    Traceback (most recent call last):
    ...
    persona_stream.vocabulary.errors.ConfigError: my.toml line 2, `features.how_new.kind`: there is no kind 'agee'. \
Did you mean "age"? `persona-stream features list --kinds` lists all.
    """
    source = Source(text, where)
    try:
        held = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise source.no_toml(error) from None
    return [Declared(name, _declared(name, fields, source)) for name, fields in _features(held, source).items()]


def _features(held: Mapping[str, Any], source: Source) -> Mapping[str, Any]:
    for key in held:
        if key not in {"features", "include"}:
            raise source.error((key,), "a catalogue has the keys `features` and `include`.")
    include = held.get("include", [])
    if not isinstance(include, list) or any(one != "shipped" for one in include):
        raise source.error(("include",), 'what can be included is the shipped catalogue: include = ["shipped"].')
    table = held.get("features", {})
    if not isinstance(table, dict):
        raise source.error(("features",), "this must be a table: `[features]`.")
    own = {**_shipped_tables(), **table} if include else table
    if not own:
        raise source.error(("features",), "no feature is declared.")
    return own


def _shipped_tables() -> dict[str, Any]:
    text = resources.files("tables.features").joinpath(SHIPPED).read_text(encoding="utf-8")
    tables: dict[str, Any] = tomllib.loads(text)["features"]
    return tables


def _declared(name: str, fields: object, source: Source) -> Kind:
    path = ("features", name)
    if not _NAME.fullmatch(name):
        raise source.error(
            path, "a name is of at most 63 lower-case letters, digits and `_`, and begins with a letter."
        )
    if not isinstance(fields, dict):
        raise source.error(path, 'a feature is a table: { kind = "...", ... }.')
    named, known = fields.get("kind"), kinds()
    kind = known.get(named) if isinstance(named, str) else None
    if kind is None:
        wrong = f"there is no kind {named!r}." if "kind" in fields else "a feature needs a `kind`."
        hint = f"{guess(str(named), known)}`persona-stream features list --kinds` lists all."
        raise source.error((*path, "kind"), wrong, hint=hint)
    try:
        feature = msgspec.convert({key: value for key, value in fields.items() if key != "kind"}, kind)
    except msgspec.ValidationError as error:
        raise source.bad_parameter(error, path, kind) from None
    _check_edges(feature, path, source)
    _check_columns(name, feature, path, source)
    return feature


def _check_edges(feature: Kind, path: KeyPath, source: Source) -> None:
    before = -math.inf
    for at, edge in enumerate(feature.edges or ()):
        if not before < edge < math.inf:
            wrong = f"edges ascend and are finite, but {edge:g} stands behind {before:g}."
            raise source.error((*path, "edges", at), wrong, hint="They cut the range into bins.")
        before = edge


def _check_columns(name: str, feature: Kind, path: KeyPath, source: Source) -> None:
    seen: set[str] = set()
    for suffix in feature.suffixes():
        if suffix in seen:
            wrong = f'two of its columns are named "{name}{suffix}".'
            raise source.error((*path, *_listed(feature, suffix[1:], last=True)), wrong, hint="Name each value once.")
        if not suffix.isprintable():
            wrong = f"the name of a column, {name + suffix!r}, can't be printed."
            raise source.error((*path, *_listed(feature, suffix[1:])), wrong, hint="`hashed` takes any value.")
        seen.add(suffix)


def _listed(feature: Kind, value: str, *, last: bool = False) -> KeyPath:
    """Where a value is declared that has a column."""
    for name in feature.__struct_fields__:
        held = getattr(feature, name)
        if isinstance(held, tuple) and value in held:
            return (name, len(held) - 1 - held[::-1].index(value) if last else held.index(value))
    return ()
