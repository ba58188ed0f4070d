"""How long loops of faults are, and what was tried."""

from collections.abc import Iterator

import pytest
from support.ledger import Ledger


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
