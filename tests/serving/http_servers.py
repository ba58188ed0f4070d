"""Servers that really listen, and a client of each."""

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from persona_stream.serving.server import build_app, listen
from persona_stream.serving.state import STATE, ServerState
from persona_stream.vocabulary.config import Settings

WAIT_S = 30.0
POLL_S = 0.05


class Server:
    """A server in this process, and a client of it: `await server.get("/v1/trending")`."""

    def __init__(self, state: ServerState, url: str, session: aiohttp.ClientSession) -> None:
        self.state = state
        self.url = url
        self._session = session

    async def ask(self, method: str, path: str, **options: object) -> aiohttp.ClientResponse:
        response = await self._session.request(method, self.url + path, **options)
        await response.read()
        return response

    async def get(self, path: str, **options: object) -> aiohttp.ClientResponse:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, body: object, **options: object) -> aiohttp.ClientResponse:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.ask("POST", path, data=data, **options)

    async def until_ready(self) -> None:
        async def ready() -> bool:
            return (await self.get("/readyz?verbose")).status == 200

        await until(ready)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until `condition` holds; fails after WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while not await condition():  # noqa: ASYNC110
            # Another process's progress can only be asked for.
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Server]:
    app = build_app(settings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await listen(runner, msgspec.structs.replace(settings, http_port=0))
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            yield Server(app[STATE], url, session)
    finally:
        await runner.cleanup()


def settings_for(kafka: str, home: Path) -> Settings:
    return Settings.load({"kafka": kafka, "namespace": f"t{uuid.uuid4().hex[:10]}", "home": home}, env={})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
