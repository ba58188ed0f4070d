"""The parent's side of `guard.py`: a process that ends when this one does."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from persona_stream.broker import guard

# They would change what our own command line says, or print into the log.
_FOREIGN_JAVA_SETTINGS = ("CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")


class GuardedProcess:
    """A running command, tied to this process by a pipe."""

    def __init__(self, command: Sequence[str], *, cwd: Path, console: Path, lock_fd: int) -> None:
        """Start it. `console` receives what it prints; `lock_fd` stays open as long as it lives."""
        arguments = [str(os.getpid()), str(lock_fd), *command]
        with console.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=cwd,
                env=_environment(),
                pass_fds=(lock_fd,),
                # Ctrl-C in the terminal is for the parent, which then decides in what order things stop.
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as report:
            self.pid = int(report.readline() or 0)
        """Process id of the command; 0 when it could not be started at all."""

    def wait(self, timeout_s: float) -> int | None:
        """The exit code (128 + N after signal N), or None when it still runs after `timeout_s`."""
        try:
            return self._guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._guard.poll() is None

    def stop(self) -> None:
        """End it in good order, by force after the guard's grace period; returns when it is gone."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        # A forked child of ours may hold the pipe open as well: do not count on its end alone.
        self._guard.terminate()
        self._guard.wait()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN_JAVA_SETTINGS}
    # Java can open a path with an umlaut only under a UTF-8 locale, whatever the user's is.
    return kept | {"LC_ALL": "C.UTF-8"}
