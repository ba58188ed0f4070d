"""aiokafka's connections on uvloop: a broken one says so in the way that aiokafka knows.

On a connection that the broker has reset, uvloop's `write` raises RuntimeError where asyncio's raises nothing, or
OSError. aiokafka (0.14, its issue 1038) does not expect it: the task that follows the cluster's metadata dies of it
without a word, and from then on whoever waits for a new leader waits without end.
"""

from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_send = AIOKafkaConnection.send


def _send_or_close(self: AIOKafkaConnection, request: object, expect_response: bool = True) -> Any:
    try:
        return _send(self, request, expect_response)
    except RuntimeError as error:
        self.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"the connection to {self.host}:{self.port} is broken: {error}") from error


def mend_connections() -> None:
    """Make every connection of this process tell that it is broken, on any event loop."""
    AIOKafkaConnection.send = _send_or_close
