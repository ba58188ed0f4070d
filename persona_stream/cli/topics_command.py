"""`persona-stream topics`: what the system needs of the cluster, and what the cluster has."""

import asyncio

from persona_stream.cli.cluster import TopicState, create_topics, topic_states
from persona_stream.cli.console import err, print_table, quiet_libraries
from persona_stream.cli.running import connected
from persona_stream.vocabulary.config import Settings


def run_topics(settings: Settings, *, create: bool) -> int:
    """Print a row a topic; returns 1 where one is missing or has other partitions than configured."""
    quiet_libraries()
    states = asyncio.run(_states(connected(settings), create=create))
    rows = [
        [s.name, str(s.partitions or "-"), f"{s.end_offsets:,}" if s.partitions else "-", problem(s)] for s in states
    ]
    print_table(["topic", "partitions", "end offsets", ""], rows, right=frozenset({"partitions", "end offsets"}))
    if any(not state.partitions for state in states):
        err.print("`persona-stream topics --create` creates what is missing.")
    return 1 if any(problem(state) for state in states) else 0


def problem(state: TopicState) -> str:
    """What is wrong with a topic; empty where nothing is."""
    if not state.partitions:
        return "missing"
    if state.partitions != state.configured_partitions:
        return f"{state.configured_partitions} partitions are configured"
    return ""


async def _states(settings: Settings, *, create: bool) -> list[TopicState]:
    if create:
        await create_topics(settings)
    return await topic_states(settings)
