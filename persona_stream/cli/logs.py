"""The log files of supervised processes: their tails, and the warnings in them as they are written."""

import json
from pathlib import Path

_KEEP_BYTES = 10 * 1024 * 1024
_TAIL_BYTES = 64 * 1024
_LOUD_LEVELS = frozenset({"warning", "error", "critical", "exception"})


def rolled(path: Path) -> Path:
    """`path`, ready to be appended to: its folder exists, and a file beyond 10 MiB was moved to `NAME.1`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _KEEP_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return path


def tail(path: Path, lines: int = 15) -> str:
    """The last `lines` lines of a log, indented; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            found = file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return "\n".join(f"  | {line}" for line in found)


class LogFollower:
    """Reads what was added to a log since the last call and keeps what an operator should see."""

    def __init__(self, path: Path) -> None:
        """Follow `path`, which need not exist yet, from its present end."""
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def new_warnings(self) -> list[str]:
        """Warnings and errors logged since the last call, one line each."""
        try:
            # Shorter than it was: it was rolled, and all of it is new.
            self._offset = self._offset if self._path.stat().st_size >= self._offset else 0
            with self._path.open("rb") as file:
                file.seek(self._offset)
                added = file.read()
        except OSError:
            return []
        self._offset += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        return [text for line in lines if (text := loud(line.decode(errors="replace")))]


def loud(line: str) -> str | None:
    """A log line as shown on the terminal if it is a warning or worse, else None.

    >>> loud('{"level": "warning", "event": "slow", "lag_events": 7}')
    'slow lag_events=7'
    >>> loud('{"level": "info", "event": "started"}') is None
    True
    """
    try:
        entry = json.loads(line)
    except ValueError:
        # Not ours: the last line of a traceback, or an interpreter that could not even start.
        return line if _is_exception(line) else None
    if not isinstance(entry, dict) or str(entry.get("level", "")).lower() not in _LOUD_LEVELS:
        return None
    details = " ".join(
        f"{key}={value}"
        for key, value in entry.items()
        if key not in {"level", "event", "timestamp", "logger", "exception"}
    )
    return f"{entry.get('event', '')} {details}".rstrip()


def _is_exception(line: str) -> bool:
    name, colon, _ = line.partition(": ")
    return bool(colon) and name.replace(".", "").isidentifier() and name.endswith(("Error", "Exception"))
