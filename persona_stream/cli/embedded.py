"""The embedded broker of a home folder."""

import os
from pathlib import Path

from persona_stream.broker import EmbeddedBroker

BROKER_PORT = 9092
"""The port that is tried first."""


def cache_folder(home: Path) -> Path:
    """Where the broker's jars are: below `home`, or where PERSONA_CACHE says (CI shares them so)."""
    shared = os.environ.get("PERSONA_CACHE")
    return Path(shared) if shared else home / "cache"


def broker_for(home: Path, port: int = BROKER_PORT) -> EmbeddedBroker:
    """The broker of `home`, not started yet."""
    return EmbeddedBroker(home, port, cache_dir=cache_folder(home))
