"""Small questions to ports and HTTP probes."""

import asyncio
import json
import socket
from typing import Any

import aiohttp
from msgspec import Struct

from persona_stream.vocabulary.errors import ConfigError

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_PORTS_TRIED = 50


class Answer(Struct, frozen=True):
    """What a probe answered. `status` 0: nothing listens there."""

    status: int
    body: dict[str, Any]


async def ask(session: aiohttp.ClientSession, url: str) -> Answer:
    """GET `url`; a body that is no JSON object counts as empty. Never raises for what the other side does."""
    try:
        async with session.get(url, timeout=_TIMEOUT) as response:
            return Answer(response.status, _json_object(await response.read()))
    except (aiohttp.ClientError, TimeoutError, OSError):
        return Answer(0, {})


def ask_once(url: str) -> Answer:
    """`ask` for code that runs no event loop."""

    async def run() -> Answer:
        async with aiohttp.ClientSession() as session:
            return await ask(session, url)

    return asyncio.run(run())


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on `host:port`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def any_free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def next_free_port(host: str, wished: int) -> int:
    """`wished`, or the first free port above it. Raises ConfigError where none of the next 50 is free."""
    for port in range(wished, min(wished + _PORTS_TRIED, 65_536)):
        if is_free(host, port):
            return port
    raise ConfigError(
        f"no free port on {host} from {wished} on.",
        hint="Set PERSONA_HTTP_PORT to one that is, or check the address.",
    )


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
