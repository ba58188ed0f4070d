"""Shared: a namespace for each test, and a ready server on it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_servers import Server, serving, settings_for

from persona_stream.vocabulary.config import Settings


@pytest.fixture
def settings(kafka: str, tmp_path: Path) -> Settings:
    """Settings with a namespace of this test's own."""
    return settings_for(kafka, tmp_path)


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Server]:
    """A ready server on an empty namespace."""
    async with serving(settings) as running:
        await running.until_ready()
        yield running
