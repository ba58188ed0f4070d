"""What the documents claim about the code is so: files, links, words, tables, commands."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from doc_blocks import DOCUMENTS, ROOT, name_of
from doc_features import FEATURES, with_features
from doc_tables import OPERATIONS, with_tables

from persona_stream.cli.commands import app
from persona_stream.serving.schemas import MAX_CANDIDATES, MAX_EVENTS
from persona_stream.vocabulary.events import KINDS
from tables.features.catalogue import shipped

HOUSE_WORDS = {
    "event", "interaction", "impression", "decision", "example", "fold", "window", "watermark", "lateness", "pane",
    "changelog", "replica", "ranker", "policy", "propensity", "variant", "arm", "lag", "freshness",
    "slice", "progress record", "fallback ladder",
}  # fmt: skip

_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*|\w+\.(?:toml|lock)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Addresses, topics and what a run makes: not files of the checkout.
_MADE_BY_A_RUN = (".persona", "~/", ".venv", "/")
_NOT_FILES = re.compile(r"^(application|text)/|^ranker/|\.v1$")


def prose(path: Path) -> str:
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(prose(path))}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.finditer(prose(document)):
        target, _, anchor = link["target"].partition("#")
        if "://" in target:
            continue
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{name_of(document)} links to {link['target']}"
        if anchor:
            assert anchor in anchors(path), f"{name_of(document)} links to {link['target']}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_are_named_exist(document: Path) -> None:
    for code in _CODE.findall(prose(document)):
        if _PATH.fullmatch(code) and not code.startswith(_MADE_BY_A_RUN) and not _NOT_FILES.search(code):
            assert (ROOT / code).exists(), f"{name_of(document)} names {code}"


def test_the_glossary_defines_each_house_word_once() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    words = Counter(word.strip() for word, _ in rows[2:])
    assert set(words) >= HOUSE_WORDS
    assert set(words.values()) == {1}
    assert list(words) == sorted(words, key=str.lower)


def test_tables_that_follow_from_the_code_do() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    assert text == with_tables(text), "write them anew: python tests/docs/doc_tables.py"


def test_the_features_told_are_those_of_the_code() -> None:
    text = FEATURES.read_text(encoding="utf-8")
    assert text == with_features(text), "write them anew: python tests/docs/doc_features.py"


def test_the_readme_says_how_many_features_are_shipped() -> None:
    assert f"{len(shipped().features)} features are shipped" in (ROOT / "README.md").read_text()


def test_the_readme_lists_every_command_and_no_other() -> None:
    listed = re.findall(r"^\| `persona-stream (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(listed) == {name for name in app if not name.startswith("-")}


def test_event_types_and_bounds_are_as_told() -> None:
    started = (ROOT / "docs/getting-started.md").read_text()
    assert all(f"`{kind}`" in started for kind in KINDS)
    assert f"At most {MAX_CANDIDATES:,} items" in started
    assert f"{MAX_EVENTS:,} events a request" in (ROOT / "docs/THREAT_MODEL.md").read_text()


def test_ci_runs_the_readmes_own_test_command() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run"), "--show-test-command"], capture_output=True, text=True, check=True
    )
    command = done.stdout.strip()
    assert " pytest " in command
    assert f"<!-- test-command -->\n```bash\n{command}\n```" in (ROOT / "README.md").read_text()


def test_every_decision_record_says_what_it_must() -> None:
    records = sorted((ROOT / "docs/adr").glob("*.md"))
    assert len(records) >= 6
    for at, record in enumerate(records, start=1):
        text = record.read_text()
        assert record.name.startswith(f"{at:04}-"), record.name
        assert text.startswith(f"# {at:04}: "), record.name
        assert "\nStatus: " in text, record.name
        assert _HEADING.findall(text)[1:] == ["Context", "Decision", "Consequences"], record.name


def test_no_document_names_a_machine() -> None:
    for path in [*DOCUMENTS, *(ROOT / "docker").iterdir(), ROOT / ".ci" / "run"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(work|root|home)/|/tmp/\w", text), name_of(path)
