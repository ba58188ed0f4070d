"""What can be declared of a kind, in words: for whoever lists kinds, or has got one wrong."""

from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from persona_stream.vocabulary.meanings import field_meanings
from tables.features.kind import Declarable, Kind
from tables.features.limit_kinds import Limit


class Parameter(Struct, frozen=True):
    """One parameter of a kind. `default` is TOML; empty where it must be declared, or is unset."""

    name: str
    type: str
    required: bool
    default: str
    meaning: str


def parameters(kind: type[Declarable]) -> list[Parameter]:
    """Those that must be declared first, those that every kind has last."""
    meanings = field_meanings(kind)
    hints = get_type_hints(kind, include_extras=True)
    common = (Limit if issubclass(kind, Limit) else Kind).__struct_fields__
    fields = sorted(msgspec.structs.fields(kind), key=lambda field: (field.name in common, not field.required))
    return [
        Parameter(field.encode_name, _words(hints[field.name]), field.required, _default(field), meanings[field.name])
        for field in fields
    ]


def declared(feature: Declarable) -> dict[str, Any]:
    """The parameters of a feature or a limit that are not as by default, `meaning` aside."""
    fields = msgspec.structs.fields(feature)
    held = {field.encode_name: (getattr(feature, field.name), field.default) for field in fields}
    return {name: value for name, (value, default) in held.items() if value != default and name != "meaning"}


def toml(value: object) -> str:
    """A parameter's value as TOML.

    >>> toml(("click", "view")), toml(0.5), toml("1h")
    ('["click", "view"]', '0.5', '"1h"')
    """
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml, value))}]"
    return msgspec.json.encode(value).decode()


def sentence(kind: type[Declarable]) -> str:
    """The first sentence of what a kind says of itself."""
    told = " ".join((kind.__doc__ or "").partition(">>>")[0].split())
    return told.partition(". ")[0].rstrip(".") + "."


def _default(field: FieldInfo) -> str:
    return "" if field.required or field.default is None else toml(field.default)


def _words(hint: Any) -> str:
    """A type as told to people, its literals in the order of the source."""
    arguments = get_args(hint)
    origin = get_origin(hint)
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1])
    if origin is Literal:
        words = [toml(value) for value in arguments]
        return " or ".join([", ".join(words[:-1]), words[-1]])
    if origin is tuple:
        return "a list of texts" if _words(arguments[0]) == "a text" else f"several of {_words(arguments[0])}"
    if type(None) in arguments:
        return _words(arguments[0])
    return {int: "a whole number", float: "a number", str: "a text"}[hint]


def _bounded(hint: Any, meta: Meta) -> str:
    if meta.description:
        return meta.description
    between = f" from {meta.ge} to {meta.le}" if meta.ge is not None else ""
    return _words(hint) + between
