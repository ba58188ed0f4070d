"""Jars come whole and as pinned, or not at all: against a real HTTP server that misbehaves."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from persona_stream.broker import Progress
from persona_stream.broker.download import download
from persona_stream.broker.install import install
from persona_stream.broker.jars import Jar, kafka_version, parse_lock, read_lock
from persona_stream.vocabulary.errors import BrokerStartError

JARS = {jar.artifact: jar for jar in read_lock()}
SMALL, OTHER = JARS["jspecify"], JARS["jackson-core"]


class Mirror(ThreadingHTTPServer):
    """A Maven repository on the loopback interface that serves the cached jars.

    `cut` names jars whose first answer breaks off half-way, `forged` those that are altered.
    """

    daemon_threads = True

    def __init__(self, jars: Path) -> None:
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.jars = jars
        self.cut: set[str] = set()
        self.forged: set[str] = set()
        self.served: list[str] = []


class MirrorHandler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        content = (self.server.jars / name).read_bytes()
        self.server.served.append(name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if name in self.server.cut:
            self.server.cut.remove(name)
            content = content[: len(content) // 2]
        if name in self.server.forged:
            content = bytes(len(content))
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture(scope="module")
def jars(jar_cache: Path) -> Path:
    """The folder of the verified jars, downloaded once a machine."""
    return install(jar_cache)[0].parent


@pytest.fixture
def mirror(jars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with Mirror(jars) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        config = tmp_path / "jgo.conf"
        config.write_text(f"[repositories]\nmirror = http://127.0.0.1:{server.server_port}/maven2\n")
        monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
        yield server
        server.shutdown()


@pytest.fixture
def cache(jars: Path, tmp_path: Path) -> Path:
    """A cache of its own that holds all jars."""
    shutil.copytree(jars, tmp_path / "cache" / jars.name)
    return tmp_path / "cache"


def test_a_tampered_and_a_missing_jar_are_fetched_again(mirror: Mirror, cache: Path) -> None:
    folder = cache / f"kafka-{kafka_version(read_lock())}"
    (folder / SMALL.filename).write_bytes(bytes(SMALL.size_bytes))
    (folder / OTHER.filename).unlink()
    steps: list[Progress] = []

    class_path = install(cache, steps.append)

    assert [path.name for path in class_path] == [jar.filename for jar in read_lock()]
    assert sorted(mirror.served) == sorted([SMALL.filename, OTHER.filename])
    assert all(jar.is_intact(folder) for jar in (SMALL, OTHER))
    total_bytes = SMALL.size_bytes + OTHER.size_bytes
    assert steps[0] == Progress("install", 0, total_bytes)
    assert steps[-1] == Progress("install", total_bytes, total_bytes)


def test_a_whole_cache_asks_nobody(mirror: Mirror, cache: Path) -> None:
    install(cache)
    assert mirror.served == []


def test_a_broken_off_download_is_tried_again_and_its_bytes_are_not_counted(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cut.add(OTHER.filename)
    counts: list[int] = []
    download(OTHER, tmp_path, counts.append)
    assert OTHER.is_intact(tmp_path)
    assert sum(counts) == OTHER.size_bytes
    assert min(counts) < 0


def test_a_forged_jar_is_refused_and_leaves_nothing(mirror: Mirror, tmp_path: Path) -> None:
    mirror.forged.add(SMALL.filename)
    target = tmp_path / "jars"
    target.mkdir()
    with pytest.raises(BrokerStartError, match=f"{SMALL.coordinate} .* {SMALL.sha256} is pinned"):
        download(SMALL, target, lambda _: None)
    assert list(target.iterdir()) == []


def test_a_jar_that_nobody_gives_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persona_stream.broker.download.MAVEN_CENTRAL_URL", "http://127.0.0.1:9")
    with pytest.raises(BrokerStartError, match=f"Could not download {SMALL.coordinate}") as caught:
        download(SMALL, tmp_path, lambda _: None)
    assert "PERSONA_KAFKA" in caught.value.hint


def test_the_lock_reads_as_it_was_written() -> None:
    jar = Jar("org.example", "thing", "1.2", "ab" * 32, 7)
    assert parse_lock(f"# a comment\n{jar.line()}\n") == [jar]
    assert jar.repository_path == "org/example/thing/1.2/thing-1.2.jar"
    assert replace(jar, version="2").filename == "thing-2.jar"
    with pytest.raises(ValueError, match="unpack"):
        parse_lock("org.example:thing ab 7")
