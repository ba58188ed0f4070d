"""The embedded broker's disk full under load: nothing acknowledged is lost, and with space again all goes on."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import until
from support.disturbed import WITHIN_S, assert_state_is_exact, load_for, under_load
from support.ledger import Ledger
from support.live import MakeLive, live, prepared

from persona_stream.broker import EmbeddedBroker
from persona_stream.cli.probe import any_free_port
from persona_stream.vocabulary.errors import BrokerStartError

pytestmark = pytest.mark.faults

DISK_MIB = 256
LEFT_BYTES = 256 * 1024
"""The load writes this in a second."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode and os.environ.get("CI") != "true":
        pytest.skip(f"no right to mount: {made.stderr}")
    assert made.returncode == 0, made.stderr
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def broker(disk: Path, jar_cache: Path) -> Iterator[EmbeddedBroker]:
    """A broker on it, its jars elsewhere."""
    with EmbeddedBroker(disk, port=any_free_port(), cache_dir=jar_cache) as made:
        yield made


@pytest.fixture
def make_live(broker: EmbeddedBroker, tmp_path: Path) -> Iterator[MakeLive]:
    """Namespaces on that broker."""
    with live(broker.bootstrap, tmp_path) as make:
        yield make


def fill(disk: Path, ballast: Path) -> None:
    """Leave `LEFT_BYTES`. In two steps: a great file takes a while, in which the broker writes on."""
    with ballast.open("wb") as file:
        for left_bytes in (32 * LEFT_BYTES, LEFT_BYTES):
            held = file.seek(0, os.SEEK_END)
            os.posix_fallocate(file.fileno(), held, shutil.disk_usage(disk).free - left_bytes)


async def test_a_full_disk_ends_the_broker_which_says_so_and_with_space_again_state_is_exact(
    make_live: MakeLive, broker: EmbeddedBroker, disk: Path, fault_cycles: int, ledger: Ledger
) -> None:
    namespace = await prepared(make_live)
    times = max(1, fault_cycles // 20)
    ballast = disk / "ballast"

    async def ended() -> bool:
        return not broker.is_alive

    async with under_load(namespace, load_for(2 * times, seed=15)):
        namespace.start_worker()
        await namespace.until_goes_on()
        for _ in range(times):
            fill(disk, ballast)
            await until(ended, within_s=WITHIN_S, what="the broker ended")
            # As `up` does at once, and then ends with this error.
            await asyncio.to_thread(broker.stop)
            with pytest.raises(BrokerStartError, match="The disk is full: free some space and start again"):
                await asyncio.to_thread(broker.start)
            ballast.unlink()
            await asyncio.to_thread(broker.start)
            await namespace.until_goes_on()
    await namespace.until_applied()
    await assert_state_is_exact(namespace)
    ledger.add("the embedded broker's disk full in the middle of writes, then with space again", times)
