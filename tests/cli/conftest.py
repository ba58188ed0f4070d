"""Shared: a namespace for each test on the suite's Kafka, and the command as users run it."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from persona_stream.cli.cluster import create_topics
from persona_stream.cli.main import main
from persona_stream.vocabulary.config import Settings

Run = Callable[..., subprocess.CompletedProcess[str]]
ReadAll = Callable[[str], list[ConsumerRecord]]
Call = Callable[..., "Called"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder that `run` uses."""
    return tmp_path / "home"


@pytest.fixture
def env(home: Path, jar_cache: Path) -> dict[str, str]:
    """This process's environment with no settings but a home of its own, and the suite's download cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PERSONA_")}
    return kept | {"PERSONA_HOME": str(home), "PERSONA_CACHE": str(jar_cache)}


@pytest.fixture
def settings(kafka: str, home: Path) -> Settings:
    """A namespace of this test's own, its topics created."""
    made = Settings.load({"kafka": kafka, "namespace": f"t{uuid.uuid4().hex[:10]}", "home": home}, env={})
    asyncio.run(create_topics(made))
    return made


@pytest.fixture
def run(env: dict[str, str]) -> Run:
    """`run("publish", "-", settings=..., stdin=..., PERSONA_X=...)`: the command in a process of its own."""

    def run_command(
        *arguments: str, settings: Settings | None = None, stdin: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "persona_stream", *arguments, *_flags(settings)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=env | variables,
        )

    return run_command


@dataclass(frozen=True)
class Called:
    """What a command that was called in this process did: as `subprocess.CompletedProcess` has it."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """As `run`, but in this process: quicker, for commands that need no process of their own."""

    def call_command(*arguments: str, settings: Settings | None = None, **variables: str) -> Called:
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("PERSONA_")]:
                patch.delenv(name)
            for name, value in (env | variables).items():
                patch.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main([*arguments, *_flags(settings)])
        assert isinstance(ended.value.code, int)
        return Called(ended.value.code, *capsys.readouterr())

    return call_command


@pytest.fixture
def read_all(settings: Settings) -> ReadAll:
    """`read_all(topic)`: every record of a topic, partition by partition, in offset order."""

    async def read(topic: str) -> list[ConsumerRecord]:
        consumer = AIOKafkaConsumer(**settings.kafka_client())
        await consumer.start()
        try:
            places = [TopicPartition(topic, partition) for partition in range(settings.partitions)]
            return [record for place in places for record in await _partition(consumer, place)]
        finally:
            await consumer.stop()

    return lambda topic: asyncio.run(read(topic))


def _flags(settings: Settings | None) -> list[str]:
    return [] if settings is None else ["--kafka", settings.kafka, "--namespace", settings.namespace]


async def _partition(consumer: AIOKafkaConsumer, place: TopicPartition) -> list[ConsumerRecord]:
    consumer.assign([place])
    await consumer.seek_to_beginning(place)
    end = (await consumer.end_offsets([place]))[place]
    found: list[ConsumerRecord] = []
    while await consumer.position(place) < end:
        found += [record for records in (await consumer.getmany(timeout_ms=500)).values() for record in records]
    return found
