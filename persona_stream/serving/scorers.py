"""The models that score: the live ranker and the online learner, kept up to date with the replica, blended."""

import asyncio
import logging
import time

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.online import OnlineScorer
from models.ranker import Ranker
from persona_stream.serving.replica import Replica
from persona_stream.vocabulary.errors import ModelError
from persona_stream.vocabulary.messages import ModelRecord
from tables.counters import Floats

RANKER = "ranker"
"""The name in the registry whose live version is served."""
MIN_ONLINE_EXAMPLES = 500
"""Below this the online learner knows less than a simple rule."""
REBUILD_S = 0.02
"""The online weights are merged again at most this often; a click acts through the user's features at once."""
WATCH_S = 0.1

logger = logging.getLogger(__name__)

Scores = NDArray[np.float64]


class Scored(Struct):
    """Scores of candidates, and what gave them."""

    scores: Scores
    policy: str
    model: str


class Scorers:
    """Scores feature rows with whatever models there are."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._ranker: Ranker | None = None
        self._ranker_version = ""
        self._registry_version = 0
        self._online = OnlineScorer([])
        self._online_version = 0
        self._online_built_s = 0.0
        self._watcher: asyncio.Task[None] | None = None

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
        names += ["online"] if online.examples >= MIN_ONLINE_EXAMPLES else []
        return "+".join(names)

    def score(self, features: Floats) -> Scored | None:
        """Scores float64 `[n]` of rows float32 `[n, F]`; None where there is no model. Raises ModelError."""
        online = self._refreshed_online()
        parts: list[Scores] = []
        policies: list[str] = []
        if self._ranker is not None:
            parts.append(self._ranker.score(features).astype(np.float64))
            policies.append(RANKER)
        if online.examples >= MIN_ONLINE_EXAMPLES:
            parts.append(online.predict(features))
            policies.append("online")
        if not parts:
            return None
        if len(parts) == 1:
            return Scored(parts[0], policies[0], self.model)
        # The two have different units: each is standardized within the list, then they weigh the same.
        return Scored(_blended(np.array(parts)), "blend", self.model)

    def _refreshed_online(self) -> OnlineScorer:
        models, now_s = self._replica.models, time.monotonic()
        if models.learner_version != self._online_version and now_s - self._online_built_s > REBUILD_S:
            self._online = OnlineScorer(models.learner.values())
            self._online_version = models.learner_version
            self._online_built_s = now_s
        return self._online

    async def _watch(self) -> None:
        while True:
            models = self._replica.models
            if models.registry_version != self._registry_version:
                self._registry_version = models.registry_version
                await self._load(models.registry.live_record(RANKER))
            await asyncio.sleep(WATCH_S)

    async def _load(self, record: ModelRecord | None) -> None:
        if record is None:
            self._ranker, self._ranker_version = None, ""
        elif record.version != self._ranker_version:
            try:
                # Loading runs the parity gate: off the event loop, while the old model goes on answering.
                self._ranker = await asyncio.to_thread(Ranker, record.onnx)
                self._ranker_version = record.version
                logger.info("serving %s/%s", RANKER, record.version)
            except ModelError as error:
                logger.error("%s/%s is not served: %s", RANKER, record.version, error)


def _blended(parts: Scores) -> Scores:
    """Mean of standardized scores, float64 `[n]`, of parts `[m, n]`; a part that tells no items apart adds nothing."""
    centred = parts - parts.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(axis=1, keepdims=True))
    blended: Scores = (centred / np.where(spread > 0, spread, 1.0)).mean(axis=0)
    return blended
