"""What a replica holds of a value is, as bytes, what an audit makes of the changelog's value."""

import pytest
from support.agents import LOGS, SPECS
from support.logs import slices
from support.runs import run

from persona_stream.serving.replica import Replica
from persona_stream.serving.served import SERVED, ReplicaHoldings
from persona_stream.vocabulary.config import Settings


@pytest.mark.parametrize("table", SERVED)
def test_held_and_projected_are_the_same_bytes(table: str) -> None:
    spec = SPECS[table]
    changelog = run(spec.fold, spec.codec, slices(LOGS[table](3), [7, 20])).state
    replica = Replica(Settings(namespace="t", partitions=1))
    (holding,) = [held for held in ReplicaHoldings(lambda: replica).all() if held.table == table]
    for key in changelog:
        replica.tables[table].apply(key, changelog.encoded(key))
    assert sorted(holding.keys()) == sorted(changelog)
    for key in changelog:
        raw = changelog.encoded(key)
        assert raw is not None
        assert holding.encoded(key) == SERVED[table].project(raw)
    assert holding.encoded("nobody") is None

    gone = next(iter(changelog))
    replica.tables[table].apply(gone, None)
    assert len(list(holding.keys())) == len(holding) == len(changelog) - 1
    assert holding.encoded(gone) is None


def test_a_replica_that_does_not_follow_stands_nowhere() -> None:
    replica = Replica(Settings(namespace="t", partitions=1))
    assert {held.stand() is None for held in ReplicaHoldings(lambda: replica).all()} == {True}
