"""Pin the broker's jars again: `python -m persona_stream.broker.relock 4.1.2`.

Run by a maintainer when Kafka is upgraded; what it writes is reviewed and committed.
"""

import sys
from pathlib import Path

import jgo
from jgo.maven import Artifact

from persona_stream.broker.jars import BROKER_ARTIFACT, LOCK_FILE, Jar, kafka_version, read_lock, sha256_of

_HEADER = "# Kafka's broker and what it needs: group:artifact:version sha256 bytes. Written by relock.py.\n"


def resolve(version: str) -> list[Artifact]:
    """Kafka's broker of that `version` with its dependencies, and the binding that makes it log.

    The broker alone is enough: kafka-tools, which other launchers add, brings 46 jars of Connect's web server
    that nothing here loads. The binding is resolved on its own because jgo lets each of several endpoints
    manage the other's versions, and log4j's parent POM would swap kafka-clients for an older one.
    """
    broker = jgo.resolve(f"org.apache.kafka:{BROKER_ARTIFACT}:{version}")
    log4j_version = next(each.version for each in broker if each.artifactId == "log4j-core")
    binding, *_ = jgo.resolve(f"org.apache.logging.log4j:log4j-slf4j-impl:{log4j_version}")
    return [*broker, binding]


def pin(artifact: Artifact) -> Jar:
    """Download one artifact (jgo checks the repository's SHA-1) and record what came."""
    path = artifact.resolve()
    size_bytes = path.stat().st_size
    return Jar(artifact.groupId, artifact.artifactId, artifact.version, sha256_of(path), size_bytes)


def main() -> None:
    """Write the lock for the version in the first argument, or for the version locked now."""
    version = sys.argv[1] if len(sys.argv) > 1 else kafka_version(read_lock())
    jars = [pin(artifact) for artifact in resolve(version)]
    lines = [jar.line() for jar in jars]
    Path(__file__).with_name(LOCK_FILE).write_text(_HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"Kafka {version}: {len(jars)} jars, {sum(jar.size_bytes for jar in jars) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
