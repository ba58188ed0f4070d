"""Where the keys of a TOML document stand: tomllib does not tell it."""

import re
import tomllib

Path = tuple[str | int, ...]
"""Keys from the outermost inward; of an array's elements, their indices."""

_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_BARE = re.compile(r"[\w-]+", re.ASCII)
_QUOTED = re.compile(r"""'''.*?'''{1,3}|\"""(?:\\.|[^\\])*?\"""{1,3}|"(?:\\.|[^"\\])*"|'[^']*'""", re.DOTALL)
_BARE_VALUE = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[Path, int]:
    """The 1-based line of each key and array element; of a table, that where it is first named. `text` must be TOML.

    >>> key_lines('[a]\\nb = { c = 1 }\\nd.e = [\\n  "x",\\n]')
    {('a',): 1, ('a', 'b'): 2, ('a', 'b', 'c'): 2, ('a', 'd'): 3, ('a', 'd', 'e'): 3, ('a', 'd', 'e', 0): 4}
    """
    return _Scanner(text.replace("\r\n", "\n")).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[Path, int] = {}

    def document(self) -> dict[Path, int]:
        table: Path = ()
        while self._next():
            if self._took("["):
                many = self._took("[")
                table = self._key(())
                self._at += 1 + many
            else:
                self._pair(table)
        return self._lines

    def _pair(self, under: Path) -> None:
        path = self._key(under)
        self._at += 1  # the =
        self._value(path)

    def _key(self, under: Path) -> Path:
        path = under
        while True:
            self._next()
            quoted = self._taken(_QUOTED)
            name = tomllib.loads(f"name = {quoted}")["name"] if quoted else self._taken(_BARE)
            path = (*path, name)
            self._seen(path)
            self._next()
            if not self._took("."):
                return path

    def _value(self, path: Path) -> None:
        self._next()
        if self._took("["):
            at = 0
            while not self._ended("]"):
                self._seen((*path, at))
                self._value((*path, at))
                at += 1
        elif self._took("{"):
            while not self._ended("}"):
                self._pair(path)
        elif not self._taken(_QUOTED):
            self._taken(_BARE_VALUE)

    def _ended(self, bracket: str) -> bool:
        self._next()
        self._took(",")
        self._next()
        return self._took(bracket)

    def _seen(self, path: Path) -> None:
        self._lines.setdefault(path, self._text.count("\n", 0, self._at) + 1)

    def _next(self) -> bool:
        """Pass over blanks and comments; whether anything follows."""
        self._taken(_BLANK)
        return self._at < len(self._text)

    def _took(self, mark: str) -> bool:
        took = self._text.startswith(mark, self._at)
        self._at += len(mark) if took else 0
        return took

    def _taken(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return found[0] if found else ""
