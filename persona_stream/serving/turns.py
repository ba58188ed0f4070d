"""Rank requests that came in during one turn of the event loop, answered together.

Under load several requests are read from their sockets at once. Answered one after another each would pay for some
hundreds of small array operations, and the last would wait for all before it; together they share them. A request that
is alone is answered in the next turn.
"""

import asyncio
from collections import deque

from persona_stream.serving.engine import Engine
from persona_stream.serving.schemas import Answer, RankRequest

MOST_ITEMS = 1_600
"""So many items are ranked in one go: about four milliseconds in which nothing else is read."""

Waiting = tuple[RankRequest, float, "asyncio.Future[Answer]"]
"""A request, the monotonic time when it came in, and its answer to be."""


class Turns:
    """Gathers requests until the event loop's next turn."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[Waiting] = deque()

    async def rank(self, request: RankRequest, *, started_s: float) -> Answer:
        """As `Engine.rank`, together with the requests that came at the same time. Raises what that raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._answer)
        self._waiting.append((request, started_s, answer))
        return await answer

    def _answer(self) -> None:
        together = [self._waiting.popleft()]
        items = len(together[0][0].items)
        while self._waiting and (items := items + len(self._waiting[0][0].items)) <= MOST_ITEMS:
            together.append(self._waiting.popleft())
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._answer)
        try:
            answers = self._engine.rank_all([(request, started_s) for request, started_s, _ in together])
        except Exception:
            # One that can't be answered must not take the others along.
            for one in together:
                self._answer_alone(*one)
            return
        for (_, _, waiting), answer in zip(together, answers, strict=True):
            _tell(waiting, answer)

    def _answer_alone(self, request: RankRequest, started_s: float, waiting: "asyncio.Future[Answer]") -> None:
        try:
            _tell(waiting, self._engine.rank(request, started_s=started_s))
        except Exception as error:
            if not waiting.done():
                waiting.set_exception(error)


def _tell(waiting: "asyncio.Future[Answer]", answer: Answer) -> None:
    # Whoever hung up meanwhile has cancelled it.
    if not waiting.done():
        waiting.set_result(answer)
