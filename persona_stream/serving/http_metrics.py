"""Prometheus metrics of the server. Base units, `persona_` prefix, never a user or an item as a label."""

from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from persona_stream.serving.state import ServerState

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

REQUEST_SECONDS = Histogram(
    "persona_http_request_duration_seconds",
    "From a request's arrival to its answer",
    ("route",),
    buckets=_BUCKETS_S,
)
RESPONSES = Counter("persona_http_responses_total", "Answers by route and status", ("route", "status"))
FALLBACKS = Counter("persona_fallbacks_total", "Answers plainer than they could be, by reason", ("route", "reason"))
EVENTS = Counter("persona_http_events_total", "Events posted: accepted, or why not", ("outcome",))


_BY_TABLE = (
    ("persona_replica_lag_events", "Source records not in the replica yet", "lag_events", 1.0),
    ("persona_replica_changelog_lag_records", "Changelog records not read yet", "changelog_lag", 1.0),
    ("persona_replica_keys", "Keys held", "keys", 1.0),
    ("persona_replica_generation", "The generation that answers are made from", "generation", 1.0),
    (
        "persona_replica_applied_timestamp_seconds",
        "Kafka timestamp of the newest source record held",
        "applied_ms",
        1e-3,
    ),
)


class ReplicaMetrics(Collector):
    """Freshness of one server's replica, read when it is asked for."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """Gauges by table, and totals."""
        state = self._state
        fresh = state.engine.freshness()
        for name, text, field, unit in _BY_TABLE:
            family = GaugeMetricFamily(name, text, labels=["table"])
            for table, held in fresh.tables.items():
                family.add_metric([table], getattr(held, field) * unit)
            yield family
        yield GaugeMetricFamily("persona_state_age_seconds", "How old an answer's state is", fresh.state_age_ms / 1000)
        yield GaugeMetricFamily("persona_ready", "Whether the replica has caught up", float(fresh.ready))
        yield GaugeMetricFamily("persona_kafka_connected", "Whether events can be taken", float(state.link.writable))
        dropped = "Decisions not logged, since Kafka was away for too long"
        yield CounterMetricFamily("persona_decisions_dropped", dropped, state.decisions.dropped)


class Exposition:
    """The text of `/metrics`: the process's metrics and one server's replica."""

    def __init__(self, state: ServerState) -> None:
        # A registry of its own: two servers in one process must not report each other's replica.
        self._replica = CollectorRegistry()
        self._replica.register(ReplicaMetrics(state))

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(REGISTRY) + generate_latest(self._replica)
