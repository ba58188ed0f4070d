"""When the garbage collector looks at objects, in processes that fold.

State is objects by the million that stay, and none of them is ever in a cycle. Left to itself, the collector visits
them all again and again, and slices wait: 0.5 s for what 60,000 events leave. So what is new is looked at once, behind
a slice, when what that had decoded is released; later, only a collection that is asked for looks at it again.

What came to be in cycles while it was old is not released, then. Faust and its clients leave some hundred objects so a
rebalance, and none for events.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG_OBJECTS = 100_000
"""A slice decodes into tens of thousands of objects that are all released by its end: collecting sooner only costs."""
_NEW_OBJECTS = 20_000
"""So many new ones are looked at in 5 ms."""
_NEVER = 1_000_000_000


def let_state_stay() -> None:
    """Set the collector up, once a process."""
    gc.set_threshold(_YOUNG_OBJECTS, 10, _NEVER)


def settle() -> None:
    """Behind a slice: look at what is new, if that is much."""
    if gc.get_count()[0] > _NEW_OBJECTS:
        # Survivors join the oldest, which `let_state_stay` keeps from being looked at.
        gc.collect(1)


@contextmanager
def collecting_little() -> Iterator[None]:
    """For the time of a replay. All that is folded stays: visiting it again and again is a third of the time.

    `settle` still collects what a fold leaves in cycles.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
