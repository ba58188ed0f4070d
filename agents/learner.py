"""The learner agent: `examples.v1` -> table `learner`, one online model for each partition of the examples."""

import msgspec
from xxhash import xxh3_64_intdigest

from agents.emissions import Emissions
from models.online import fold_examples
from persona_stream.stream.partition import Partition
from persona_stream.stream.slices import Slice
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.messages import Example, decode_example
from persona_stream.vocabulary.topics import Topics
from tables.feature_set import FeatureSet
from tables.learner import LearnerState

NEGATIVES_LEARNED = 3
"""Of a list shown, so many items that were left alone are learned from."""
_LEARNED = frozenset({"online", "impression"})


class Learner:
    """Folds slices of `examples.v1` into the model of their partition. Backfilled rows train rankers, not this."""

    def __init__(self, settings: Settings, feature_set: FeatureSet) -> None:
        self._topics = Topics(settings.namespace)
        self._feature_set = feature_set

    def process(self, part: Slice, models: Partition[LearnerState]) -> Emissions:
        """Learn from a slice; the model predicts each row before it learns from it."""
        out = Emissions(self._topics)
        decoded = [(offset, _learned(example)) for offset, example in _decoded(part, out) if example.origin in _LEARNED]
        online = [(offset, example) for offset, example in decoded if example.items]
        fold_examples(models.change(str(part.partition)), online, self._feature_set)
        out.outcomes["applied"] += len(online)
        progress = models.progress
        progress.advance(part)
        for _, example in online:
            progress.watermark_ms = max(progress.watermark_ms, example.ts_ms)
        return out


def _learned(example: Example) -> Example:
    """The rows to learn from: of a list whose window closed, some of those that were left alone.

    What was chosen came before, at once. Which ones follows from the list, so they are the same at every replay.
    """
    if example.origin == "online":
        return example
    left = [at for at, label in enumerate(example.labels) if label == 0]
    left.sort(key=lambda at: xxh3_64_intdigest(f"{example.group}/{example.items[at]}".encode()))
    kept = sorted(left[:NEGATIVES_LEARNED])
    width = len(example.features) // max(len(example.items), 1)
    return msgspec.structs.replace(
        example,
        items=[example.items[at] for at in kept],
        features=b"".join([example.features[width * at : width * (at + 1)] for at in kept]),
        labels=[0] * len(kept),
        weights=[],
    )


def _decoded(part: Slice, out: Emissions) -> list[tuple[int, Example]]:
    examples = []
    for record in part:
        if record.value is None:
            continue
        try:
            examples.append((record.offset, decode_example(record.value)))
        except msgspec.DecodeError as error:
            out.dead_letter(part, record, EventError("bad_shape", f"not an example: {error}"))
    return examples
