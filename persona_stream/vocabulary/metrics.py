"""Prometheus metrics of the stream. Base units, `persona_` prefix, never a user or an item as a label."""

from prometheus_client import Counter, Gauge

EVENTS = Counter("persona_events_total", "Records folded, by agent and what became of them", ("agent", "outcome"))
DEAD_LETTERS = Counter("persona_dead_letters_total", "Records that could not be used", ("agent", "reason"))
SLICES = Counter("persona_slices_total", "Slices of partitions applied", ("agent",))
FOLD_SECONDS = Counter("persona_fold_seconds_total", "Time in folds", ("agent",))
WRITE_SECONDS = Counter("persona_write_seconds_total", "Time waiting for Kafka to take a slice's effects", ("agent",))
RECOVERED_RECORDS = Counter("persona_recovered_records_total", "Changelog records read back")
RECOVERY_SECONDS = Counter("persona_recovery_seconds_total", "Time reading changelogs back")
APPLIED_TIMESTAMP = Gauge(
    "persona_applied_timestamp_seconds", "Kafka timestamp of the newest record applied", ("agent", "partition")
)
AUDIT_ROUNDS = Counter("persona_audit_rounds_total", "Background audits: done, skipped or failed", ("outcome",))
AUDIT_KEYS = Counter("persona_audit_keys_total", "Keys audited in the background", ("table",))
AUDIT_DIFFERENCES = Counter(
    "persona_audit_differences_total",
    "Keys that are not what their records make of them",
    ("table",),
)
AUDIT_SECONDS = Counter("persona_audit_seconds_total", "Time in background audits, half of it resting")
AUDIT_TIMESTAMP = Gauge("persona_audit_timestamp_seconds", "When the last background audit was done")
