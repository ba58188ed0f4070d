"""A changelog larger than the memory of who keeps it and of who reads it back, none of it in the page cache."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from support.cluster import alter_topic
from support.ledger import Ledger
from support.processes import start_module
from support.tally import changelog, create_topics, until_counted, write_versions

from persona_stream.broker import EmbeddedBroker
from persona_stream.cli.probe import any_free_port
from persona_stream.vocabulary.config import Settings

pytestmark = pytest.mark.faults

HEAP_MB = 128
"""Of the broker."""
VALUE_BYTES = 16 * 1024
KEYS = 1_000
VERSIONS = 26
"""Of each key: 406 MiB in the log, of which 16 MiB are the newest values."""
LEAST_LOG_BYTES = 3 * HEAP_MB << 20
MORE_BYTES = 64 << 20
"""What reading it may take at most, beyond a worker with nothing to read: the values held, and fetches on their way."""


@pytest.fixture
def broker(tmp_path: Path, jar_cache: Path) -> Iterator[EmbeddedBroker]:
    """A broker with little memory."""
    with EmbeddedBroker(tmp_path, port=any_free_port(), cache_dir=jar_cache, heap_mb=HEAP_MB) as made:
        yield made


async def test_a_changelog_larger_than_all_caches_is_read_back_within_the_memory_of_its_values(
    broker: EmbeddedBroker, tmp_path: Path, ledger: Ledger
) -> None:
    empty, large = await _namespace(broker, tmp_path, "empty"), await _namespace(broker, tmp_path, "large")
    await write_versions(large, keys=KEYS, versions=VERSIONS, value_bytes=VALUE_BYTES)
    segments = list((tmp_path / "kafka" / "data").glob(f"{changelog(large)}-0/*.log"))
    assert sum(segment.stat().st_size for segment in segments) > LEAST_LOG_BYTES
    for segment in segments:
        _drop_from_cache(segment)
    peaks = {settings.namespace: await _peak_bytes(settings) for settings in (empty, large)}
    assert peaks[large.namespace] - peaks[empty.namespace] < MORE_BYTES
    ledger.add(f"a changelog of {LEAST_LOG_BYTES >> 20} MiB (three times the broker's heap) read back from disk", 1)


async def _namespace(broker: EmbeddedBroker, folder: Path, name: str) -> Settings:
    home = folder / name
    home.mkdir()
    settings = Settings(kafka=broker.bootstrap, namespace=f"{name}{uuid4().hex[:8]}", partitions=1, home=home)
    await create_topics(settings)
    # Compacted it would be small.
    await alter_topic(settings.kafka, changelog(settings), {"cleanup.policy": "delete"})
    return settings


def _drop_from_cache(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


async def _peak_bytes(settings: Settings) -> int:
    """Have a worker read its state back and count on; the most memory it had."""
    worker = start_module("support.tally", settings, settings.home / "tally.log", "fold")
    try:
        await until_counted(settings, worker)
        return worker.peak_bytes()
    finally:
        worker.kill()
