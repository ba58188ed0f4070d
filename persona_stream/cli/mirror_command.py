"""`persona-stream mirror --rebuild`: Redis written again from the tables, and what no table has removed."""

import asyncio

from persona_stream.cli.cluster import reachable
from persona_stream.cli.console import out
from persona_stream.cli.progress_bar import progress_bar
from persona_stream.cli.running import connected
from persona_stream.mirror.mirror import Rewritten
from persona_stream.mirror.run import rebuild
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.logs import configure_logging


def run_rebuild(settings: Settings) -> int:
    """Write everything and print how much that was. Raises ConfigError, MirrorError and KafkaUnavailableError."""
    # What Redis refuses meanwhile is said on standard error.
    configure_logging(settings)
    done = asyncio.run(_rebuild(connected(settings)))
    out.print(f"wrote {done.keys:,} values, removed {done.removed:,} keys that no table has.")
    return 0


async def _rebuild(settings: Settings) -> Rewritten:
    with progress_bar("changelog records") as on_progress:
        async with reachable(settings):
            return await rebuild(settings, on_progress)
