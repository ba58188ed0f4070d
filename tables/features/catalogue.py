"""The catalogue of features and limits: a TOML file that declares each by its kind and parameters.

    [features]
    item_clicks_1h = { kind = "window_count", scope = "item", events = ["click"], window = "1h" }

    [features.price_for_me]                         # the same, over several lines
    kind = "relative_number"
    attribute = "price"
    events = ["purchase"]

    [limits]                                        # what may stand where in an answer, whatever it was scored
    mixed = { kind = "spread", attribute = "category", most = 3 }

A mistake is refused with its line and key, and with what would be right.
"""

import functools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from persona_stream.vocabulary.errors import ConfigError
from tables.features import (
    asker_kinds,
    attribute_kinds,
    counter_kinds,
    decayed_kinds,
    history_kinds,
    limit_kinds,
    list_kinds,
    pair_kinds,
    python_kind,
    request_kinds,
    similarity_kinds,
    user_kinds,
    value_kinds,
    within_list_kinds,
)
from tables.features.attribution_section import SLOT_CHARS, AttributionSection, General, OfSlot, Weights
from tables.features.kind import Declarable, Kind
from tables.features.limit_kinds import Limit
from tables.features.limits import LIMITS_MOST, DeclaredLimit
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
_KEYS = ("features", "limits", "attribution", "include")

D = TypeVar("D", bound=Declarable)


class Declared(Struct, frozen=True):
    """One feature of a catalogue."""

    name: str
    feature: Kind


class Catalogue(Struct, frozen=True):
    """What a file declares, in its order."""

    features: list[Declared]
    limits: list[DeclaredLimit] = []
    attribution: AttributionSection = AttributionSection()


@functools.cache
def kinds() -> dict[str, type[Kind]]:
    """Every kind of feature by its name, in the order of docs/features.md."""
    return _kinds_in(_MODULES, Kind)


@functools.cache
def kinds_of_limits() -> dict[str, type[Limit]]:
    """Every kind of limit by its name, in the order of docs/features.md."""
    return _kinds_in((limit_kinds,), Limit)


def _kinds_in(modules: Sequence[ModuleType], base: type[D]) -> dict[str, type[D]]:
    found: dict[str, type[D]] = {}
    for module in modules:
        for one in vars(module).values():
            if (
                isinstance(one, type)
                and issubclass(one, base)
                and one.__module__ == module.__name__
                and hasattr(one, "kind")
            ):
                found[one.kind] = one
    return found


def shipped() -> Catalogue:
    """The catalogue that comes with persona-stream."""
    text = resources.files("tables.features").joinpath(SHIPPED).read_text(encoding="utf-8")
    return parse(text, SHIPPED)


def read(path: Path) -> Catalogue:
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


def parse(text: str, where: str) -> Catalogue:
    """What a catalogue declares. Raises ConfigError, which names line and key of the first mistake.

    >>> [one.name for one in parse('[features]\\nhow_new = { kind = "age" }', "my.toml").features]
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
    features = [Declared(name, _feature(name, fields, source)) for name, fields in _features(held, source).items()]
    return Catalogue(features, _limits(held, source), _attribution(held, source))


def _features(held: Mapping[str, Any], source: Source) -> Mapping[str, Any]:
    for key in held:
        if key not in _KEYS:
            keys = ", ".join(f"`{one}`" for one in _KEYS[:-1])
            raise source.error((key,), f"a catalogue has the keys {keys} and `{_KEYS[-1]}`.")
    include = held.get("include", [])
    if not isinstance(include, list) or any(one != "shipped" for one in include):
        raise source.error(("include",), 'what can be included is the shipped catalogue: include = ["shipped"].')
    table = _table(held, "features", source)
    own = {**_shipped_tables(), **table} if include else table
    if not own:
        hint = 'include = ["shipped"] takes the shipped features along.'
        raise source.error(("features",), "no feature is declared.", hint=hint)
    return own


def _table(held: Mapping[str, Any], key: str, source: Source) -> Mapping[str, Any]:
    table = held.get(key, {})
    if not isinstance(table, dict):
        raise source.error((key,), f"this must be a table: `[{key}]`.")
    return table


def _shipped_tables() -> dict[str, Any]:
    text = resources.files("tables.features").joinpath(SHIPPED).read_text(encoding="utf-8")
    tables: dict[str, Any] = tomllib.loads(text)["features"]
    return tables


def _feature(name: str, fields: object, source: Source) -> Kind:
    path = ("features", name)
    feature = _declared(path, fields, kinds(), source)
    _check_edges(feature, path, source)
    _check_columns(name, feature, path, source)
    return feature


def _limits(held: Mapping[str, Any], source: Source) -> list[DeclaredLimit]:
    table, known = _table(held, "limits", source), kinds_of_limits()
    if len(table) > LIMITS_MOST:
        raise source.error(("limits", list(table)[LIMITS_MOST]), f"a catalogue has at most {LIMITS_MOST} limits.")
    return [DeclaredLimit(name, _declared(("limits", name), fields, known, source)) for name, fields in table.items()]


def _attribution(held: Mapping[str, Any], source: Source) -> AttributionSection:
    table = _table(held, "attribution", source)
    slots = table.get("slots", {})
    if not isinstance(slots, dict):
        raise source.error(("attribution", "slots"), "this must be a table of slots: `[attribution.slots.NAME]`.")
    weights = table.get("weights", {})
    if not isinstance(weights, dict):
        raise source.error(("attribution", "weights"), "this must be a table: `[attribution.weights]`.")
    general = {key: value for key, value in table.items() if key not in {"slots", "weights"}}
    return AttributionSection(
        _converted(general, General, ("attribution",), source),
        {slot: _attributed_slot(slot, fields, source) for slot, fields in slots.items()},
        _converted(weights, Weights, ("attribution", "weights"), source),
    )


def _attributed_slot(slot: str, fields: object, source: Source) -> OfSlot:
    path = ("attribution", "slots", slot)
    if not isinstance(fields, dict) or len(slot) > SLOT_CHARS:
        raise source.error(path, f'a slot of at most {SLOT_CHARS} characters is a table: {{ window = "..." }}.')
    return _converted(fields, OfSlot, path, source)


def _converted(fields: Mapping[str, Any], kind: type[D], path: KeyPath, source: Source) -> D:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise source.bad_parameter(error, path, kind) from None


def _declared(path: tuple[str, str], fields: object, known: Mapping[str, type[D]], source: Source) -> D:
    """What is declared at a path by its kind, which is one of those known."""
    if not _NAME.fullmatch(path[1]):
        raise source.error(
            path, "a name is of at most 63 lower-case letters, digits and `_`, and begins with a letter."
        )
    what = path[0].removesuffix("s")
    if not isinstance(fields, dict):
        raise source.error(path, f'a {what} is a table: {{ kind = "...", ... }}.')
    named = fields.get("kind")
    kind = known.get(named) if isinstance(named, str) else None
    if kind is None:
        wrong = f"there is no kind {named!r}." if "kind" in fields else f"a {what} needs a `kind`."
        hint = f"{guess(str(named), known)}`persona-stream features list --kinds` lists all."
        raise source.error((*path, "kind"), wrong, hint=hint)
    return _converted({key: value for key, value in fields.items() if key != "kind"}, kind, path, source)


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
