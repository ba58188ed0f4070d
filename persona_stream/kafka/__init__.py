"""Kafka by the batch: one writer, one partitioner, one place that creates topics."""

from persona_stream.kafka.connections import mend_connections

# Whatever talks to Kafka imports this package first, Faust's consumer too.
mend_connections()
