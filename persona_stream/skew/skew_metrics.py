"""Prometheus metrics of the skew check. Base units, `persona_` prefix, never a user or an item as a label."""

from prometheus_client import Counter, Gauge

ROUNDS = Counter("persona_skew_rounds_total", "Rounds of the skew check: done, empty or failed", ("outcome",))
ROWS = Counter("persona_skew_rows_total", "Logged rows of features compared with what the log gives")
DIFFERENCES = Counter(
    "persona_skew_differences_total", "Logged features that are not what the log gives, one a row", ("feature",)
)
SKIPPED = Counter("persona_skew_skipped_total", "Sampled decisions that could not be compared", ("reason",))
TIMESTAMP = Gauge("persona_skew_timestamp_seconds", "When the last round of the skew check ended well")
