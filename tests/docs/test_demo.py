"""The README's first command, on a small share of its data: from nothing to an answer that follows a click."""

import re
import subprocess
from pathlib import Path

from doc_blocks import ROOT, blocks
from doc_system import clean_env

DEMO_S = 240.0


def test_the_demo_streams_trains_serves_and_shows_an_answer_change(tmp_path: Path, jar_cache: Path) -> None:
    command = next(b.first_line for b in blocks(ROOT / "README.md") if b.first_line.endswith("persona-stream demo"))
    demo = command.rpartition("--no-dev ")[2].split()
    done = subprocess.run(
        [*demo, "--once", "--events", "8000"],
        cwd=tmp_path,
        env=clean_env(tmp_path, jar_cache),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEMO_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\d) ", done.stdout, re.MULTILINE)[:4] == ["1", "2", "3", "4"]
    for told in (
        r"[\d,]+ events/s",
        r"AUC 0\.\d",
        r"this ranker\s+0\.\d",
        r"ranker/v1\+online",
        r"changed \d+ ms after",
    ):
        assert re.search(told, done.stdout), f"{told} is not in:\n{done.stdout}"
