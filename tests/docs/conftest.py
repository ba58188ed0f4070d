"""One running system for all documents, read in the order in which a newcomer reads them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_system import System, running_system


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, jar_cache: Path) -> Iterator[System]:
    """What `persona-stream up` starts, and the folder where the documents' commands are typed."""
    with running_system(tmp_path_factory.mktemp("docs"), jar_cache) as running:
        yield running
