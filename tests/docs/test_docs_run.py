"""Every block of the documentation is what it says: commands and programs run, data parses."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml
from doc_blocks import DOCUMENTS, ROOT, Block, blocks, matches, name_of, steps
from doc_system import System

# Nothing is left out in silence: these blocks are not run here, for the reason given.
_TAKES_LONG = "the benchmarks take minutes to an hour; tests/benchmarks runs their parts"
_NO_ENGINE = "there is no container engine here; test_docker.py checks what it would read"
NOT_RUN = {
    ("README.md", "python3 -m pip install uv && python3 -m uv run --no-dev persona-stream demo"): (
        "it installs into the machine's own Python; test_demo.py runs what follows the installation"
    ),
    (
        "README.md",
        "python3 -m uv run pytest -n 2 --dist loadfile",
    ): "it is this suite; .ci/run takes the command from there",
    (
        "docs/reliability.md",
        "python3 -m uv run pytest tests/faults --fault-cycles 200 --timeout 7200 --write-reliability",
    ): ("it takes hours; its short form is part of this suite"),
    ("docs/redis.md", "PERSONA_REDIS_URL=redis://127.0.0.1:6379/0 persona-stream mirror"): (
        "it runs until it is stopped; tests/mirror runs the role against a real Redis"
    ),
    ("docs/operations.md", "export PERSONA_KAFKA=kafka:9092 PERSONA_REDIS_URL=redis://redis:6379/0"): _NO_ENGINE,
}
"""(document, first line of the block) -> why."""
NOT_RUN_DOCUMENTS = {"benchmarks/README.md": _TAKES_LONG}
RUNNING = "persona-stream up"
"""The command that the `system` fixture runs for as long as the documents are tried."""
TEXT = {"text", "mermaid"}
"""Pictures and output of programs that another test runs."""

SYSTEM_PARTS = ("curl", "kcat")
"""What commands of the documents use beside Python. CI has them."""
EXECUTED = {"bash", "console", "python"}
PARSED = {"json", "toml", "yaml"}


def all_blocks() -> list[Block]:
    return [block for path in DOCUMENTS for block in blocks(path)]


def is_run(block: Block) -> bool:
    known = (block.document, block.first_line) in NOT_RUN or block.first_line == RUNNING
    return block.language in EXECUTED and not known and block.document not in NOT_RUN_DOCUMENTS


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if any(map(is_run, blocks(path)))], ids=name_of)
def test_commands_and_programs_do_what_is_shown(document: Path, system: System) -> None:
    missing = {part for part in SYSTEM_PARTS if shutil.which(part) is None}
    assert not (missing and os.environ.get("CI") == "true"), f"CI must install {missing}"
    left_out: list[str] = []
    for block in filter(is_run, blocks(document)):
        if any(part in block.body for part in missing):
            left_out.append(block.where)
            continue
        failure = run(block, system)
        assert failure is None, f"{block.where}: {failure}"
    if left_out:
        pytest.skip(f"without {missing}, these blocks were not run: {left_out}")


def run(block: Block, system: System) -> str | None:
    """None if the block does what it shows, else what was wrong."""
    if block.language == "bash":
        return system.run_shell(block.body)
    if block.language == "python":
        return system.run_python(block.body)
    return next(filter(None, map(system.run_step, steps(block.body))), None)


@pytest.mark.parametrize("block", [b for b in all_blocks() if b.language in PARSED], ids=lambda block: block.where)
def test_data_parses(block: Block) -> None:
    match block.language:
        case "json":
            assert json.loads(block.body)
        case "toml":
            assert tomllib.loads(block.body)
        case "yaml":
            assert yaml.safe_load(block.body)


def test_every_block_says_what_it_is() -> None:
    unknown = [b.where for b in all_blocks() if b.language not in EXECUTED | PARSED | TEXT]
    assert not unknown, f"blocks without a language that is tested: {unknown}"


def test_every_fence_of_a_document_is_read_as_a_block() -> None:
    for path in DOCUMENTS:
        fences = sum(line.lstrip().startswith("```") for line in path.read_text(encoding="utf-8").splitlines())
        assert fences == 2 * len(list(blocks(path))), f"{name_of(path)}: a fence is not closed, or is indented"


def test_what_is_not_run_is_still_there() -> None:
    there = {(block.document, block.first_line) for block in all_blocks()}
    assert set(NOT_RUN) <= there
    assert set(NOT_RUN_DOCUMENTS) <= {document for document, _ in there}
    assert any(block.first_line == RUNNING for block in all_blocks())


def test_output_that_differs_is_noticed() -> None:
    assert not matches('{"accepted":1,"rejected":[]}', '{"accepted":0,"rejected":[]}')
    session = "$ cat <<X\n> line\n> X\nline\n$ true\n"
    assert [(step.command, step.shown) for step in steps(session)] == [("cat <<X\nline\nX", "line"), ("true", "")]


def test_the_documents_that_are_tried_are_there() -> None:
    names = {name_of(path) for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/getting-started.md", "docs/operations.md"} <= names
    assert all(path.is_relative_to(ROOT) for path in DOCUMENTS)
