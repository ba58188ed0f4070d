"""Backfill: a log of events replayed through the very folds of the stream, to make training examples of the past.

Events, from a topic or from files, are put in event-time order and folded by the agents themselves: lists shown and
what came of them become the examples that the stream makes. And whenever a user begins a new session, the serving
engine is asked for candidates and features as of that moment; what the user then chose in it are the positives. So a
ranker trains on just what it will be served.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from models.evaluation import Interval, bootstrap_interval, ndcg_at_k
from models.topic_reader import read_topic
from persona_stream.history.sorted_log import SortedLog
from persona_stream.in_process import InProcess
from persona_stream.kafka.writer import BatchWriter, Record
from persona_stream.past_sessions import MIN_ITEMS_KNOWN
from persona_stream.stream.garbage import collecting_little, settle
from persona_stream.stream.slices import LogRecord
from persona_stream.versions import Versions, read_item_versions, read_profile_versions
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import EventError
from persona_stream.vocabulary.events import POSITIVE_KINDS, Event, parse_event
from persona_stream.vocabulary.messages import Example, decode_example, encode
from persona_stream.vocabulary.topics import Topics
from tables.counters import Floats
from tables.feature_set import FeatureSet
from tables.features.plan import feature_set

ORIGIN = "backfill"
NEGATIVES_KEPT = 60
"""Negatives kept of a session's candidates: more add bytes, hardly any order to learn."""
TRENDING_EVERY_MS = 6 * 3_600_000
WRITE_EVERY = 500
FOLD_EVERY = 5_000
"""Events folded at a time, at most."""
PROGRESS_EVERY = 1_000
LAST = -1e300
"""Below any score."""

OnProgress = Callable[[int, int], None]
"""(done, to do)"""
OnMade = Callable[[Sequence[Example]], None]
"""Takes the examples that the stream would have made, some at a time."""
ScoreRows = Callable[[Floats], NDArray[np.floating]]


class SessionQuestion(Struct):
    """What could be answered when a session began, and what the user chose in it."""

    user: str
    ts_ms: int
    items: list[str]
    features: Floats
    """float32 `[n, width]`."""
    chosen: set[str]

    @property
    def group(self) -> str:
        """The same at each replay, so that a repeated backfill adds nothing."""
        return f"{self.user}@{self.ts_ms}"

    def labels(self) -> NDArray[np.int64]:
        """1 for each candidate that was chosen, int64 `[n]`."""
        return np.array([item in self.chosen for item in self.items], dtype=np.int64)

    def example(self, feature_set: FeatureSet) -> Example:
        """All positives and some negatives, picked by hash; `feature_set`: what the question's features are."""
        labels = self.labels()
        negatives = np.flatnonzero(labels == 0).tolist()
        negatives.sort(key=lambda at: xxh3_64_intdigest(f"{self.group}/{self.items[at]}".encode()))
        kept = sorted(np.flatnonzero(labels).tolist() + negatives[:NEGATIVES_KEPT])
        return Example(
            group=self.group,
            user=self.user,
            ts_ms=self.ts_ms,
            feature_hash=feature_set.hash,
            items=[self.items[at] for at in kept],
            features=self.features[kept].tobytes(),
            labels=labels[kept].tolist(),
            origin=ORIGIN,
        )


class Replay:
    """Folds events in event-time order, and asks the engine at the beginning of a `share` of the sessions."""

    def __init__(
        self, settings: Settings, versions: Versions, *, share: float = 1.0, on_made: OnMade | None = None
    ) -> None:
        """`versions`: of the catalogue's entries and profiles. Without `on_made`, only the engine makes examples."""
        self._share = share
        self._versions = versions
        self._on_made = on_made
        self._gap_ms = settings.session_gap_ms
        self._system = InProcess(settings, with_examples=on_made is not None, all_rows=True)
        self._open: dict[str, SessionQuestion] = {}
        self._last_ms: dict[str, int] = {}
        self._pending: list[LogRecord] = []
        self._trending_ms = 0

    def run(self, log: SortedLog, on_progress: OnProgress) -> Iterator[SessionQuestion]:
        """Questions with what was chosen, each as its session ends; those still open at the end come last."""
        for offset, (ts_ms, event, raw) in enumerate(log):
            if offset % PROGRESS_EVERY == 0:
                on_progress(offset, len(log))
            if self._on_made is not None and self._versions.is_due(ts_ms):
                # Rows of examples say what the catalogue said at their time.
                self._fold_pending()
                self._versions.apply_until(ts_ms, self._system)
            ended = self._before(event, ts_ms)
            if ended is not None:
                yield ended
            self._pending.append(LogRecord(offset, ts_ms, event.user.encode(), raw))
            if len(self._pending) >= FOLD_EVERY:
                self._fold_pending()
        self._fold_pending()
        on_progress(len(log), len(log))
        yield from self._open.values()

    def _before(self, event: Event, ts_ms: int) -> SessionQuestion | None:
        """Ask before an event that begins a session; returns the question of the user's session before."""
        if event.type not in POSITIVE_KINDS or event.item is None:
            return None
        user = event.user
        quiet_ms = ts_ms - self._last_ms.get(user, -self._gap_ms - 1)
        self._last_ms[user] = ts_ms
        if quiet_ms <= self._gap_ms:
            if user in self._open:
                self._open[user].chosen.add(event.item)
            return None
        ended = self._open.pop(user, None)
        if self._in_sample(user, ts_ms):
            self._fold_pending()
            state = self._system.show_user(user)
            if state is not None and len(state.touches) >= MIN_ITEMS_KNOWN:
                self._open[user] = self._ask(user, ts_ms, event.item)
        return ended

    def _in_sample(self, user: str, ts_ms: int) -> bool:
        """The same sessions at every replay."""
        return xxh3_64_intdigest(f"{user}@{ts_ms}".encode()) < self._share * 2**64

    def _ask(self, user: str, ts_ms: int, chosen: str) -> SessionQuestion:
        self._versions.apply_until(ts_ms, self._system)
        engine = self._system.engine
        if ts_ms - self._trending_ms > TRENDING_EVERY_MS:
            engine.trending_items.refresh(ts_ms)
            self._trending_ms = ts_ms
        question = engine.question(user, engine.candidates(user, ts_ms), ts_ms, ordered=False)
        return SessionQuestion(user, ts_ms, question.items, question.features, {chosen})

    def _fold_pending(self) -> None:
        made = self._system.fold(self._pending)
        self._pending = []
        settle()
        if self._on_made is not None and made:
            self._on_made([decode_example(record.value or b"") for record in made])


async def read_events(settings: Settings, topic: str, log: SortedLog, on_progress: OnProgress) -> None:
    """Add a whole topic of events to a log; what the stream would refuse is left out.

    Raises as `models.topic_reader.read_topic` does.
    """
    async for records in read_topic(settings, topic, on_progress=on_progress):
        for record in records:
            try:
                event = parse_event(record.value)
            except EventError:
                continue
            log.add(event, record.value or b"", record.partition, record.offset)


def next_session_ndcg(questions: Sequence[SessionQuestion], score: ScoreRows, *, seed: int = 1) -> Interval:
    """NDCG@10 of ranking all candidates at the beginning of sessions, judged by everything chosen in them.

    What was chosen but was no candidate counts as ranked last: finding candidates is judged along with ordering them.
    """
    labels, scores, sizes = [], [], []
    for asked in questions:
        missed = len(asked.chosen - set(asked.items))
        labels.append(np.concatenate([asked.labels(), np.ones(missed, dtype=np.int64)]))
        scores.append(np.concatenate([score(asked.features), np.full(missed, LAST)]))
        sizes.append(len(labels[-1]))
    values = ndcg_at_k(np.concatenate(labels), np.concatenate(scores), np.array(sizes))
    return bootstrap_interval(values, seed=seed)


def by_feature(feature_set: FeatureSet, names: Sequence[str]) -> ScoreRows | None:
    """Ranking by one feature alone, a simple rule to beat: the first of `names` that there is; None without one."""
    column = next((at for at in map(feature_set.get, names) if at is not None), None)
    return None if column is None else lambda features: features[:, column]


def share_of_sessions(log: SortedLog, settings: Settings, most: int) -> float:
    """What share of a log's sessions with an outcome is about as many as `most`."""
    if not most:
        return 0.0
    gap_ms = settings.session_gap_ms
    last_ms: dict[str, int] = {}
    starts = 0
    for ts_ms, event, _ in log:
        if event.type in POSITIVE_KINDS and event.item is not None:
            starts += ts_ms - last_ms.get(event.user, -gap_ms - 1) > gap_ms
            last_ms[event.user] = ts_ms
    return min(1.0, most / max(1, starts))


async def backfill(
    settings: Settings, writer: BatchWriter, *, max_sessions: int, on_read: OnProgress, on_fold: OnProgress
) -> list[SessionQuestion]:
    """Replay the events topic, and write the examples of at most about `max_sessions` sessions.

    Returns them in the order of time. Raises as `models.topic_reader.read_topic` does.
    """
    with SortedLog() as log:
        await read_events(settings, Topics(settings.namespace).events, log, on_read)
        versions = Versions(await read_item_versions(settings) + await read_profile_versions(settings))
        replay = Replay(settings, versions, share=share_of_sessions(log, settings, max_sessions))
        with collecting_little():
            questions = await asyncio.to_thread(lambda: list(replay.run(log, on_fold)))
    questions.sort(key=lambda asked: (asked.ts_ms, asked.user))
    features = feature_set(settings)
    await write_examples(settings, writer, [asked.example(features) for asked in questions])
    return questions


async def write_examples(settings: Settings, writer: BatchWriter, examples: Sequence[Example]) -> None:
    """Write examples to their topic, as what they are there: backfilled.

    So the online learner passes over them: it learned from the stream, in its order. Their groups are those of the
    stream's own examples, or follow from user and time; so readers, which count each item of a group once, count
    nothing twice that is written twice.
    """
    topic = Topics(settings.namespace).examples
    for start in range(0, len(examples), WRITE_EVERY):
        records = [
            Record(
                example.user.encode(),
                encode(msgspec.structs.replace(example, origin=ORIGIN, source_partition=-1, source_offset=-1)),
            )
            for example in examples[start : start + WRITE_EVERY]
        ]
        await writer.write_keyed(topic, records)
