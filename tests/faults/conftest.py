"""Namespaces of their own with real workers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.live import Live, live


@pytest.fixture
def make_live(kafka: str, tmp_path: Path) -> Iterator[Callable[[], Live]]:
    """`make_live()` gives a new namespace; its workers end with the test."""
    with live(kafka, tmp_path) as make:
        yield make
