"""The pinned jars that make up the broker: `jars.lock`, one jar a line.

    group:artifact:version sha256 bytes

The order is the order of the class path. `python -m persona_stream.broker.relock` writes the file.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

LOCK_FILE = "jars.lock"
BROKER_ARTIFACT = "kafka_2.13"


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned Maven artifact."""

    group: str
    artifact: str
    version: str
    sha256: str
    size_bytes: int

    @property
    def coordinate(self) -> str:
        """`group:artifact:version`, as Maven writes it."""
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def filename(self) -> str:
        """Its name in the repository and in the cache."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def repository_path(self) -> str:
        """Its path below the root of any Maven 2 repository."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.filename}"

    def line(self) -> str:
        """The jar as a line of the lock file."""
        return f"{self.coordinate} {self.sha256} {self.size_bytes}"

    def is_intact(self, folder: Path) -> bool:
        """Whether `folder` holds exactly the pinned bytes."""
        path = folder / self.filename
        return path.is_file() and path.stat().st_size == self.size_bytes and sha256_of(path) == self.sha256


def sha256_of(path: Path) -> str:
    """The hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_lock(text: str) -> list[Jar]:
    """The jars of a lock file's text, in class path order; raises `ValueError` at a malformed line."""
    return [_parse_line(line) for line in text.splitlines() if line and not line.startswith("#")]


def read_lock() -> list[Jar]:
    """The jars that this version of persona-stream runs."""
    return parse_lock(files(__package__).joinpath(LOCK_FILE).read_text(encoding="utf-8"))


def kafka_version(jars: list[Jar]) -> str:
    """The version of Kafka among `jars`."""
    return next(jar.version for jar in jars if jar.artifact == BROKER_ARTIFACT)


def _parse_line(line: str) -> Jar:
    coordinate, sha256, size_bytes = line.split()
    group, artifact, version = coordinate.split(":")
    return Jar(group, artifact, version, sha256, int(size_bytes))
