"""The fenced blocks of the documentation, and what a console session in it shows."""

import doctest
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])

_FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(Struct, frozen=True):
    """One fenced block. `line` is that of its first line of content."""

    document: str
    line: int
    language: str
    body: str

    @property
    def first_line(self) -> str:
        return self.body.partition("\n")[0]

    @property
    def where(self) -> str:
        return f"{self.document}:{self.line}"


class Step(Struct, frozen=True):
    """A command of a console session, and the output shown below it."""

    command: str
    shown: str


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in their order."""
    text = path.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("body")) + 1
        yield Block(name_of(path), line, match["language"], match["body"])


def steps(session: str) -> Iterator[Step]:
    """The commands of a console block: `$ ` begins one, `> ` carries it on, all else is output."""
    command: list[str] = []
    shown: list[str] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            if command:
                yield Step("\n".join(command), "\n".join(shown))
            command, shown = [line[2:]], []
        elif line.startswith("> ") and command and not shown:
            command.append(line[2:])
        else:
            shown.append(line)
    if not command:
        raise ValueError(f"a console block without a `$ ` command: {session[:80]!r}")
    yield Step("\n".join(command), "\n".join(shown))


def matches(shown: str, printed: str) -> bool:
    """Whether the output is what is shown; `...` stands for anything, several lines included.

    >>> matches('{"id":"...","rank":1}', '{"id":"x","rank":1}')
    True
    >>> matches("a\\nd", "a\\nb\\nd")
    False
    """
    return doctest.OutputChecker().check_output(f"{shown.strip()}\n", f"{printed.strip()}\n", doctest.ELLIPSIS)
