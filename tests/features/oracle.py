"""What every kind of feature must be, from the raw events: an oracle that shares nothing with what it judges.

A kind's oracle is the function of its name in one of the modules below. It takes all that happened, a question asked
after it, and the feature's parameters, and returns its columns: a number for each item asked about.
"""

from collections.abc import Callable
from types import ModuleType

import oracle_asked
import oracle_counters
import oracle_items
import oracle_visits
from world import Asked, Columns, Params, World

Oracle = Callable[[World, Asked, Params], Columns]
_PARTS: tuple[ModuleType, ...] = (oracle_counters, oracle_visits, oracle_items, oracle_asked)


def oracle_of(kind: str) -> Oracle:
    """The oracle of a kind. Raises LookupError where there is none."""
    for part in _PARTS:
        found = vars(part).get(kind)
        if callable(found) and found.__module__ == part.__name__:
            return found
    raise LookupError(f"no oracle for kind {kind}")


def expected(world: World, asked: Asked, kind: str, params: Params) -> Columns:
    """What the columns of a feature must hold."""
    return oracle_of(kind)(world, asked, params)
