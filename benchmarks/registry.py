"""Who takes part, and how much of the log each gets."""

import importlib.util
from collections.abc import Mapping

import msgspec

from benchmarks.workloads import Workload


class Contender(msgspec.Struct, frozen=True):
    """One row of the table: ``benchmarks.<module>``, shown as ``label``.

    ``max_events`` bounds a workload for engines so slow that the whole log would take many minutes; they read
    a shorter log of the same distribution, and the table says so.
    """

    name: str
    label: str
    module: str
    max_events: Mapping[Workload, int] = {}

    def events(self, workload: Workload, events: int) -> int:
        """How many events this contender gets of a log of ``events``."""
        return min(events, self.max_events.get(workload, events))

    @property
    def exists(self) -> bool:
        """Is the module there?"""
        return importlib.util.find_spec(f"benchmarks.{self.module}") is not None


OURS = "ours"

CONTENDERS = (
    Contender(OURS, "persona-stream", "ours_persona"),
    Contender("faust", "plain Faust", "faust_plain", {"w1": 20_000, "w2": 5_000, "w3a": 20_000, "w3b": 20_000}),
    Contender("quix", "Quix Streams", "quix_streams", {"w2": 100_000}),
    Contender("bytewax", "Bytewax", "bytewax_flow"),
    Contender("ceiling", "ceiling: aiokafka", "aiokafka_ceiling"),
)
