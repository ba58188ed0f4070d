"""Why a broker did not come up, read from what it left in its logs."""

import re
import shutil
import signal
from pathlib import Path

from persona_stream.vocabulary.errors import BrokerStartError

_TAIL_LINES = 15
_PORT_TAKEN = re.compile("Address already in use|Failed to bind")
_FIRST_ERROR = re.compile("ERROR|FATAL|^Error|^Exception")
_STACK_FRAME = re.compile(r"\s+at |\s+\.\.\. \d+ more")
_DEFAULT_HINT = "The log says more."
_NO_SPACE_HINT = "The disk is full: free some space and start again."
_LEAST_FREE_BYTES = 32 << 20
_HINTS = {
    re.compile("No space left on device"): _NO_SPACE_HINT,
    re.compile("OutOfMemoryError|ould not reserve|annot allocate memory|nsufficient memory|maximum heap"): (
        "Java did not get the memory it needs (about 250 MB): end other programs, or allow it more."
    ),
    re.compile("AccessDenied|Permission denied|Read-only file system"): (
        "Make the folder writable for this user, or set PERSONA_HOME to one that is."
    ),
    re.compile("orrupt|meta.properties|Error while reading|LogDirNotFound|nconsistent|nvalid magic"): (
        "The data folder looks damaged: restore it from a copy, or move it away to begin with an empty log."
    ),
}


class StartLogs:
    """What one start adds to the logs of a broker's folder; earlier starts are left out."""

    def __init__(self, folder: Path, *logs: Path) -> None:
        """Remember how long each log is now."""
        self._folder = folder
        self._offsets = {path: _size_bytes(path) for path in logs}

    def says_port_taken(self) -> bool:
        """Whether it failed because another process took its port first."""
        return bool(_PORT_TAKEN.search(self._text()))

    def error(self, what: str) -> BrokerStartError:
        """The error that says `what` happened, shows the telling lines of the logs and what to do."""
        text = self._text()
        places = f"Folder: {self._folder}\nLogs: {', '.join(map(str, self._offsets))}"
        message = f"{what}\n{places}\n{_telling_lines(text)}\n"
        return BrokerStartError(message, hint=self._hint(text))

    def _hint(self, text: str) -> str:
        # Looked up, because on a full disk the log could not be written either.
        if shutil.disk_usage(self._folder).free < _LEAST_FREE_BYTES:
            return _NO_SPACE_HINT
        return next((hint for pattern, hint in _HINTS.items() if pattern.search(text)), _DEFAULT_HINT)

    def _text(self) -> str:
        return "".join(_read_from(path, offset) for path, offset in self._offsets.items())


def exit_reason(code: int) -> str:
    """An exit code as people say it: `exit code 1`, `signal SIGKILL`."""
    number = -code if code < 0 else code - 128
    return f"signal {signal.Signals(number).name}" if number in set(signal.Signals) else f"exit code {code}"


def _telling_lines(text: str) -> str:
    """From the first error on, else the last lines: what follows the first error is mostly its echo."""
    lines = [line for line in text.splitlines() if not _STACK_FRAME.match(line)]
    errors = (number for number, line in enumerate(lines) if _FIRST_ERROR.search(line))
    start = next(errors, max(0, len(lines) - _TAIL_LINES))
    return "\n".join(f"  | {line}" for line in lines[start : start + _TAIL_LINES])


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_from(path: Path, offset: int) -> str:
    size_bytes = _size_bytes(path)
    if not size_bytes:
        return ""
    with path.open("rb") as file:
        # A log shorter than it was has been rolled over: all of it is new.
        file.seek(offset if size_bytes >= offset else 0)
        return file.read().decode(errors="replace")
