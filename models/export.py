"""LightGBM to ONNX, exactly.

LightGBM compares in float64, an ONNX tree ensemble in float32. The converter rounds each threshold to the
*nearest* float32; where that lies above it, rows between the two go left instead of right, and no error says
so. A float32 value is at or below a threshold if, and only if, it is at or below the largest float32 that is:
so thresholds are floored to float32 before the conversion, which then has nothing left to round.
"""

import lightgbm
import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from models.parity import Probe, check_parity
from models.ranker import FEATURES_INPUT, HASH_PROPERTY, NAMES_PROPERTY, PROBE_PROPERTY, Ranker
from persona_stream.vocabulary.errors import ModelError
from tables.counters import Floats
from tables.feature_set import FeatureSet

PROBE_ROWS = 64
"""Rows of the training data that travel with the model: 9 KB."""

# The newest that onnxmltools 1.16 converts to; ONNX Runtime runs every older one.
_TARGET_OPSET = 15
# LightGBM's `decision_type` is a bit field; bits 2 and 3: what is missing, 0 none, 1 zero, 2 NaN.
_MISSING_SHIFT, _MISSING_MASK, _ZERO_IS_MISSING = 2, 3, 1


def export_onnx(booster: lightgbm.Booster, rows: Floats, metadata: dict[str, str], feature_set: FeatureSet) -> bytes:
    """A model as ONNX bytes that `models.ranker.Ranker` accepts.

    `rows`, float32 `[n, F]`, are real training rows: all of them must score alike in both engines, and
    PROBE_ROWS of them, spread evenly, go with the model. Raises ModelError where they don't, where there are
    none, and for a booster trained with `zero_as_missing` or on other columns than the features'.
    """
    width = feature_set.width
    if booster.num_feature() != width or rows.shape[1:] != (width,) or len(rows) == 0:
        raise ModelError(
            f"{width} features and at least one row are needed; "
            f"the model has {booster.num_feature()}, the rows are {rows.shape}.",
            hint="Train on the features that it is to be served with.",
        )
    floored = floor_thresholds(booster)
    model = convert_lightgbm(
        floored,
        initial_types=[(FEATURES_INPUT, FloatTensorType([None, width]))],
        target_opset=_TARGET_OPSET,
        # Otherwise a random one: the same training must give the same bytes.
        name="ranker",
    )
    expected = np.asarray(booster.predict(rows), dtype=np.float64)
    picked = np.unique(np.linspace(0, len(rows) - 1, PROBE_ROWS).astype(np.int64))
    properties = metadata | {
        HASH_PROPERTY: feature_set.hash,
        NAMES_PROPERTY: msgspec.json.encode(feature_set.names).decode(),
        PROBE_PROPERTY: Probe(rows[picked], expected[picked].astype(np.float32)).to_text(),
    }
    onnx.helper.set_model_props(model, properties)
    exported: bytes = model.SerializeToString()
    check_parity(expected, Ranker(exported, feature_set).score(rows), rows="training rows")
    return exported


def floor_thresholds(booster: lightgbm.Booster) -> lightgbm.Booster:
    """The same model with each split threshold at the largest float32 at or below it.

    On float32 rows it predicts exactly what `booster` does. Raises ModelError for `zero_as_missing`.
    """
    lines: list[str] = []
    for line in booster.model_to_string().split("\n"):
        name, _, values = line.partition("=")
        if name == "decision_type":
            _refuse_zero_as_missing(values)
        # The sizes are those of the trees' text as it was; without them the text is read from start to end.
        if name != "tree_sizes":
            lines.append(f"{name}={_floored(values)}" if name == "threshold" else line)
    return lightgbm.Booster(model_str="\n".join(lines))


def floor_to_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 at or below each value.

    >>> floor_to_float32(np.array([0.1, 1700000064.0, 1700000100.0])).astype(np.float64).tolist()
    [0.09999999403953552, 1700000000.0, 1700000000.0]
    """
    nearest = values.astype(np.float32)
    below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest.astype(np.float64) > values, below, nearest)


def _floored(values: str) -> str:
    thresholds = floor_to_float32(np.array(values.split(), dtype=np.float64)).astype(np.float64)
    return " ".join(map(repr, thresholds.tolist()))


def _refuse_zero_as_missing(decision_types: str) -> None:
    for decision_type in map(int, decision_types.split()):
        if decision_type >> _MISSING_SHIFT & _MISSING_MASK == _ZERO_IS_MISSING:
            raise ModelError(
                "the model takes zeros for missing values, which ONNX trees can't express.",
                hint="Train with zero_as_missing=False.",
            )
