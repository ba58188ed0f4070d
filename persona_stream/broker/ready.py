"""Ask a Kafka broker who it is, in its own protocol and nothing more than a socket."""

import socket
import struct

_METADATA_KEY, _METADATA_VERSION = 3, 2
_TIMEOUT_S = 5.0


def cluster_id_at(port: int) -> str | None:
    """The cluster id that the broker on 127.0.0.1:`port` reports, or None while it is not ready.

    Ready means that it answers a Metadata request (v2, no topics) and lists itself among the live brokers.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as connection:
            connection.sendall(_request())
            (size,) = struct.unpack(">i", _receive(connection, 4))
            return _cluster_id(_receive(connection, size))
    except OSError:
        return None


def _request() -> bytes:
    correlation_id, no_client_id, no_topics = 1, -1, 0
    body = struct.pack(">hhihi", _METADATA_KEY, _METADATA_VERSION, correlation_id, no_client_id, no_topics)
    return struct.pack(">i", len(body)) + body


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionResetError("the broker closed the connection in mid-answer")
        data += chunk
    return bytes(data)


def _cluster_id(answer: bytes) -> str | None:
    """Read the answer up to the cluster id: correlation id, brokers (node, host, port, rack), cluster id."""
    brokers, at = _int32(answer, 4), 8
    for _ in range(brokers):
        _, at = _string(answer, at + 4)
        _, at = _string(answer, at + 4)
    cluster_id, _ = _string(answer, at)
    return cluster_id if brokers else None


def _int32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big", signed=True)


def _string(data: bytes, at: int) -> tuple[str | None, int]:
    """A nullable string and the position after it; a length of -1 means null."""
    length = int.from_bytes(data[at : at + 2], "big", signed=True)
    start = at + 2
    return (None, start) if length < 0 else (data[start : start + length].decode(), start + length)
