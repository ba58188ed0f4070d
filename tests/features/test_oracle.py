"""Every kind of feature beside a plain oracle over the same raw events, which uses nothing of `tables`."""

import numpy as np
import pytest
from declared import PARAMS, Features, of_kind
from drawn import Drawn, fold_in_slices, made_question, records, seeds, sizes, system_of
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import expected, oracle_of
from world import Asked, World

from persona_stream.in_process import InProcess
from tables.features.catalogue import kinds

QUESTIONS = 3


def test_every_kind_has_an_oracle_and_parameters_to_try() -> None:
    assert set(PARAMS) == set(kinds())
    for kind in kinds():
        oracle_of(kind)


@pytest.mark.parametrize("kind", sorted(PARAMS))
@settings(deadline=None, max_examples=25)
@given(st.data(), seeds, sizes)
def test_features_are_what_the_oracle_says(kind: str, data: st.DataObject, seed: int, count: int) -> None:
    features = data.draw(of_kind(kind), label="features")
    drawn = Drawn(seed, count)
    system = system_of(features)
    fold_in_slices(system, records(drawn.events), drawn.rng)
    drawn.tell_what_is_known(system)
    world = drawn.world()
    for _ in range(QUESTIONS):
        asked = made_question(drawn.rng, drawn.events)
        check(system, world, asked, features)


def check(system: InProcess, world: World, asked: Asked, features: Features) -> None:
    """Ask the system and the oracle."""
    ordered = asked.places[0] >= 0
    told = system.ask(asked.user, asked.items, asked.as_of_ms, ordered=ordered, context=asked.context, slot=asked.slot)
    names = system.engine.plan.features.names
    for at, (kind, params) in enumerate(features):
        found = [told.features[:, column] for column, name in enumerate(names) if _is_of(name, f"f{at}")]
        np.testing.assert_allclose(
            np.array(found, dtype=np.float64),
            np.array(expected(world, asked, kind, params)),
            rtol=1e-6,
            atol=1e-6,
            equal_nan=True,
            err_msg=f"{kind} {params} {asked}",
        )


def _is_of(column: str, feature: str) -> bool:
    return column.split("=")[0].split("#")[0] == feature
