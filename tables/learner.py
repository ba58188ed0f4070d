"""Table `learner`: what the online learner knows. Key: partition of `examples.v1`, its source.

The state is plain data, so that any process can restore it without running what it reads. The learner itself
stands in `models.online`; tables know only what it looks like at rest.
"""

import msgspec
from msgspec import Struct, field

from persona_stream.stream.partition import Codec

SCORE_BINS = 64
"""Bins of the histograms of predictions by label."""


def _no_scores() -> list[int]:
    return [0] * SCORE_BINS


class OnlineState(Struct, array_like=True):
    """A logistic regression over binned features, and how well it has predicted what it learned from next."""

    weights: dict[int, float] = {}
    """By bin key (`models.binning`), in the order in which the keys were first seen."""
    intercept: float = 0.0
    examples: int = 0
    """Rows learned from: the optimizer's clock."""
    positives: int = 0
    log_loss_sum: float = 0.0
    """Sum over rows of the log loss (nats) of the prediction made before the row was learned."""
    positive_scores: list[int] = field(default_factory=_no_scores)
    """Histogram of the predicted log-odds of positives, `SCORE_BINS` bins."""
    negative_scores: list[int] = field(default_factory=_no_scores)


class LearnerState(Struct, array_like=True):
    """What one partition of examples has taught."""

    applied: int = -1
    """Highest offset of the partition that was applied; a record at or below it changes nothing."""
    refused: int = 0
    """Records not learned from: other features than the system's, or a malformed row block."""
    feature_hash: str = ""
    """The feature set that the weights belong to; empty until something is folded."""
    online: OnlineState = field(default_factory=OnlineState)
    sources: dict[int, int] = {}
    """Partition of the item events -> highest offset there whose example was applied: the items agent may write the
    same example twice, at two offsets, when it crashes between its examples and its changelog."""


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(LearnerState).decode

codec = Codec(new=LearnerState, encode=encode, decode=decode)
