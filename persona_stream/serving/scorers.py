"""The models that score: the live ranker and the online learner, kept up to date with the replica, blended."""

import asyncio
import logging
import time
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.online import OnlineScorer
from models.ranker import Ranker
from persona_stream.serving.replica import Replica
from persona_stream.vocabulary.errors import ModelError
from persona_stream.vocabulary.messages import ModelRecord
from tables.counters import Floats
from tables.feature_set import FeatureSet

RANKER = "ranker"
"""The name in the registry whose live version is served."""
ONLINE = "online"
MIN_ONLINE_EXAMPLES = 500
"""Below this the online learner knows less than a simple rule."""
REBUILD_S = 0.02
"""The online weights are merged again at most this often; a click acts through the user's features at once."""
WATCH_S = 0.1
UNKNOWN = -1
"""The version of models that were not looked at yet."""

logger = logging.getLogger(__name__)

Scores = NDArray[np.float64]


class Scored(Struct):
    """Scores of candidates, and what gave them."""

    scores: Scores
    policy: str
    model: str
    parts: dict[str, Scores] = {}
    """By model, what each gave before they were blended."""


class Scorers:
    """Scores feature rows with whatever models there are."""

    def __init__(self, replica: Replica, feature_set: FeatureSet) -> None:
        self._replica = replica
        self._feature_set = feature_set
        self._ranker: Ranker | None = None
        self._ranker_version = ""
        self._registry_version = UNKNOWN
        self._online = OnlineScorer([], feature_set)
        self._online_version = UNKNOWN
        self._online_built_s = 0.0
        self.learned: list[int] = []
        """By partition of the examples, the offset up to which the online weights have learned; -1: nothing."""
        self._watcher: asyncio.Task[None] | None = None

    def follow(self, replica: Replica) -> None:
        """Follow the models of another replica from now on."""
        self._replica = replica
        self._registry_version = self._online_version = UNKNOWN
        self._online_built_s = 0.0

    async def start(self) -> None:
        """Begin to follow the registry: promotions and rollbacks take effect without a restart."""
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop following; the models loaded stay."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    @property
    def model(self) -> str:
        """What answers are scored with: `ranker/v3+online`, `online`, or empty."""
        online = self._refreshed_online()
        names = [f"{RANKER}/{self._ranker_version}"] if self._ranker else []
        names += [ONLINE] if online.examples >= MIN_ONLINE_EXAMPLES else []
        return "+".join(names)

    @property
    def knows_strangers(self) -> bool:
        """Whether the ranker can order for a user whom nothing is known of."""
        return self._ranker is not None and self._ranker.knows_strangers

    def score_lists(self, features: Floats, sizes: Sequence[int]) -> list[Scored] | None:
        """Scores of lists of rows, float32 `[n, F]` in all, one list after another; None where there is no model.

        Raises ModelError.
        """
        online = self._refreshed_online()
        models: dict[str, Scores] = {}
        if self._ranker is not None:
            models[RANKER] = self._ranker.score(features).astype(np.float64)
        if online.examples >= MIN_ONLINE_EXAMPLES:
            models[ONLINE] = online.predict(features)
        if not models:
            return None
        name = self.model
        ends = np.cumsum(sizes).tolist()
        lists = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return [_scored({model: scores[rows] for model, scores in models.items()}, name) for rows in lists]

    def online(self) -> OnlineScorer:
        """The weights of all partitions' learners, merged."""
        return self._refreshed_online()

    def _refreshed_online(self) -> OnlineScorer:
        models, now_s = self._replica.models, time.monotonic()
        if models.learner_version != self._online_version and now_s - self._online_built_s > REBUILD_S:
            # In an order of their own: the mean of the weights is then the same at every server, to the last bit.
            states = {int(key): models.learner[key] for key in sorted(models.learner, key=int)}
            self._online = OnlineScorer(states.values(), self._feature_set)
            self.learned = [states[p].applied if p in states else -1 for p in range(max(states, default=-1) + 1)]
            self._online_version = models.learner_version
            self._online_built_s = now_s
        return self._online

    async def _watch(self) -> None:
        while True:
            models = self._replica.models
            if models.registry_version != self._registry_version:
                self._registry_version = models.registry_version
                await self.load(models.registry.live_record(RANKER))
            await asyncio.sleep(WATCH_S)

    async def load(self, record: ModelRecord | None) -> None:
        """Score with a version of the ranker from now on, None: with none. One that must not be served is logged."""
        if record is None:
            self._ranker, self._ranker_version = None, ""
        elif record.version != self._ranker_version:
            try:
                # Loading runs the parity gate: off the event loop, while the old model goes on answering.
                self._ranker = await asyncio.to_thread(Ranker, record.onnx, self._feature_set)
                self._ranker_version = record.version
                logger.info("serving %s/%s", RANKER, record.version)
            except ModelError as error:
                logger.error("%s/%s is not served: %s", RANKER, record.version, error)


def _scored(parts: dict[str, Scores], name: str) -> Scored:
    if len(parts) == 1:
        ((policy, scores),) = parts.items()
        return Scored(scores, policy, name, parts)
    # The two have different units: each is standardized within the list, then they weigh the same.
    return Scored(_blended(np.array(list(parts.values()))), "blend", name, parts)


def _blended(parts: Scores) -> Scores:
    """Mean of standardized scores, float64 `[n]`, of parts `[m, n]`; a part that tells no items apart adds nothing."""
    centred = parts - parts.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(axis=1, keepdims=True))
    blended: Scores = (centred / np.where(spread > 0, spread, 1.0)).mean(axis=0)
    return blended
