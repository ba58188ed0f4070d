"""Prometheus metrics of the mirror. Base units, `persona_` prefix, never a user or an item as a label."""

from prometheus_client import Counter, Gauge

WRITTEN = Counter("persona_mirror_keys_written_total", "Values written to Redis", ("table",))
REFUSED = Counter("persona_mirror_keys_refused_total", "Values not written, since Redis held newer ones", ("table",))
REMOVED = Counter("persona_mirror_keys_removed_total", "Keys removed from Redis that no table has")
PASSES = Counter("persona_mirror_whole_passes_total", "Times that everything was written again")
RETRIES = Counter("persona_mirror_redis_retries_total", "Pipelines that Redis did not take and that were made again")
CONNECTED = Gauge("persona_mirror_redis_connected", "Whether Redis takes writes")
LAG = Gauge("persona_mirror_lag_records", "Changelog records that are not in Redis yet", ("table",))
APPLIED_TIMESTAMP = Gauge(
    "persona_mirror_applied_timestamp_seconds", "Kafka timestamp of the newest changelog record in Redis", ("table",)
)
