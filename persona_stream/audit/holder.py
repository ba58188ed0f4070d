"""Asking a worker or a server what it holds."""

from collections.abc import AsyncIterator, Collection
from typing import Literal, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from persona_stream.holdings.digests import MovedError, Step
from persona_stream.holdings.routes import (
    ALL_PARTITIONS,
    LISTED,
    BucketsAnswer,
    EntryAnswer,
    HoldingsAnswer,
    HoldingView,
)
from persona_stream.vocabulary.errors import PersonaError

_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=60.0)
_OK, _UNAVAILABLE, _NOT_FOUND = 200, 503, 404
_END = b"{}"

T = TypeVar("T")


class HolderError(PersonaError):
    """A process does not answer, or not as it should."""

    code = "not-reached"


class Place(Struct, frozen=True):
    """Where a process answers."""

    kind: Literal["worker", "server"]
    url: str

    def __str__(self) -> str:
        return f"{self.kind} {self.url}"


class Holder:
    """One process. Every call raises HolderError where it does not answer, MovedError where it holds it no longer."""

    def __init__(self, place: Place, session: aiohttp.ClientSession) -> None:
        self.place = place
        self._session = session

    async def holdings(self) -> HoldingsAnswer:
        """Everything that it holds."""
        return await self._get(LISTED, HoldingsAnswer)

    async def buckets(self, view: HoldingView) -> BucketsAnswer:
        """Digests of a holding by bucket."""
        return await self._get(f"{_path(view)}/buckets", BucketsAnswer)

    async def entry(self, view: HoldingView, key: str) -> EntryAnswer:
        """One key of a holding."""
        return await self._get(f"{_path(view)}/entry", EntryAnswer, {"key": key})

    async def entries(self, view: HoldingView, buckets: Collection[int]) -> AsyncIterator[Step]:
        """Keys and digests of some buckets, as they are read."""
        wanted = {"buckets": ",".join(map(str, sorted(buckets)))}
        try:
            async with self._request(f"{_path(view)}/entries", wanted) as answer:
                _check(answer, self.place)
                async for line in answer.content:
                    if line.strip() == _END:
                        return
                    yield msgspec.json.decode(line, type=Step)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._not_reached(error) from error
        raise MovedError

    async def _get(self, path: str, kind: type[T], query: dict[str, str] | None = None) -> T:
        try:
            async with self._request(path, query or {}) as answer:
                _check(answer, self.place)
                return msgspec.json.decode(await answer.read(), type=kind)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
            raise self._not_reached(error) from error

    def _request(self, path: str, query: dict[str, str]) -> "aiohttp.client._RequestContextManager":
        return self._session.get(self.place.url + path, params=query, timeout=_TIMEOUT)

    def _not_reached(self, error: Exception) -> HolderError:
        return HolderError(f"{self.place} does not answer: {error or error!r}.")


def _path(view: HoldingView) -> str:
    return f"{LISTED}/{view.table}/{ALL_PARTITIONS if view.partition is None else view.partition}"


def _check(answer: aiohttp.ClientResponse, place: Place) -> None:
    if answer.status == _UNAVAILABLE or (answer.status == _NOT_FOUND and not answer.url.path.endswith(LISTED)):
        raise MovedError
    if answer.status != _OK:
        raise HolderError(f"{place} answers {answer.status} to {answer.url.path}.", hint="Is it of this version?")
