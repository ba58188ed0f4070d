"""A real worker or server in whose memory values go wrong: ``python -m support.flipping worker|server TABLE/KEY ...``.

At SIGUSR1 one bit of each key's value is flipped where the process holds it, as a bad memory cell would; it says so on
standard error, and goes on.
"""

import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import faust

from persona_stream.serving import server
from persona_stream.serving.replica import Replica
from persona_stream.serving.state import ServerState
from persona_stream.stream.partition import Codec, Partition
from persona_stream.stream.stored_partition import StoredPartition
from persona_stream.vocabulary.config import Settings
from persona_stream.worker import run
from persona_stream.worker.app import WorkerApp
from tables import catalogue, users

FLIPPED = "flipped as told"


def flip(codec: Codec[Any], raw: bytes) -> bytes:
    """The bytes with one bit flipped that is part of the value, and leaves it a value."""
    for at in reversed(range(len(raw))):
        wrong = bytearray(raw)
        wrong[at] ^= 1
        try:
            if codec.encode(codec.decode(bytes(wrong))) == wrong:
                return bytes(wrong)
        except ValueError:
            continue
    raise AssertionError("no bit of it can be flipped")


def flip_in_partition(codec: Codec[Any], part: Partition[Any], key: str) -> None:
    """As the partition holds it: on disk, an object once it was used, or bytes before."""
    wrong = flip(codec, part.encoded(key) or b"")
    if isinstance(part, StoredPartition):
        part._values.pop(key, None)
        part._store.write({key.encode(): wrong}, part._store.mark)
        return
    part._values[key] = wrong if isinstance(part._values[key], bytes) else codec.decode(wrong)


def flip_in_worker(app: WorkerApp, name: str, key: str) -> None:
    """Wherever the key is."""
    table: Any = app.tables[name]
    (part,) = [part for part in table.store.partitions.values() if key in part]
    flip_in_partition(table.codec, part, key)


def flip_in_replica(replica: Replica, table: str, key: str) -> None:
    """Users as bytes, items by the cell, the catalogue as objects."""
    if table == "users":
        replica.users[key] = flip(users.codec, replica.users[key])
    elif table == "items":
        replica.items._panes[replica.items._rows[key], -1, -1] ^= 1
    else:
        wrong = flip(catalogue.codec, catalogue.codec.encode(replica.catalogue[key]))
        replica.catalogue[key] = catalogue.codec.decode(wrong)


class _ToldServerState(ServerState):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # Another replica may take its place meanwhile.
        _when_told(lambda table, key: flip_in_replica(self.replica, table, key))


def _told_app(*args: Any) -> faust.App:
    app = build_app(*args)
    _when_told(partial(flip_in_worker, app))
    return app


def _when_told(flip_key: Callable[[str, str], None]) -> None:
    def handle(*_: object) -> None:
        for planted in sys.argv[2:]:
            table, _, key = planted.partition("/")
            flip_key(table, key)
        print(FLIPPED, file=sys.stderr, flush=True)

    signal.signal(signal.SIGUSR1, handle)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        build_app = run.build_app
        run.build_app = _told_app  # type: ignore[assignment]  # the fault is put in
        run.run_worker(Settings.load())
    server.ServerState = _ToldServerState  # type: ignore[misc]  # the fault is put in
    server.run_server(Settings.load())
