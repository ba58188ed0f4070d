"""What `evaluate` asks a server about, and how it judges the answers: lists that were shown, or sessions that began."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

import aiohttp
import numpy as np

from persona_stream.past_lists import PLACES, RULES, Measured, Numbers, PastList, measure, past_lists
from persona_stream.past_sessions import SESSION_RULES, PastSession, measure_sessions, past_sessions
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import PersonaError
from persona_stream.vocabulary.events import Event
from tables.features.plan import attribution_of


class EvaluationError(PersonaError):
    """The system under evaluation did not do what it should."""

    code = "evaluate"


Q = TypeVar("Q", PastList, PastSession)


class Asked(ABC, Generic[Q]):
    """Questions about a log, one after another in event time."""

    what: ClassVar[str]
    """What they are about, in the plural."""
    route: ClassVar[str]
    origins: ClassVar[frozenset[str]]
    """The examples that a ranker for them is trained on."""
    needs_backfill: ClassVar[bool] = False
    """Whether the stream makes none of them by itself."""

    def __init__(self, questions: Sequence[Q]) -> None:
        self.questions: Sequence[Q] = questions
        self.left_out = 0
        """How many there are of the time before."""
        self.fallbacks: dict[str, int] = {}
        """Why answers were plainer than they could be, and how often."""

    def split(self, cut_ms: float) -> bool:
        """Leave out those before a time; whether there are some on both sides."""
        self.left_out = sum(one.ts_ms < cut_ms for one in self.questions)
        self.questions = self.questions[self.left_out :]
        return self.left_out > 0 and len(self.questions) > 0

    @abstractmethod
    async def ask(self, session: aiohttp.ClientSession, one: Q) -> None:
        """Ask one, as a frontend would. Raises EvaluationError where the server does not answer."""

    @abstractmethod
    def measured(self, model: str, seed: int) -> Mapping[str, Measured]:
        """How well the answers, and simple rules, did."""

    async def _answer(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        answer: dict[str, Any] = await response.json(content_type=None)
        if response.status != HTTPStatus.OK:
            raise EvaluationError(f"{self.route} answered {response.status}: {answer}.")
        reason = answer["fallback"]
        if reason is not None:
            self.fallbacks[reason] = self.fallbacks.get(reason, 0) + 1
        return answer


class Lists(Asked[PastList]):
    """Every list shown that something was chosen from is to be ordered, just before it was shown."""

    what, route, origins = "lists", "/v1/rank", frozenset({"impression", "online"})

    def __init__(self, log: Sequence[Event], settings: Settings) -> None:
        super().__init__(past_lists(log, attribution_of(settings)))
        self._scores: list[Numbers] = []

    async def ask(self, session: aiohttp.ClientSession, one: PastList) -> None:
        """Have it ordered."""
        body = {"user": one.user, "items": one.items, "slot": one.slot, "context": one.context, "k": len(one.items)}
        async with session.post(self.route, json=body) as response:
            answer = await self._answer(response)
        place = {ranked["item"]: ranked["rank"] for ranked in answer["items"]}
        self._scores.append(-np.array([place[item] for item in one.items], dtype=np.float64))

    def measured(self, model: str, seed: int) -> Mapping[str, Measured]:
        """By what was chosen from each list."""
        ways = {model: self._scores} | {rule: [one.by_rule[rule] for one in self.questions] for rule in RULES}
        return {name: measure(self.questions, scores, seed=seed) for name, scores in ways.items()}


class Sessions(Asked[PastSession]):
    """Whenever a user begins to choose, something is to be recommended: right is what is chosen in that session."""

    what, route, origins = "sessions", "/v1/recommend", frozenset({"backfill"})
    needs_backfill = True

    def __init__(self, log: Sequence[Event], settings: Settings) -> None:
        super().__init__(past_sessions(log, settings.session_gap_ms))
        self._recommended: list[list[str]] = []

    async def ask(self, session: aiohttp.ClientSession, one: PastSession) -> None:
        """Have something recommended."""
        url = f"{self.route}/{quote(one.user, safe='')}?k={PLACES}"
        async with session.get(url) as response:
            answer = await self._answer(response)
        self._recommended.append([ranked["item"] for ranked in answer["items"]])

    def measured(self, model: str, seed: int) -> Mapping[str, Measured]:
        """By what was chosen in each session."""
        ways = {model: self._recommended}
        ways |= {rule: [one.by_rule[rule] for one in self.questions] for rule in SESSION_RULES}
        return {name: measure_sessions(self.questions, items, seed=seed) for name, items in ways.items()}
