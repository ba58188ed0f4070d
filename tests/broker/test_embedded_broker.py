"""The embedded broker, with a real Kafka each time: what it keeps, whom it outlives, how it fails."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from persona_stream.broker import EmbeddedBroker
from persona_stream.vocabulary.errors import BrokerStartError

DEADLINE_S = 30.0
MakeBroker = Callable[[Path], EmbeddedBroker]


@pytest.fixture
def make_broker(jar_cache: Path) -> MakeBroker:
    return lambda home: EmbeddedBroker(home, port=0, cache_dir=jar_cache)


async def create_topic(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=2 << 20) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with consumer:
        consumer.assign([TopicPartition(topic, 0)])
        return [(await consumer.getone()).value for _ in range(count)]


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that only waits to be reaped has."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return state.stdout.strip() in ("", "Z", "Zs", "Zl")


def await_gone(pid: int) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_gone(pid):
        assert time.monotonic() < deadline_s, f"process {pid} still runs"
        time.sleep(0.05)


@pytest.mark.asyncio
async def test_records_come_back_as_they_were_sent(kafka: str) -> None:
    larger_than_an_event = b"x" * (1 << 20)
    await create_topic(kafka, "broker.round-trip")
    await produce(kafka, "broker.round-trip", [b"a", larger_than_an_event])
    assert await consume(kafka, "broker.round-trip", 2) == [b"a", larger_than_an_event]


@pytest.mark.asyncio
async def test_topics_keep_their_records_for_ever_unless_told_otherwise(kafka: str) -> None:
    await create_topic(kafka, "broker.retention")
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        topic = ConfigResource(ConfigResourceType.TOPIC, "broker.retention", configs={"retention.ms": None})
        [answer] = await admin.describe_configs([topic])
    finally:
        await admin.close()
    [(_, _, _, _, [(name, value, *_)])] = answer.resources
    assert (name, value) == ("retention.ms", "-1")


@pytest.mark.asyncio
async def test_data_survives_a_restart(tmp_path: Path, make_broker: MakeBroker) -> None:
    home = tmp_path / "Jürgen's, home"
    with make_broker(home) as broker:
        await create_topic(broker.bootstrap, "kept")
        await produce(broker.bootstrap, "kept", [b"1", b"2"])
        first_pid = broker.pid
    assert first_pid is not None
    assert is_gone(first_pid)

    stages: list[str] = []
    again = make_broker(home)
    again.start(lambda progress: stages.append(progress.stage))
    try:
        assert stages == ["start"]
        assert again.start() == again.bootstrap, "starting twice starts nothing"
        assert await consume(again.bootstrap, "kept", 2) == [b"1", b"2"]
    finally:
        again.stop()
    assert not again.is_alive
    assert again.pid is None


def test_a_taken_port_is_left_alone_and_a_taken_home_names_its_owner(
    tmp_path: Path, jar_cache: Path, make_broker: MakeBroker
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with EmbeddedBroker(tmp_path, port=taken, cache_dir=jar_cache) as broker:
            assert broker.bootstrap != f"127.0.0.1:{taken}"
            with pytest.raises(BrokerStartError, match=rf"in use by process {os.getpid()}\."):
                make_broker(tmp_path).start()
            assert broker.is_alive


OWNER = """
import os, sys, time
from pathlib import Path
from persona_stream.broker import EmbeddedBroker
home, cache_dir, forks = sys.argv[1:]
with EmbeddedBroker(Path(home), port=0, cache_dir=Path(cache_dir)) as broker:
    child_pid = os.fork() if forks == "True" else -1
    if child_pid:
        print(broker.pid, child_pid, flush=True)
    time.sleep(600)
"""


# A forked child inherits the guard's pipe, so that its end alone would not tell of the parent's.
@pytest.mark.parametrize(("number", "forks"), [(signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGINT, True)])
def test_kafka_ends_with_its_parent_and_leaves_no_stale_lock(
    number: signal.Signals, forks: bool, tmp_path: Path, jar_cache: Path, make_broker: MakeBroker
) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path), str(jar_cache), str(forks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        assert owner.stdout is not None
        java_pid, child_pid = map(int, owner.stdout.readline().split())
        assert not is_gone(java_pid)
        owner.send_signal(number)
    if number == signal.SIGKILL:
        # At once, while the old one is still closing its logs.
        with make_broker(tmp_path) as broker:
            assert broker.pid != java_pid
    await_gone(java_pid)
    if forks:
        os.kill(child_pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent by itself")
def test_kafka_ends_even_when_its_guard_is_killed(tmp_path: Path, make_broker: MakeBroker) -> None:
    with make_broker(tmp_path) as broker:
        java_pid = broker.pid
        assert java_pid is not None
        parent = subprocess.check_output(["ps", "-o", "ppid=", "-p", str(java_pid)], text=True)
        os.kill(int(parent), signal.SIGKILL)
        await_gone(java_pid)
        assert not broker.is_alive


def test_a_damaged_data_folder_is_an_error_with_the_log_and_advice(tmp_path: Path, make_broker: MakeBroker) -> None:
    data = tmp_path / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\ncluster.id=5L6g3nShT-eMCtK--X86sw\nnode.id=77\n")
    with pytest.raises(BrokerStartError) as caught:
        make_broker(tmp_path).start()
    assert "exit code 1" in caught.value.message
    assert "Stored node id 77" in caught.value.message, "the tail of the log tells why"
    assert str(tmp_path / "kafka" / "logs" / "kafka.log") in caught.value.message
    assert "move it away" in caught.value.hint


def test_too_little_memory_is_an_error_that_says_so(tmp_path: Path, jar_cache: Path) -> None:
    with pytest.raises(BrokerStartError, match="heap") as caught:
        EmbeddedBroker(tmp_path, cache_dir=jar_cache, heap_mb=1).start()
    assert "memory" in caught.value.hint


def test_a_start_that_is_killed_names_the_signal_and_the_next_one_works(
    tmp_path: Path, make_broker: MakeBroker
) -> None:
    broker = make_broker(tmp_path)

    def kill_java() -> None:
        while broker.pid is None:
            time.sleep(0.001)
        os.kill(broker.pid, signal.SIGKILL)

    with ThreadPoolExecutor() as pool:
        killer = pool.submit(kill_java)
        with pytest.raises(BrokerStartError, match="signal SIGKILL"):
            broker.start()
        killer.result()
    broker.start()
    broker.stop()


def test_a_home_that_cannot_be_used_is_an_error_with_advice(tmp_path: Path, make_broker: MakeBroker) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BrokerStartError, match="could not use its files") as caught:
        make_broker(tmp_path / "file").start()
    assert "PERSONA_HOME" in caught.value.hint
