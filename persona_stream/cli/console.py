"""What a person at the terminal sees: results on standard output, everything else on standard error."""

import logging
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

# No emoji: an item may be named `:pill:`.
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def quiet_libraries() -> None:
    """Keep the Kafka client's own log lines off the terminal: commands report what failed in one line."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def utc(epoch_ms: int) -> str:
    """A time as commands print it."""
    return datetime.fromtimestamp(epoch_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def print_table(headings: list[str], rows: list[list[str]], *, right: frozenset[str] = frozenset()) -> None:
    """A table on a terminal; tab-separated lines, headings first, where the output is a file or a pipe."""
    if not out.is_terminal:
        for row in [headings, *rows]:
            # Not through rich, which turns tabs into spaces.
            print("\t".join(row))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table, soft_wrap=False)
