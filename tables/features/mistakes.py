"""What is wrong with a catalogue, told with its line and key, and with what would be right."""

import difflib
import re
import tomllib
from collections.abc import Iterable

import msgspec

from persona_stream.vocabulary.errors import ConfigError
from tables.features.kind import Declarable
from tables.features.parameters import parameters
from tables.features.toml_lines import Path, key_lines

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_STEP = re.compile(r"\[(?P<index>\d+)\]|(?P<key>[^.\[\]]+)")
_NAME = re.compile(r"`(\w+)`")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`")
_TOML_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|(?P<end>end of document))\)$")


class Source:
    """The text of a catalogue, and what it is called."""

    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where

    def error(self, path: Path, message: str, *, hint: str = "") -> ConfigError:
        """A mistake at a key; its line is that of the nearest key above where it is not written."""
        lines = key_lines(self._text)
        line = next((lines[path[:depth]] for depth in range(len(path), 0, -1) if path[:depth] in lines), 0)
        return ConfigError(f"{self._place(line)}, `{_dotted(path)}`: {message}", hint=hint)

    def no_toml(self, error: tomllib.TOMLDecodeError) -> ConfigError:
        """A text that is no TOML."""
        told = str(error)
        place = _TOML_PLACE.search(told)
        line = (int(place["line"]) if place["line"] else len(self._text.splitlines())) if place else 0
        return ConfigError(
            f"{self._place(line)}: {_TOML_PLACE.sub('', told)}.", hint="Features are declared in TOML, each once."
        )

    def bad_parameter(self, error: msgspec.ValidationError, path: Path, kind: type[Declarable]) -> ConfigError:
        """A declaration that is not what its kind takes."""
        said = _AT.sub("", str(error)).rstrip(".")
        known = {one.name: one for one in parameters(kind)}
        takes = f"`{kind.kind}` takes {', '.join(known)}."
        if unknown := _UNKNOWN.search(said):
            return self.error((*path, unknown["name"]), f"{said}.", hint=f"{guess(unknown['name'], known)}{takes}")
        missing = _MISSING.search(said)
        if at := (missing["name"],) if missing else _steps(str(error)):
            # What a pattern stands for is told in words.
            wrong = "the text is not of the right form" if "matching regex" in said else said
            return self.error((*path, *at), f"{wrong}.", hint=f"`{at[0]}` is {known[str(at[0])].type}.")
        # A kind's own refusal names the parameters that it is about.
        named = next((name for name in _NAME.findall(said) if name in known), None)
        return self.error((*path, named) if named else path, f"{said}.", hint=takes)

    def _place(self, line: int) -> str:
        return f"{self._where} line {line}" if line else self._where


def guess(wrong: str, known: Iterable[str]) -> str:
    """The nearest of what is known, as a question; empty where nothing is near.

    >>> guess("agee", ["age", "rate"]), guess("zzz", ["age"])
    ('Did you mean "age"? ', '')
    """
    near = difflib.get_close_matches(wrong, known, n=1)
    return f'Did you mean "{near[0]}"? ' if near else ""


def _steps(message: str) -> Path:
    at = _AT.search(message)
    found = _STEP.finditer(at["path"]) if at else ()
    return tuple(int(step["index"]) if step["index"] else step["key"] for step in found)


def _dotted(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
