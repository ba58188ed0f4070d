"""What the online model learned, by what users then chose: ``python -m benchmarks.online_quality [--events N]``.

Real purchases (completejourney, of a package that the product depends on) are folded in one process, and the online
model alone learns from the examples of the first 60 % of time. Of the sessions after that it orders all candidates that
a server would have found as they began; a simple rule stands beside it. Choices were made from no list here, so what
the model met is what negatives the stream draws (ADR 0013).
"""

import argparse
from itertools import islice

import msgspec

from models.online import OnlineScorer, fold_examples
from persona_stream.backfill import Replay, SessionQuestion, by_feature, next_session_ndcg
from persona_stream.demo.dataset import Dataset
from persona_stream.history.sorted_log import SortedLog
from persona_stream.stream.garbage import let_state_stay
from persona_stream.versions import Version, Versions
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.events import parse_event, parse_item
from persona_stream.vocabulary.messages import Example
from tables.features.plan import feature_set
from tables.learner import LearnerState

LEARNED_SHARE = 0.6
SETTINGS = Settings()
FEATURES = feature_set(SETTINGS)


def main() -> None:
    """Fold, learn, ask, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online_quality", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=120_000)
    events = parser.parse_args().events
    let_state_stay()
    questions, examples, cut_ms = _replayed(events)
    state = LearnerState()
    fold_examples(state, [(at, one) for at, one in enumerate(examples) if one.ts_ms < cut_ms], FEATURES)
    online = OnlineScorer([state], FEATURES)
    asked = [_of_candidates(one) for one in questions if one.ts_ms >= cut_ms and one.labels().any()]
    print(f"{events:,} purchases, {online.examples:,} rows learned from, {len(asked):,} sessions asked about: NDCG@10")
    ways = {
        "the online model alone": online.predict,
        "what the user had most of late": by_feature(FEATURES, ["pair_decayed_60d"]),
    }
    for name, score in ways.items():
        assert score is not None
        print(f"  {name:32}{next_session_ndcg(asked, score)}")


def _of_candidates(asked: SessionQuestion) -> SessionQuestion:
    """The question without what was chosen and not found: how candidates are ordered is judged here."""
    return msgspec.structs.replace(asked, chosen=asked.chosen & set(asked.items))


def _replayed(events: int) -> tuple[list[SessionQuestion], list[Example], int]:
    """Questions as sessions began, examples as the stream makes them, and when LEARNED_SHARE of the events is over."""
    data = Dataset(events)
    examples: list[Example] = []
    versions = Versions([Version(0, True, item.id, item.attributes) for item in map(parse_item, data.items())])
    times_ms: list[int] = []
    with SortedLog() as log:
        for at, raw in enumerate(islice(data.events(), events)):
            event = parse_event(raw)
            times_ms.append(int(event.ts))
            log.add(event, raw, 0, at)
        replay = Replay(SETTINGS, versions, on_made=examples.extend)
        questions = list(replay.run(log, lambda *_: None))
    questions.sort(key=lambda one: (one.ts_ms, one.user))
    return questions, examples, sorted(times_ms)[int(LEARNED_SHARE * len(times_ms))]


if __name__ == "__main__":
    main()
