"""A feature set says where each feature stands."""

import pytest

from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ConfigError
from tables.feature_set import FeatureSet
from tables.features.plan import feature_set

FEATURES = FeatureSet(names=("age", "price"), edges=((0.5,), (1.0, 2.0)), hash="ab")


def test_a_features_place_is_found_by_its_name() -> None:
    assert FEATURES.width == 2
    assert [FEATURES.index(name) for name in FEATURES.names] == [0, 1]
    assert (FEATURES.get("price"), FEATURES.get("colour")) == (1, None)


def test_a_feature_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"there is no feature colour; there are: age, price\."):
        FEATURES.index("colour")


def test_equal_sets_are_one_key() -> None:
    again = FeatureSet(names=("age", "price"), edges=((0.5,), (1.0, 2.0)), hash="ab")
    wider = FeatureSet(names=("age", "price"), edges=((0.5,), (1.0, 3.0)), hash="ab")
    assert len({FEATURES, again}) == 1
    assert len({FEATURES, wider}) == 2


def test_a_system_has_edges_for_each_of_its_features() -> None:
    features = feature_set(Settings())
    assert features.width == len(features.names) == len(features.edges)
    assert len(set(features.names)) == features.width
    assert features.hash
