"""Examples with something to learn in them, and a ranker trained on them once."""

from collections.abc import Callable

import numpy as np
import pytest

from models.train import TrainedRanker, train_ranker
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.messages import Example
from tables.features.plan import feature_set

MakeExamples = Callable[..., list[Example]]

FEATURES = feature_set(Settings())

_PAIR = FEATURES.index("pair_decayed_60d")
_TOTAL = FEATURES.index("item_purchases_total")
_COVISITS = FEATURES.index("covisits")


def _examples(groups: int, *, rows: int = 12, seed: int = 7) -> list[Example]:
    """One example a group, an hour apart; what is positive depends on three features and their interplay."""
    random = np.random.default_rng(seed)
    made: list[Example] = []
    for group in range(groups):
        features = random.gamma(1.0, 1.0, size=(rows, FEATURES.width)).astype(np.float32)
        wish = features[:, _PAIR] + 0.3 * features[:, _TOTAL] + 2.0 * (features[:, _COVISITS] > 1.5)
        labels = np.zeros(rows, dtype=np.int64)
        labels[np.argsort(-(wish + random.gumbel(0, 0.3, rows)))[:2]] = 1
        items = [f"i{item}" for item in range(rows)]
        made.append(
            Example(
                group=f"g{group:05}",
                user=f"u{group % 17}",
                ts_ms=3_600_000 * group,
                feature_hash=FEATURES.hash,
                items=items,
                features=features.tobytes(),
                labels=labels.tolist(),
                origin="online",
                source_partition=0,
                source_offset=group,
            )
        )
    return made


@pytest.fixture(scope="session")
def make_examples() -> MakeExamples:
    """`make_examples(groups, rows=12, seed=7)`."""
    return _examples


@pytest.fixture(scope="session")
def trained() -> TrainedRanker:
    """A ranker trained on 300 groups."""
    return train_ranker(_examples(300), FEATURES, seed=3)
