"""Namespaces of their own with real workers, how long loops are, and what was tried."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.ledger import Ledger
from support.live import Live, live


@pytest.fixture
def make_live(kafka: str, tmp_path: Path) -> Iterator[Callable[[], Live]]:
    """`make_live()` gives a new namespace; its workers end with the test."""
    with live(kafka, tmp_path) as make:
        yield make


@pytest.fixture
def fault_cycles(request: pytest.FixtureRequest) -> int:
    """How many faults the loops go through."""
    return int(request.config.getoption("--fault-cycles"))


@pytest.fixture(scope="session")
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """What was tried; written to docs/reliability.md at the end of a session that is asked to."""
    tried = Ledger()
    yield tried
    if request.config.getoption("--write-reliability") and not request.session.testsfailed:
        tried.write()
