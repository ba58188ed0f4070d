"""Which embedded system runs for a home folder: written by `up` and `broker`, read by every other command.

So `persona-stream publish FILE` in a second terminal finds the broker of the first one without a setting.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from persona_stream.vocabulary.config import PREFIX, Settings
from persona_stream.vocabulary.errors import ConfigError

_CONNECT_TIMEOUT_S = 1.0
_ALL_INTERFACES = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared with, not bound to


class Running(Struct, frozen=True, kw_only=True):
    """A system that was started for this home: where its broker is, and its server and worker if it has them."""

    pid: int
    bootstrap: str
    url: str = ""
    worker_url: str = ""


@contextmanager
def announced(home: Path, running: Running) -> Iterator[None]:
    """Let other commands find `running` for as long as the block runs."""
    path = _path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{running.pid}")
    fresh.write_bytes(msgspec.json.encode(running))
    fresh.replace(path)
    try:
        yield
    finally:
        found = _read(path)
        if found is not None and found.pid == running.pid:
            path.unlink(missing_ok=True)


def find_running(home: Path) -> Running | None:
    """What runs for `home`, if its broker accepts connections (a killed process leaves its file behind)."""
    found = _read(_path(home))
    return found if found is not None and is_open(found.bootstrap) else None


def is_open(address: str) -> bool:
    """Whether `host:port` accepts a connection."""
    host, _, port = address.rpartition(":")
    with (
        suppress(OSError, ValueError),
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S),
    ):
        return True
    return False


def connected(settings: Settings) -> Settings:
    """Settings that name a cluster: the configured one, or this home's running embedded broker.

    Raises ConfigError where there is neither.
    """
    if settings.kafka:
        return settings
    running = find_running(settings.home)
    if running is None:
        raise ConfigError(
            f"no Kafka is known: PERSONA_KAFKA is not set and no embedded broker runs for {settings.home}.",
            hint="Start one with `persona-stream up` (or `broker`), or give --kafka HOST:PORT.",
        )
    return msgspec.structs.replace(settings, kafka=running.bootstrap)


def server_url(settings: Settings) -> str:
    """Where the server answers, as a program on this machine would ask it."""
    return _url(settings, settings.http_port)


def worker_url(settings: Settings) -> str:
    """Where the worker answers, likewise; empty where it does not."""
    return _url(settings, settings.worker_port) if settings.worker_port else ""


def _url(settings: Settings, port: int) -> str:
    host = "127.0.0.1" if settings.http_host in _ALL_INTERFACES else settings.http_host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def settings_env(settings: Settings) -> dict[str, str]:
    """The environment of a child process that is to have exactly these settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    # The suite's downloads cache is no setting, but a child needs it as much as we do.
    env |= {name: os.environ[name] for name in ("PERSONA_CACHE",) if name in os.environ}
    for name in Settings.__struct_fields__:
        value = getattr(settings, name)
        if value is not None and value != "":
            env[PREFIX + name.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    return env


def _path(home: Path) -> Path:
    return home / "run" / "running.json"


def _read(path: Path) -> Running | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
