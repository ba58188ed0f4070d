"""Which state an answer was made on: how far each table was folded in what the replica held."""

from persona_stream.serving.replica import Replica, TableView
from persona_stream.vocabulary.messages import Positions
from persona_stream.vocabulary.topics import FIRST_GENERATION

# The learner's value tells by itself how far it is.
_BY_OFFSET = ("users", "items", "catalogue", "profiles")


class PositionsNow:
    """The replica's positions, collected anew only when it has read something: every answer asks for them."""

    def __init__(self, replica: Replica, partitions: int) -> None:
        self._replica = replica
        self._partitions = partitions
        self._collected: Positions | None = None
        self._version = (-1, False)

    def __call__(self) -> Positions:
        """Positions as of now; never changed once given."""
        version = (self._replica.changes_applied, self._replica.has_caught_up)
        if self._collected is None or version != self._version:
            self._collected, self._version = self._collect(), version
        return self._collected

    def _collect(self) -> Positions:
        tables = self._replica.tables
        whole = self._replica.has_caught_up
        held = {name: self._offsets(tables[name]) for name in _BY_OFFSET}
        generations = {
            table: number for table, number in self._replica.generations.items() if number != FIRST_GENERATION
        }
        unsettled = [
            f"{name}/{partition}"
            for name in held
            for partition in range(self._partitions)
            if not whole or partition in tables[name].unsettled
        ]
        return Positions(
            users=held["users"],
            items=held["items"],
            catalogue=held["catalogue"],
            profiles=held["profiles"],
            generations=generations,
            unsettled=unsettled,
        )

    def _offsets(self, view: TableView) -> list[int]:
        progress = view.progress
        return [progress[p].offset if p in progress else -1 for p in range(self._partitions)]
