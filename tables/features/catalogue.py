"""The catalogue of features: a TOML file that declares each by its kind and parameters.

    [features]
    item_clicks_1h = { kind = "window_count", scope = "item", events = ["click"], window = "1h" }

    [features.price_for_me]                         # the same, over several lines
    kind = "relative_number"
    attribute = "price"
    events = ["purchase"]

A mistake is refused with its line and key, and with what would be right.
"""

import difflib
import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from persona_stream.vocabulary.errors import ConfigError
from tables.features import (
    attribute_kinds,
    counter_kinds,
    history_kinds,
    list_kinds,
    pair_kinds,
    python_kind,
    request_kinds,
    user_kinds,
)
from tables.features.kind import Kind

SHIPPED = "shipped.toml"
"""The catalogue that is used where none is named."""
_MODULES = (
    counter_kinds,
    user_kinds,
    pair_kinds,
    list_kinds,
    attribute_kinds,
    history_kinds,
    request_kinds,
    python_kind,
)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_FIELD = re.compile(r"field `(?P<field>[^`]+)`")


class Declared(Struct, frozen=True):
    """One feature of a catalogue."""

    name: str
    feature: Kind


def kinds() -> dict[str, type[Kind]]:
    """Every kind by its name, in the order of docs/features.md."""
    found: dict[str, type[Kind]] = {}
    for module in _MODULES:
        for _, one in inspect.getmembers(module, inspect.isclass):
            if issubclass(one, Kind) and one.__module__ == module.__name__ and hasattr(one, "kind"):
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
        raise ConfigError(f"features file {path}: {error}.", hint="It is named by PERSONA_FEATURES.") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> list[Declared]:
    """Declared features in their order. Raises ConfigError, which names line and key of the first mistake.

    >>> [one.name for one in parse('[features]\\nhow_new = { kind = "age" }', "my.toml")]
    ['how_new']
    >>> parse('[features]\\nhow_new = { kind = "agee" }', "my.toml")
    Traceback (most recent call last):
    ...
    persona_stream.vocabulary.errors.ConfigError: my.toml line 2, `features.how_new.kind`: there is no kind "agee". \
Did you mean "age"? `persona-stream features list --kinds` lists all.
    """
    try:
        held = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: {error}.", hint="Features are declared in TOML.") from None
    lines = _Lines(text, where)
    table = _features(held, lines)
    return [Declared(name, _declared(name, fields, lines)) for name, fields in table.items()]


def _features(held: Mapping[str, Any], lines: "_Lines") -> Mapping[str, Any]:
    for key in held:
        if key not in {"features", "include"}:
            raise lines.error([key], "a catalogue has the keys `features` and `include`.")
    include = held.get("include", [])
    if not isinstance(include, list) or any(one != "shipped" for one in include):
        raise lines.error(["include"], 'what can be included is the shipped catalogue: include = ["shipped"].')
    table = held.get("features", {})
    if not isinstance(table, dict):
        raise lines.error(["features"], "this must be a table: `[features]`.")
    own = {**_shipped_tables(), **table} if include else table
    if not own:
        raise lines.error(["features"], "no feature is declared.")
    return own


def _shipped_tables() -> dict[str, Any]:
    text = resources.files("tables.features").joinpath(SHIPPED).read_text(encoding="utf-8")
    tables: dict[str, Any] = tomllib.loads(text)["features"]
    return tables


def _declared(name: str, fields: object, lines: "_Lines") -> Kind:
    path = ["features", name]
    if not _NAME.fullmatch(name):
        raise lines.error(path, "a name is of at most 63 lower-case letters, digits and `_`, and begins with a letter.")
    if not isinstance(fields, dict):
        raise lines.error(path, 'a feature is a table: { kind = "...", ... }.')
    kind = fields.get("kind")
    known = kinds()
    if kind not in known:
        near = difflib.get_close_matches(str(kind), known, n=1)
        guess = f' Did you mean "{near[0]}"?' if near else ""
        wrong = f'there is no kind "{kind}".{guess}' if kind is not None else "a feature needs a `kind`."
        raise lines.error([*path, "kind"], wrong, hint="`persona-stream features list --kinds` lists all.")
    try:
        return msgspec.convert({key: value for key, value in fields.items() if key != "kind"}, known[kind])
    except msgspec.ValidationError as error:
        raise _told(error, path, known[kind], lines) from None


def _told(error: msgspec.ValidationError, path: list[str], kind: type[Kind], lines: "_Lines") -> ConfigError:
    message = str(error)
    at = _PATH.search(message)
    field = _FIELD.search(message)
    key = re.split(r"[.\[]", at["path"])[0] if at and at["path"] else field["field"] if field else ""
    said = _PATH.sub("", message).rstrip(".")
    parameters = ", ".join(one.encode_name for one in msgspec.structs.fields(kind))
    return lines.error([*path, key] if key else path, f"{said}.", hint=f"`{kind.kind}` takes {parameters}.")


class _Lines:
    """Finds the line of a key: tomllib does not tell it."""

    def __init__(self, text: str, where: str) -> None:
        self._lines = text.splitlines()
        self._where = where

    def error(self, path: list[str], message: str, *, hint: str = "") -> ConfigError:
        line = self._line(path)
        place = f"{self._where} line {line}" if line else self._where
        return ConfigError(f"{place}, `{'.'.join(path)}`: {message}", hint=hint)

    def _line(self, path: list[str]) -> int:
        """1-based; the nearest key above where this one is not written; 0 where none is."""
        found = 0
        for depth in range(1, len(path) + 1):
            for number in self._matching(path[:depth], after=found):
                found = number
                break
        return found

    def _matching(self, path: list[str], after: int) -> Iterator[int]:
        name = re.escape(path[-1])
        dotted = r"\.".join(map(re.escape, path))
        header = re.compile(rf"\s*\[\s*{dotted}\s*[\].]")
        key = re.compile(rf"""(?:^|[{{,.\s])["']?{name}["']?\s*=""")
        for number, line in enumerate(self._lines[max(after - 1, 0) :], start=max(after, 1)):
            if number > after and after and re.match(r"\s*\[", line) and not header.match(line) and len(path) > 2:
                return
            if header.match(line) or key.search(line):
                yield number
