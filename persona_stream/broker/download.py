"""Fetch one pinned jar through jgo's HTTP client and repositories.

jgo brings the address of the central repository, the mirrors named under `[repositories]` in its own
configuration file (`jgo.conf`, tried first), `requests` with its proxy settings, and patience with
rate limits.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import requests
from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.util import http

from persona_stream.broker.jars import Jar
from persona_stream.vocabulary.errors import BrokerStartError

_ATTEMPTS = 3
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 16


def download(jar: Jar, folder: Path, on_bytes: Callable[[int], None]) -> None:
    """Put `jar` into `folder`, whole and verified or not at all.

    `on_bytes` is told how many bytes arrived, and the negative of that when an attempt is thrown away.
    Raises `BrokerStartError` when no repository gives it, or when what came is not what was pinned.
    """
    failures: list[str] = []
    for url in _urls(jar) * _ATTEMPTS:
        try:
            return _attempt(jar, url, folder, on_bytes)
        except requests.RequestException as error:
            failures.append(str(error))
    raise BrokerStartError(
        f"Could not download {jar.coordinate} for the embedded broker: {failures[-1]}.",
        hint="Check the network and proxy settings, name a mirror under [repositories] in jgo.conf, "
        f"copy {folder} from a machine that has it, or set PERSONA_KAFKA to a Kafka of your own.",
    )


def _urls(jar: Jar) -> list[str]:
    bases = [*GlobalSettings.load().repositories.values(), MAVEN_CENTRAL_URL]
    return [f"{base.rstrip('/')}/{jar.repository_path}" for base in bases]


def _attempt(jar: Jar, url: str, folder: Path, on_bytes: Callable[[int], None]) -> None:
    digest = hashlib.sha256()
    received = 0
    with _whole_file(folder / jar.filename) as file:
        try:
            for chunk in _chunks(url):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                on_bytes(len(chunk))
        except requests.RequestException:
            on_bytes(-received)
            raise
        if digest.hexdigest() != jar.sha256:
            raise BrokerStartError(
                f"{jar.coordinate} as downloaded has the SHA-256 {digest.hexdigest()}, "
                f"but {jar.sha256} is pinned; it was thrown away.",
                hint="A proxy or mirror may have altered it: try another network, and report it if it stays.",
            )


def _chunks(url: str) -> Iterator[bytes]:
    # requests looks at the first two by itself; the third is what OpenSSL, curl and uv users set.
    ca_bundle = (os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"))
    verify = next(filter(None, ca_bundle), True)
    timeout_s = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
    with http.get(url, stream=True, timeout=timeout_s, verify=verify) as response:
        response.raise_for_status()
        yield from response.iter_content(_CHUNK_BYTES)


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under `path` only when the block ends well."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
