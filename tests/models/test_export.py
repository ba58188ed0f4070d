"""A model that is served scores as the one that was trained, or it is not served."""

import lightgbm
import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from models.export import PROBE_ROWS, export_onnx, floor_thresholds, floor_to_float32
from models.parity import Probe, check_parity
from models.ranker import HASH_PROPERTY, NAMES_PROPERTY, PROBE_PROPERTY, Ranker
from models.train import TrainedRanker
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import ModelError
from tables.features.plan import feature_set

FEATURES = feature_set(Settings())
WIDTH = FEATURES.width
PLAIN = {"objective": "regression", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1}

Rows = NDArray[np.float32]


def _epoch_seconds() -> tuple[Rows, NDArray[np.float64]]:
    """A feature so large that neighbouring float32 values are 128 apart, and half-way thresholds round either
    way."""
    random = np.random.default_rng(3)
    rows = random.normal(size=(2000, WIDTH)).astype(np.float32)
    rows[:, 0] = (1.7e9 + 128 * random.integers(0, 60, 2000)).astype(np.float32)
    return rows, (rows[:, 0].astype(np.float64) / 128 % 2) * 5 + rows[:, 1]


def _booster(rows: Rows, target: NDArray[np.float64], **parameters: object) -> lightgbm.Booster:
    return lightgbm.train({**PLAIN, **parameters}, lightgbm.Dataset(rows, target), num_boost_round=20)


def test_without_flooring_rows_go_to_other_leaves_and_with_it_none_does() -> None:
    rows, target = _epoch_seconds()
    booster = _booster(rows, target)
    expected = np.asarray(booster.predict(rows))

    naive = convert_lightgbm(booster, initial_types=[("features", FloatTensorType([None, WIDTH]))])
    session = onnxruntime.InferenceSession(naive.SerializeToString())
    with pytest.raises(ModelError, match=r"differs from the trained one on \d+ of 2000 rows; the worst, row \d+"):
        check_parity(expected, session.run(None, {"features": rows})[0][:, 0], rows="rows")

    ranker = Ranker(export_onnx(booster, rows, {}, FEATURES), FEATURES)
    assert check_parity(expected, ranker.score(rows), rows="rows") < 1e-5


def test_flooring_changes_no_prediction_of_lightgbm() -> None:
    rows, target = _epoch_seconds()
    booster = _booster(rows, target)
    np.testing.assert_array_equal(floor_thresholds(booster).predict(rows), booster.predict(rows))


def test_floored_is_the_largest_float32_at_or_below() -> None:
    random = np.random.default_rng(1)
    values = np.concatenate([random.normal(size=2000) * 10.0 ** random.integers(-40, 38, 2000), [0.0, -0.0, 1e-45]])
    floored = floor_to_float32(values)
    assert (floored.astype(np.float64) <= values).all()
    assert (np.nextafter(floored, np.float32(np.inf)).astype(np.float64) > values).all()


def test_missing_values_take_the_same_way() -> None:
    rows, target = _epoch_seconds()
    rows[np.random.default_rng(5).random(rows.shape) < 0.2] = np.nan
    booster = _booster(rows, np.nan_to_num(target))
    ranker = Ranker(export_onnx(booster, rows, {}, FEATURES), FEATURES)
    check_parity(np.asarray(booster.predict(rows)), ranker.score(rows), rows="rows with missing values")


def test_zero_as_missing_is_refused() -> None:
    rows, target = _epoch_seconds()
    rows[::3, 1] = 0.0
    booster = _booster(rows, target, zero_as_missing=True)
    with pytest.raises(ModelError, match="zero_as_missing=False"):
        export_onnx(booster, rows, {}, FEATURES)


def test_a_model_of_other_columns_is_refused() -> None:
    rows, target = _epoch_seconds()
    booster = _booster(rows[:, :5], target)
    with pytest.raises(ModelError, match="the model has 5"):
        export_onnx(booster, rows, {}, FEATURES)


def test_the_metadata_travels(trained: TrainedRanker) -> None:
    metadata = Ranker(trained.onnx, FEATURES).metadata
    assert metadata[HASH_PROPERTY] == FEATURES.hash
    assert msgspec.json.decode(metadata[NAMES_PROPERTY]) == list(FEATURES.names)
    assert metadata | trained.metadata == metadata
    assert len(Probe.from_text(metadata[PROBE_PROPERTY], WIDTH).scores) == PROBE_ROWS


def _tampered(trained: TrainedRanker, properties: dict[str, str | None]) -> bytes:
    model = onnx.load_from_string(trained.onnx)
    held = {p.key: p.value for p in model.metadata_props} | properties
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: value for key, value in held.items() if value is not None})
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({HASH_PROPERTY: "0123456789abcdef"}, "trained on features 0123456789abcdef"),
        ({HASH_PROPERTY: None}, "trained on features none"),
        ({NAMES_PROPERTY: msgspec.json.encode(FEATURES.names[::-1]).decode()}, "in another order"),
        ({NAMES_PROPERTY: None}, "does not name its features"),
        ({PROBE_PROPERTY: None}, "probe can't be read"),
        ({PROBE_PROPERTY: '{"features": "!", "scores": ""}'}, "probe can't be read"),
        ({PROBE_PROPERTY: '{"features": "", "scores": ""}'}, "holds no rows"),
    ],
)
def test_a_model_without_its_papers_is_refused(
    trained: TrainedRanker, properties: dict[str, str | None], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        Ranker(_tampered(trained, properties), FEATURES)


def test_a_model_that_scores_otherwise_is_refused_on_loading(trained: TrainedRanker) -> None:
    model = onnx.load_from_string(trained.onnx)
    trees = next(node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
    leaves = next(attribute for attribute in trees.attribute if attribute.name == "target_weights")
    leaves.floats[:] = [weight * 1.01 for weight in leaves.floats]
    with pytest.raises(ModelError, match=r"of 64 probe rows; the worst, row \d+, scores"):
        Ranker(model.SerializeToString(), FEATURES)


@pytest.mark.parametrize("raw", [b"", b"no model", b"\x08\x04"])
def test_what_is_no_model_is_refused(raw: bytes) -> None:
    with pytest.raises(ModelError, match=f"^{len(raw)} bytes are no ONNX model"):
        Ranker(raw, FEATURES)


def test_lists_of_any_length_are_scored_alike(trained: TrainedRanker) -> None:
    ranker = Ranker(trained.onnx, FEATURES)
    rows = Probe.from_text(ranker.metadata[PROBE_PROPERTY], WIDTH).features
    together = ranker.score(rows)
    assert together.dtype == np.float32
    assert ranker.score(rows[:0]).shape == (0,)
    np.testing.assert_allclose([ranker.score(rows[i : i + 1])[0] for i in range(len(rows))], together, atol=1e-5)


def test_rows_of_another_width_are_refused(trained: TrainedRanker) -> None:
    with pytest.raises(ModelError, match=r"can't score \(2, 3\) features"):
        Ranker(trained.onnx, FEATURES).score(np.zeros((2, 3), dtype=np.float32))


def test_a_score_that_is_no_number_fails_the_gate() -> None:
    with pytest.raises(ModelError, match="the worst, row 1, scores nan"):
        check_parity(np.array([1.0, 2.0]), np.array([1.0, np.nan]), rows="rows")
