"""Files of text, gzipped or not, with how far the reading is."""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from msgspec import Struct

from persona_stream.vocabulary.errors import PersonaError


class InputError(PersonaError):
    """A file that was named can't be read or written."""

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
        yield line_file(raw, path)


def line_file(raw: BinaryIO, path: Path) -> LineFile:
    """The lines of an open file, named `path`. Reading them raises InputError."""
    lines = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
    return LineFile(_readable(lines, path), os.fstat(raw.fileno()).st_size, raw.tell)


def _readable(lines: BinaryIO, path: Path) -> Iterator[bytes]:
    try:
        yield from lines
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} can't be read to its end: {error}.") from None
