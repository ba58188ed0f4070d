"""A namespace of its own for each test, with the tally's topics, and workers that end with the test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from support.processes import Process, start_module
from support.tally import create_topics

from persona_stream.vocabulary.config import Settings

StartTally = Callable[..., Process]
PARTITIONS = 2


@pytest.fixture
async def settings(kafka: str, tmp_path: Path) -> Settings:
    """Settings of a new namespace, its topics created."""
    made = Settings(kafka=kafka, namespace=f"s{uuid4().hex[:8]}", partitions=PARTITIONS, home=tmp_path)
    await create_topics(made)
    return made


@pytest.fixture
def start_tally(settings: Settings, tmp_path: Path) -> Iterator[StartTally]:
    """`start_tally("fold")` starts a worker, with other settings if asked; it is killed when the test ends."""
    started: list[Process] = []

    def start(mode: str = "fold", **changed: object) -> Process:
        its_own = msgspec.structs.replace(settings, **changed)
        process = start_module("support.tally", its_own, tmp_path / f"tally-{len(started)}.log", mode)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
