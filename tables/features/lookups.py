"""What features look up beside the state that they are computed of: the catalogue's attributes and users' traits."""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from tables.features.attributes import AttributeColumns, Needs

Traits = Callable[[str], Mapping[str, Any]]
"""From a user to what is known of them from elsewhere."""


class Lookups(Struct, frozen=True):
    """Where to look."""

    attributes: AttributeColumns
    traits: Traits


def nothing_known(needs: Needs) -> Lookups:
    """Where there is nothing to look up: no catalogue, no profiles."""
    return Lookups(AttributeColumns(needs), lambda _: {})
