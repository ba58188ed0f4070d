"""The way to Redis: commands go out by the pipeline and again until Redis has taken them, whatever it does meanwhile.

redis-py's own pipeline packs in Python and sets a timer for each answer: six times what the rest of the mirror costs.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog
from hiredis import pack_command
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from persona_stream.mirror import mirror_metrics
from persona_stream.mirror.scripts import SCRIPTS, Call
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError, MirrorError

TIMEOUT_S = 5.0
"""A pipeline that is not answered within this is made again, on a new connection."""
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 5.0
BATCH_CALLS = 500
FEWEST_CALLS = 8
"""A pipeline that timed out goes out again in halves, down to this: a large one may never get through a narrow way."""

NOT_YET = "not connected yet"

T = TypeVar("T")
Command = tuple[Any, ...]
_log = structlog.get_logger(__name__)
# What is in an error's name or text -> what to do. Errors inside of a script come as text alone.
_HINTS = (
    ("OOM |OutOfMemory", "It is full: raise its maxmemory, or set a shorter PERSONA_REDIS_TTL_MS."),
    ("READONLY|ReadOnly", "It is a replica: PERSONA_REDIS_URL must name the primary."),
    ("NOAUTH|WRONGPASS|Authentication", "Check the user and the password in PERSONA_REDIS_URL."),
    ("NOPERM|NoPermission", "Its user needs EVALSHA, SCRIPT LOAD, SCAN and commands on hashes below the namespace."),
    ("LOADING|BusyLoading", "It is reading its data back."),
    ("MISCONF", "It can't save its data: see its log and its disk."),
    ("MOVED|CROSSSLOT|ClusterDown|CLUSTERDOWN", "It is a node of a cluster, which is not supported."),
    ("TimeoutError", "It is too slow, or the network is: look at its SLOWLOG and load."),
    ("ResponseError", "It refuses what the mirror asks: see its log."),
    ("", "Is it running, and is the address in PERSONA_REDIS_URL right?"),
)


class RedisLink:
    """Redis as the mirror uses it. `error` says why it can't be used just now; empty while it can."""

    def __init__(self, settings: Settings, *, patience_s: float = float("inf")) -> None:
        """`patience_s`: after so long without success MirrorError is raised. Raises ConfigError for a malformed URL."""
        if not settings.redis_url:
            raise ConfigError("no Redis is known.", hint="Set PERSONA_REDIS_URL, such as redis://127.0.0.1:6379/0.")
        try:
            # A connection that the deadline of each pipeline watches over, and no retries but those below.
            unbounded = {"socket_timeout": None, "socket_connect_timeout": None, "retry": Retry(NoBackoff(), 0)}
            pool = ConnectionPool.from_url(settings.redis_url, decode_responses=True, **unbounded)
            self._connection: Connection = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's gap
        except ValueError as error:
            raise ConfigError(f"PERSONA_REDIS_URL can't be used: {error}.") from None
        self._patience_s = patience_s
        self._batch_calls = BATCH_CALLS
        self.error = NOT_YET
        self._advised = ""

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.disconnect(nowait=True)

    async def run(self, calls: Sequence[Call]) -> list[int]:
        """Make the calls, in order, each at least once; what each returned."""
        answers: list[int] = []
        while len(answers) < len(calls):
            answers += await self._until_taken(partial(self._pipeline, calls, len(answers)))
        return answers

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands that may be repeated."""
        return await self._until_taken(partial(self._commands, commands))

    async def _pipeline(self, calls: Sequence[Call], start: int) -> list[int]:
        batch = calls[start : start + self._batch_calls]
        answers = await self._commands([("EVALSHA", call.sha, 1, call.key, *call.arguments) for call in batch])
        self._batch_calls = min(BATCH_CALLS, self._batch_calls + self._batch_calls // 8 + 1)
        return answers

    async def _commands(self, commands: Sequence[Command]) -> list[Any]:
        """One pipeline. Whatever goes wrong in it, the connection is not used again: answers may still be coming."""
        connection = self._connection
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await connection.connect()  # type: ignore[no-untyped-call]  # the same
                await connection.send_packed_command(
                    b"".join(pack_command(command) for command in commands), check_health=False
                )
                return [await connection.read_response() for _ in commands]
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise RedisTimeoutError(f"no answer within {TIMEOUT_S:g} s") from None
        except RuntimeError as error:
            # How uvloop says that the other side has closed the connection since.
            await connection.disconnect(nowait=True)
            raise RedisConnectionError(str(error)) from None
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def _until_taken(self, attempt: Callable[[], Awaitable[T]]) -> T:
        retry_s, began_s = FIRST_RETRY_S, time.monotonic()
        while True:
            try:
                answer = await attempt()
            except NoScriptError:
                # A Redis that is new, or was started again.
                await self._until_taken(self._load_scripts)
            except (RedisError, OSError) as error:
                self._note(error, waited_s=time.monotonic() - began_s)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
            else:
                if self.error not in {"", NOT_YET}:
                    _log.info("Redis takes writes again")
                self.error = self._advised = ""
                mirror_metrics.CONNECTED.set(1)
                return answer

    async def _load_scripts(self) -> None:
        await self._commands([("SCRIPT", "LOAD", script.text) for script in SCRIPTS])

    def _note(self, error: Exception, *, waited_s: float) -> None:
        mirror_metrics.RETRIES.inc()
        mirror_metrics.CONNECTED.set(0)
        if isinstance(error, RedisTimeoutError):
            self._batch_calls = max(FEWEST_CALLS, self._batch_calls // 2)
        said, hint = explain(error)
        if waited_s > self._patience_s:
            raise MirrorError(f"Redis can't be written: {said}.", hint=hint) from error
        # Said once, not at every try of an outage that may last for hours.
        if hint != self._advised:
            _log.warning("Redis can't be written; trying again until it can", error=said, hint=hint)
        self.error, self._advised = said, hint


def explain(error: Exception) -> tuple[str, str]:
    """What a Redis error says, and what to do about it.

    >>> explain(RedisError("Error running script: -OOM command not allowed when used memory > 'maxmemory'."))[1]
    'It is full: raise its maxmemory, or set a shorter PERSONA_REDIS_TTL_MS.'
    """
    said = f"{type(error).__name__}: {error}".rstrip(".")
    return said, next(hint for known, hint in _HINTS if re.search(known, said))
