"""Runs one command that must not outlive the process that asked for it.

`python guard.py PARENT_PID LOCK_FD COMMAND...` starts the command, prints its process id, and ends it when

- standard input reaches its end: the parent holds the other end of that pipe and the kernel closes it
  however the parent dies, SIGKILL included, on every Unix;
- the parent is no longer our parent: covers a pipe that a forked child of the parent still holds open;
- a SIGTERM, SIGINT or SIGHUP comes.

Should the guard itself be killed, Linux kills the command too (`PR_SET_PDEATHSIG`, which follows the
*thread* that forked: this process has one). The parent could not use that alone: it has threads, it does not
always run on Linux, and Kafka should get a SIGTERM first so that it closes its logs.

The command keeps LOCK_FD open, so the lock of the data folder is held exactly as long as something uses it.
Only the standard library, nothing of ours: the interpreter starts it with `-I -S` in 40 ms.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

GRACE_S = 15.0
"""How long the command may take to end after SIGTERM before it gets SIGKILL."""

_PARENT_CHECK_S = 1.0
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run the command to its end; returns its exit code, 128 + N when signal N ended it."""
    parent_pid, lock_fd, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    wakeup_fd = _wake_on_signals()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        pass_fds=(lock_fd,),
        preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509  # no other thread could hold a lock at the fork
    )
    print(child.pid, flush=True)
    sys.stdout.close()
    while child.poll() is None:
        if _should_stop(parent_pid, wakeup_fd):
            _stop(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wake_on_signals() -> int:
    """A descriptor that becomes readable, with the signal's number, when a child ends or we are asked to."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd)
    for number in (*_STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return read_fd


def _should_stop(parent_pid: int, wakeup_fd: int) -> bool:
    readable, _, _ = select.select([sys.stdin, wakeup_fd], [], [], _PARENT_CHECK_S)
    if sys.stdin in readable or os.getppid() != parent_pid:
        return True
    return wakeup_fd in readable and not _STOP_SIGNALS.isdisjoint(os.read(wakeup_fd, 64))


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _die_with(guard_pid: int) -> Callable[[], None] | None:
    """What the forked child runs before it becomes the command: it has the kernel tie it to this process."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The guard may have died between the fork and the line above: then no signal will ever come.
        if os.getppid() != guard_pid:
            os._exit(1)

    return tie


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
