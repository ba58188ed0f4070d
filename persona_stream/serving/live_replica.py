"""The replica that answers are made from: one generation of each table at a time, changed in one step.

Another generation is read beside the one that is served. It takes over once all of it is read, and it has come at least
as far: so no request fails, and no answer goes back in time. See docs/adr/0009-generations.md.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from persona_stream.kafka.admin import ensure_topics
from persona_stream.kafka.generations import GenerationLog, History
from persona_stream.serving.replica import Replica
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.topics import FIRST_GENERATION, SERVED_TABLES

LOOK_S = 0.02
"""How often it is looked whether another generation has come as far: with events flowing, both move."""
RETRY_S = 5.0

logger = logging.getLogger(__name__)


class LiveReplica:
    """Keeps `replica` on the live generations; `take_over` is told of each new one in the same step."""

    def __init__(self, settings: Settings, take_over: Callable[[Replica], None]) -> None:
        self._settings = settings
        self._take_over = take_over
        self.replica = Replica(settings)
        self.coming: Replica | None = None
        """Another generation that is being read; None while there is nothing to change over to."""
        self._log: GenerationLog | None = None
        self._follower: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._error: BaseException | None = None

    @property
    def error(self) -> BaseException | None:
        """Why reading ended, None while it goes on."""
        return self._error or self.replica.error

    async def start(self) -> None:
        """Connect and begin to read. Raises aiokafka's errors where no broker answers."""
        self._error = None
        await ensure_topics(self._settings)
        self._log = GenerationLog(self._settings)
        await self._log.start()
        if not self.replica.has_caught_up:
            self._change_to(self._wanted(self._log.history))
        # What is served is read on, even if another generation is live by now: that is changed to as ever.
        await self.replica.start()
        if self._settings.generation:
            return
        self._follower = asyncio.create_task(self._follow(self._log))
        self._follower.add_done_callback(self._note_failure)

    def _wanted(self, history: History) -> Replica:
        """The live generation, or that of the settings: what it lacks is the live one. Raises GenerationError."""
        number = self._settings.generation
        if not number:
            return Replica(self._settings, history.live())
        if number == FIRST_GENERATION:
            return Replica(self._settings)
        built = history.generation(number)
        return Replica(self._settings, history.live() | dict.fromkeys(built.tables, number), built.until_ms)

    async def stop(self) -> None:
        """Stop reading; what is held stays and can still be asked."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        stopping: list[Awaitable[None]] = [self.replica.stop()]
        if self._log is not None:
            stopping.append(self._log.stop())
        if self._retiring is not None:
            stopping.append(self._retiring)
        await asyncio.gather(*stopping, return_exceptions=True)

    async def _follow(self, log: GenerationLog) -> None:
        history = log.history
        while True:
            changing = asyncio.create_task(self._change_over(history))
            try:
                history = await log.changed()
            finally:
                changing.cancel()
                await asyncio.gather(changing, return_exceptions=True)

    async def _change_over(self, history: History) -> None:
        """Read what is live and change to it; tries again until that is done."""
        while _served(history) != self.replica.generations:
            coming = self.coming = Replica(self._settings, history.live())
            try:
                await coming.start()
                while not (coming.has_caught_up and _is_as_far(coming, self.replica)):
                    if coming.error is not None:
                        raise coming.error
                    await asyncio.sleep(LOOK_S)
                before = self.replica
                self._change_to(coming)
                logger.info("answers are made from generations %s now", coming.generations)
                # A task of its own: yet another change must not leave it reading.
                self._retiring = asyncio.create_task(before.stop())
            except Exception as error:
                logger.warning("generations %s can't be read yet: %r", coming.generations, error)
                await asyncio.sleep(RETRY_S)
            finally:
                self.coming = None
                if self.replica is not coming:
                    await coming.stop()

    def _change_to(self, replica: Replica) -> None:
        self.replica = replica
        self._take_over(replica)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._error = task.exception()
            logger.error("generations are not followed any more", exc_info=self._error)


def _served(history: History) -> dict[str, int]:
    live = history.live()
    return {table: live[table] for table in SERVED_TABLES}


def _is_as_far(coming: Replica, served: Replica) -> bool:
    """Whether a replica knows of everything that another one knows of."""
    for name, view in served.tables.items():
        reached = coming.tables[name].progress
        for partition, progress in view.progress.items():
            if partition not in reached or reached[partition].offset < progress.offset:
                return False
    return True
