"""What the whole suite shares: a real Kafka and a real Redis, each started when the first test asks for it, and
namespaces with workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live import MakeLive, live
from support.processes import Process, StartMirror, start_mirror
from support.redis_server import RedisServer

from persona_stream.broker import EmbeddedBroker
from persona_stream.vocabulary.config import Settings


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the loops of faults are, and where they are told."""
    parser.addoption("--fault-cycles", default=10, help="faults in each loop of tests/faults (default 10)")
    parser.addoption("--write-reliability", action="store_true", help="put the faults tried into docs/reliability.md")


@pytest.fixture(scope="session")
def jar_cache() -> Path:
    """The folder that keeps Kafka's jars between runs: the one the demo uses as well."""
    return Path(__file__).parents[1] / ".persona" / "cache"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, jar_cache: Path) -> Iterator[str]:
    """Bootstrap address (`127.0.0.1:PORT`) of this session's Kafka; each test names its own topics."""
    with EmbeddedBroker(tmp_path_factory.mktemp("kafka"), port=0, cache_dir=jar_cache) as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """This session's Redis; each test writes below its own namespace and flushes nothing."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def make_live(kafka: str, tmp_path: Path) -> Iterator[MakeLive]:
    """`make_live()` gives a new namespace; its workers end with the test."""
    with live(kafka, tmp_path) as make:
        yield make


@pytest.fixture
def run_mirror(tmp_path: Path) -> Iterator[StartMirror]:
    """`run_mirror(settings)` starts one more mirror; all are killed when the test ends."""
    started: list[Process] = []

    def start(settings: Settings) -> Process:
        started.append(start_mirror(settings, tmp_path / f"mirror-{len(started)}.log"))
        return started[-1]

    yield start
    for process in started:
        process.kill()
