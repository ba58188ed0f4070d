"""Positional structs that have grown by one field, in the bytes of before where the field is empty.

Digests of tables are over bytes: a field that most values leave empty must not make all of them other ones.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

S = TypeVar("S", bound=Struct)

_encode = msgspec.msgpack.Encoder().encode
_ARRAY, _MOST = 0x90, 15
"""MessagePack's short arrays: one byte says how many follow."""


def grown_encoder(kind: type[S]) -> Callable[[S], bytes]:
    """MessagePack of array-like structs of at most 15 fields; the last, a list or a mapping, is left out if empty.

    >>> class Point(Struct, array_like=True):
    ...     x: int
    ...     tags: list[str] = []
    >>> encode = grown_encoder(Point)
    >>> encode(Point(5)) == msgspec.msgpack.encode([5]), encode(Point(5, ["a"])) == msgspec.msgpack.encode([5, ["a"]])
    (True, True)
    """
    names = kind.__struct_fields__
    last, count = names[-1], len(names)
    if count > _MOST:
        raise ValueError(f"{kind.__name__} has {count} fields; short arrays have at most {_MOST}")
    head = bytes([_ARRAY + count - 1])

    def encode(value: S) -> bytes:
        raw = _encode(value)
        # An empty list, and an empty mapping, is one byte.
        return raw if getattr(value, last) else head + raw[1:-1]

    return encode
