"""Serving a ranker: an ONNX model that has proved, on loading, that it is the one that was trained.

One thread and no spinning: a call on 100 rows takes 0.1 ms, less than a handover to another thread costs.
"""

import os

import msgspec
import numpy as np

# Read while it is imported: without this, onnxruntime 1.32 begins to report its use to its vendor.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from models.parity import Probe, check_parity
from persona_stream.vocabulary.errors import ModelError
from tables.counters import Floats
from tables.feature_set import FeatureSet

FEATURES_INPUT = "features"
"""Name of the model's only input, float32 `[n, F]`."""
HASH_PROPERTY = "feature_hash"
NAMES_PROPERTY = "feature_names"
PROBE_PROPERTY = "parity_probe"
STRANGERS_PROPERTY = "stranger_lists"
MIN_STRANGERS = 50
"""A ranker that saw so many lists of users who had done nothing before can order for one."""

_RETRAIN = "Train one on today's features: `persona-stream train`."


class Ranker:
    """A loaded model. Raises ModelError where it is none, is of other features, or fails the parity gate.

    Load it in the process that serves it: sessions do not survive a fork.
    """

    def __init__(self, onnx: bytes, feature_set: FeatureSet) -> None:
        self._session = _open(onnx)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        _check_features(self.metadata, feature_set)
        probe = Probe.from_text(self.metadata.get(PROBE_PROPERTY, ""), feature_set.width)
        self.parity = check_parity(probe.scores, self._run(probe.features), rows="probe rows")
        """The largest relative difference of scores found by the gate."""

    @property
    def knows_strangers(self) -> bool:
        """Whether it learned enough of users whom nothing was known of."""
        told = self.metadata.get(STRANGERS_PROPERTY, "")
        return told.isdigit() and int(told) >= MIN_STRANGERS

    def score(self, features: Floats) -> Floats:
        """Scores of rows, float32 `[n, F]` to float32 `[n]`; higher is better, comparable within one list
        only."""
        if len(features) == 0:
            return np.zeros(0, dtype=np.float32)
        return self._run(features)

    def _run(self, features: Floats) -> Floats:
        try:
            scores: Floats = self._session.run(None, {FEATURES_INPUT: features})[0]
        except _ONNX_ERRORS as error:
            raise ModelError(f"the model can't score {features.shape} features: {error}", hint=_RETRAIN) from error
        return scores.reshape(len(features), -1)[:, 0]


def trained_features(onnx: bytes) -> tuple[str, tuple[str, ...]]:
    """The hash and the names of the features that a model was trained on, whether or not it may be served.

    Raises ModelError where it names none.
    """
    metadata = _open(onnx).get_modelmeta().custom_metadata_map
    return metadata.get(HASH_PROPERTY, ""), _feature_names(metadata)


def _onnx_errors() -> tuple[type[Exception], ...]:
    # They share no base of their own below Exception.
    raised = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    return (ValueError, *(e for e in raised if isinstance(e, type) and issubclass(e, Exception)))


_ONNX_ERRORS = _onnx_errors()


def _open(onnx: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # What goes wrong is raised; the library's own lines on standard error would only repeat it.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except _ONNX_ERRORS as error:
        raise ModelError(f"{len(onnx)} bytes are no ONNX model that can be served: {error}", hint=_RETRAIN) from error


def _check_features(metadata: dict[str, str], feature_set: FeatureSet) -> None:
    trained_on = metadata.get(HASH_PROPERTY, "none")
    if trained_on != feature_set.hash:
        raise ModelError(
            f"the model was trained on features {trained_on}, these are {feature_set.hash}.", hint=_RETRAIN
        )
    if _feature_names(metadata) != feature_set.names:
        raise ModelError("the model names other features, or in another order.", hint=_RETRAIN)


def _feature_names(metadata: dict[str, str]) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(metadata.get(NAMES_PROPERTY, ""), type=tuple[str, ...])
    except msgspec.DecodeError as error:
        raise ModelError(f"the model does not name its features: {error}.", hint=_RETRAIN) from error
