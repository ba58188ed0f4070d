"""What an audit finds: keys whose value is not the same in two places."""

from collections.abc import Iterator

from msgspec import Struct

from persona_stream.holdings.digests import by_field

Value = dict[str, object]
"""A table's value by field."""
CHANGELOG = "changelog"


class Difference(Struct, frozen=True):
    """A key whose two values are not equal. None: the key is absent on that side, or its value is not shown."""

    table: str
    partition: int | None
    key: str
    holder: str
    """Where the value is that is not as it should be."""
    held: Value | None
    expected: Value | None
    fields: tuple[str, ...]
    """Those that differ; none where the key is absent on one side, or the value can't be decoded."""
    note: str = ""
    """What there is to say beside the fields."""


class Audit(Struct):
    """What the audit of a table found in one place."""

    table: str
    holder: str = CHANGELOG
    partition: int | None = None
    keys: int = 0
    """Keys that were compared."""
    in_motion: int = 0
    """Keys left out: a slice of theirs was being written."""
    forgotten: int = 0
    """Keys left out: compaction has removed what the source said of them."""
    differing: int = 0
    differences: list[Difference] = []
    """Those that are named, of those that differ."""
    failure: str = ""
    """Why nothing was compared."""
    seconds: float = 0.0

    def add(self, difference: Difference) -> None:
        """One more key that differs."""
        self.differing += 1
        self.differences.append(difference)


def value_of(value: object) -> Value | None:
    """A decoded value as a difference shows it."""
    return None if value is None else by_field(value)


def differing_fields(held: Value | None, expected: Value | None) -> tuple[str, ...]:
    """The fields that are not equal; none where one side is absent."""
    if held is None or expected is None:
        return ()
    return tuple(name for name, value in held.items() if value != expected.get(name))


def sides(difference: Difference) -> Iterator[tuple[str, object, object]]:
    """(field, held, expected) for each field that differs; None where a side's values are not shown."""
    for name in difference.fields:
        held = difference.held[name] if difference.held is not None else None
        yield name, held, (difference.expected or {}).get(name)
