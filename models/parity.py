"""The parity gate: a served model must score as the one that was trained, row by row.

A conversion can route rows to other leaves without any error. So real rows with the scores that they had in
training travel inside the model (a probe), and whoever loads it scores them first.
"""

import base64

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from persona_stream.vocabulary.errors import ModelError
from tables.counters import Floats

TOLERANCE = 1e-5
"""Largest difference of two scores, relative to the expected one where that is above 1 in size."""

Scores = NDArray[np.floating]


class _ProbeText(Struct):
    """A probe as JSON: base64 of float32, row-major."""

    features: str
    scores: str


class Probe(Struct, frozen=True):
    """Rows and the scores expected of them: float32 `[n, F]` and float32 `[n]`."""

    features: Floats
    scores: Floats

    def to_text(self) -> str:
        """The probe as a metadata property."""
        columns = (self.features, self.scores)
        texts = (base64.b64encode(np.ascontiguousarray(c, dtype="<f4").tobytes()).decode() for c in columns)
        return msgspec.json.encode(_ProbeText(*texts)).decode()

    @classmethod
    def from_text(cls, text: str, width: int) -> "Probe":
        """Read back what `to_text` wrote of rows of `width` features.

        Raises ModelError where it is not a probe of at least one row.
        """
        try:
            held = msgspec.json.decode(text, type=_ProbeText)
            features = np.frombuffer(base64.b64decode(held.features, validate=True), dtype="<f4")
            scores = np.frombuffer(base64.b64decode(held.scores, validate=True), dtype="<f4")
            probe = cls(features.reshape(-1, width), scores)
        except ValueError as error:
            raise ModelError(f"the model's parity probe can't be read: {error}.", hint="Train it again.") from error
        if len(probe.scores) == 0 or len(probe.scores) != len(probe.features):
            raise ModelError("the model's parity probe holds no rows.", hint="Train it again.")
        return probe


def check_parity(expected: Scores, actual: Scores, *, rows: str) -> float:
    """The largest difference of scores, measured as TOLERANCE is. Raises ModelError, naming the worst row.

    `rows` says in the message which rows were compared.

    >>> check_parity(np.array([0.5, 256.0]), np.array([0.5, 256.0 + 2**-10]), rows="rows of a test") == 2**-18
    True
    """
    difference = np.abs(actual - expected) / np.maximum(1.0, np.abs(expected))
    # NaN compares false with everything: it must fail, not pass.
    broken = ~(difference <= TOLERANCE)
    if broken.any():
        worst = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
        raise ModelError(
            f"the ONNX model differs from the trained one on {int(broken.sum())} of {len(broken)} {rows}; "
            f"the worst, row {worst}, scores {actual[worst]:.7g} instead of {expected[worst]:.7g}.",
            hint="Do not serve it: export it again, and report it if that does not help.",
        )
    return float(difference.max(initial=0.0))
