"""Why an item was a candidate: the user's own, or one that goes with the user's latest."""

import numpy as np

from persona_stream.explain.past import Past
from persona_stream.serving.candidates import candidates_for
from persona_stream.serving.item_columns import BLANK
from tables.covisits import co_visited


def origins(past: Past) -> dict[str, str]:
    """Candidates that follow from the user's state, and why; others are found since they are trending."""
    if past.user is None:
        return {}
    columns = past.replica.items
    goes_with: dict[str, str] = {}
    for recent in co_visited(past.user):
        rows, _ = columns.neighbours(recent)
        for row in rows.tolist():
            goes_with.setdefault(columns.ids[row], f"goes with {recent}")
    found = candidates_for(past.user, columns, np.full(0, BLANK, dtype=np.int64))
    own = past.user.touches_of(found)
    return {item: "the user's own" if item in own else goes_with[item] for item in found}
