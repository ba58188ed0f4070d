"""The rule that ranks without a model: what the user has been with of late, what goes with it, then popularity.

It has features of its own, so that it answers whatever the catalogue of features is.
"""

import numpy as np

from persona_stream.serving.questions import Gathered
from persona_stream.serving.scorers import Scores
from tables.counters import Floats
from tables.features.catalogue import parse
from tables.features.plan import Plan

_PLAN = Plan(
    parse(
        """
        [features]
        pair_decayed_60d = { kind = "pair_decayed", decay = "60d" }
        pair_decayed_7d = { kind = "pair_decayed", decay = "7d" }
        pair_interest_in_session = { kind = "pair_in_session", events = ["view", "click", "add_to_cart", "other"] }
        item_events_total = { kind = "interaction_count" }
        covisits = { kind = "covisits" }
        """,
        __name__,
    ).features
)
NAMES = _PLAN.features.names
WEIGHTS = np.array([0.01 if name == "item_events_total" else 1.0 for name in NAMES])
"""A score is the sum of the features, popularity a little of it."""


def history_features(gathered: Gathered) -> Floats:
    """The rule's features, float32 `[n, len(NAMES)]`."""
    return np.hstack([_PLAN.person(gathered.inputs), _PLAN.item(gathered.counters)])


def history_scores(features: Floats) -> Scores:
    """Scores of rows of those features, float64 `[n]`."""
    scores: Scores = features.astype(np.float64) @ WEIGHTS
    return scores
