"""The learner agent: `examples.v1` -> table `learner`, one online model for each partition of the examples."""

import msgspec

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


class Learner:
    """Folds slices of `examples.v1` into the model of their partition. Backfilled rows train rankers, not this."""

    def __init__(self, settings: Settings, feature_set: FeatureSet) -> None:
        self._topics = Topics(settings.namespace)
        self._feature_set = feature_set

    def process(self, part: Slice, models: Partition[LearnerState]) -> Emissions:
        """Learn from a slice; the model predicts each row before it learns from it."""
        out = Emissions(self._topics)
        online = [(offset, example) for offset, example in _decoded(part, out) if example.origin == "online"]
        fold_examples(models.change(str(part.partition)), online, self._feature_set)
        out.outcomes["applied"] += len(online)
        progress = models.progress
        progress.advance(part)
        for _, example in online:
            progress.watermark_ms = max(progress.watermark_ms, example.ts_ms)
        return out


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
