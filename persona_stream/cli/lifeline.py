"""A supervised process ends with its supervisor, however that ends: Ctrl-C, SIGTERM or SIGKILL.

The supervisor holds the writing end of the child's standard input, and the kernel closes it when the
supervisor dies. On Linux the kernel also sends SIGKILL by itself (`PR_SET_PDEATHSIG`, prctl(2)), which
reaches a child that is stopped or busy in C code; state survives that by design, so nothing is gained by a
slower end.
"""

import ctypes
import os
import select
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0


def tie_to_supervisor() -> None:
    """Make this process end when its supervisor does; call it first thing, before the rest is imported."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The supervisor may have died before the line above: then no signal will ever come.
        if _is_at_end(sys.stdin.fileno()):
            os._exit(1)
    threading.Thread(target=_end_with_stdin, name="lifeline", daemon=True).start()


def _is_at_end(fd: int) -> bool:
    readable, _, _ = select.select([fd], [], [], 0)
    return bool(readable) and os.read(fd, 1) == b""


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    threading.Timer(_GRACE_S, os.kill, (os.getpid(), signal.SIGKILL)).start()
    os.kill(os.getpid(), signal.SIGTERM)
