"""Where lines come from: a file, a gzip file, or standard input, each with what a progress bar needs."""

import asyncio
import gzip
import os
import stat
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from msgspec import Struct

from persona_stream.vocabulary.errors import PersonaError

_READ_BYTES = 1 << 20


class InputError(PersonaError):
    """The file to publish can't be read."""

    code = "bad-input"


class LineFile(Struct, frozen=True):
    """An open file of lines. `position_bytes` and `size_bytes` (0: unknown) count what is on disk."""

    lines: Iterator[bytes]
    size_bytes: int
    position_bytes: Callable[[], int]


@contextmanager
def open_lines(path: Path) -> Iterator[LineFile]:
    """Open `path`, a gzip file if its name ends in .gz. Raises InputError."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from None
    with raw:
        yield _line_file(raw, path)


def is_stream(source: BinaryIO) -> bool:
    """Whether an input is a pipe, whose lines must be published as they come.

    A terminal is none: making it non-blocking would do so for our own output as well.
    """
    mode = os.fstat(source.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def stdin_file() -> LineFile:
    """Standard input redirected from a file (`< FILE`), or a terminal (ends with Ctrl-D)."""
    return _line_file(cast(BinaryIO, sys.stdin.buffer), Path("standard input"))


async def stream_chunks(source: BinaryIO) -> AsyncIterator[list[bytes]]:
    """Lines of a pipe, as many at a time as have arrived: none waits for a chunk to fill."""
    reader = asyncio.StreamReader(limit=_READ_BYTES)
    loop = asyncio.get_running_loop()
    # A duplicate, since the transport closes what it is given.
    own = os.fdopen(os.dup(source.fileno()), "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), own)
    rest = b""
    try:
        while data := await reader.read(_READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if lines:
                yield lines
    finally:
        transport.close()
    if rest:
        yield [rest]


def _line_file(raw: BinaryIO, path: Path) -> LineFile:
    lines = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
    return LineFile(_readable(lines, path), os.fstat(raw.fileno()).st_size, raw.tell)


def _readable(lines: BinaryIO, path: Path) -> Iterator[bytes]:
    try:
        yield from lines
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} can't be read to its end: {error}.") from None
