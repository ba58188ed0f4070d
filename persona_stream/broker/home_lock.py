"""One broker a data folder: a file lock that tells who holds it."""

import fcntl
import os
import time
from pathlib import Path

from persona_stream.broker.guard import GRACE_S
from persona_stream.vocabulary.errors import BrokerStartError

_POLL_S = 0.05


class HomeLock:
    """The lock of one broker's folder, as an `flock` on the file `lock` in it.

    The kernel drops it with the last descriptor, so a crash leaves nothing stale. The broker's process keeps
    a copy of `fd`: while it still writes its logs, nobody else can open them.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock; waits for a broker whose owner is gone and that is shutting down.

        Raises `BrokerStartError` naming the process that holds it.
        """
        self._path = folder / "lock"
        self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._acquire()
            self.note_owner()
        except BaseException:
            self.close()
            raise

    def note_owner(self, broker_pid: int = 0) -> None:
        """Write down, for whoever finds the lock taken, this process and the broker's."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()} {broker_pid}\n".encode(), 0)

    def close(self) -> None:
        """Give up this process's hold."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _acquire(self) -> None:
        deadline_s = time.monotonic() + GRACE_S + 5
        while not self._try_acquire():
            owner_pid, broker_pid = self._holders()
            if _is_running(owner_pid):
                raise BrokerStartError(
                    f"{self._path.parent} is in use by process {owner_pid}.",
                    hint="Stop that process, or set PERSONA_HOME to another folder.",
                )
            if time.monotonic() > deadline_s:
                raise BrokerStartError(
                    f"{self._path.parent} is still in use by process {broker_pid}, whose owner ended.",
                    hint=f"End it with: kill -9 {broker_pid}",
                )
            time.sleep(_POLL_S)

    def _try_acquire(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _holders(self) -> tuple[int, int]:
        owner_pid, broker_pid = (os.pread(self.fd, 64, 0).decode() or "0 0").split()
        return int(owner_pid), int(broker_pid)


def _is_running(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
