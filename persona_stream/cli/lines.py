"""Where lines come from beside files: standard input, as a file or as a pipe."""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, cast

from persona_stream.history.text_files import LineFile, line_file

_READ_BYTES = 1 << 20


def is_stream(source: BinaryIO) -> bool:
    """Whether an input is a pipe, whose lines must be published as they come.

    A terminal is none: making it non-blocking would do so for our own output as well.
    """
    mode = os.fstat(source.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def stdin_file() -> LineFile:
    """Standard input redirected from a file (`< FILE`), or a terminal (ends with Ctrl-D)."""
    return line_file(cast(BinaryIO, sys.stdin.buffer), Path("standard input"))


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
