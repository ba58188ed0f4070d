"""Free ports on the loopback interface."""

import socket
from contextlib import ExitStack


def free_ports(wished: int) -> tuple[int, int]:
    """Two free ports, the first being `wished` when nothing listens there; both picked anew otherwise.

    Another process may still take one before Kafka does; then Kafka fails to bind and is started again.
    """
    with ExitStack() as held:
        try:
            first = held.enter_context(_bound(wished))
        except OSError:
            first = held.enter_context(_bound(0))
        second = held.enter_context(_bound(0))
        return first.getsockname()[1], second.getsockname()[1]


def _bound(port: int) -> socket.socket:
    probe = socket.socket()
    # As Kafka does: a port in TIME_WAIT after a restart counts as free.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        probe.close()
        raise
    return probe
